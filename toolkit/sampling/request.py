"""What a call of `generate` asks for, checked before anything is loaded. Light: it imports no torch."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import SCENE_TAG, TAG, tag
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file
from toolkit.core.progress import say
from toolkit.lora.loading import LoraReference
from toolkit.lora.settings import TOKENS
from toolkit.lora.special_tokens import TOKEN
from toolkit.models.interfaces import ModelSpec
from toolkit.sampling.settings import Collaboration, Masked, Sampling

OWN = ("steps", "guidance_scale", "shift", "num_frames", "height", "width")
"""Settings whose default is the model's."""


@dataclass(frozen=True)
class Request:
    """Settings of sampling that hold for all videos of a call, checked, with the model's own filled in.

    Attributes:
        sampling: No None among `OWN`.
        words: What the motion branch, or the base model of masked.layout base, calls each subject.
        collaboration: Of samplers scs and scs-lite.
        masked: Of masked fusions.
    """

    sampling: Sampling
    words: Mapping[str, str]
    collaboration: Collaboration
    masked: Masked

    @property
    def number(self) -> tuple[int, float, float, int, int, int]:
        """`OWN` as numbers: steps, guidance_scale, shift, num_frames, height, width."""
        one = self.sampling
        values = (one.steps, one.guidance_scale, one.shift, one.num_frames, one.height, one.width)
        assert None not in values
        return values  # type: ignore[return-value]

    def facts(self) -> dict[str, Any]:
        """What a video's JSON file says of it."""
        names = ("negative_prompt", *OWN)
        return {name: getattr(self.sampling, name) for name in names}

    def collaboration_facts(self) -> dict[str, Any]:
        """What a video's JSON file says of collaborative sampling and of a motion clip."""
        facts: dict[str, Any] = {}
        clip = self.sampling.motion_clip
        if self.sampling.sampler != "euler":
            facts = {"sampler": self.sampling.sampler, "collaboration": asdict(self.collaboration)}
        if clip is not None:
            share = self.collaboration.inversion
            about = {"path": clip.as_posix(), "fingerprint": fingerprint_file(clip), "share": share}
            facts["motion_clip"] = about
        return facts


def new_request(
    spec: ModelSpec,
    references: Sequence[LoraReference],
    *,
    sampling: Sampling = Sampling(),
    words: Sequence[str] = (),
    collaboration: Collaboration = Collaboration(),
    masked: Masked = Masked(),
) -> Request:
    """Fill in the model's settings and check everything that needs no network.

    Raises:
        CastmixError: a number out of range, a missing clip, or a sampler without the LoRAs that it needs.
    """
    sampling = _filled_in(sampling, spec)
    check_collaboration(collaboration)
    if sampling.motion_clip is not None and not sampling.motion_clip.is_file():
        raise CastmixError(f"--motion-clip {sampling.motion_clip}: no such file")
    if masked.layout not in ("sum", "base"):
        raise CastmixError(f"masked.layout must be sum or base, got {masked.layout!r}")
    if sampling.sampler == "euler":
        if sampling.motion_prompt:
            raise CastmixError(
                "--motion-prompt is for the motion branch, and --sampler euler has none: use --sampler scs"
            )
    else:
        _check_branches(sampling, masked, references)
    return Request(sampling, parse_words(words), collaboration, masked)


def _filled_in(sampling: Sampling, spec: ModelSpec) -> Sampling:
    for name in ("steps", "shift"):
        value = getattr(sampling, name)
        if value is not None and not value > 0:
            raise CastmixError(f"{name} must be above 0, got {value:g}")
    if sampling.guidance_scale is not None and not math.isfinite(sampling.guidance_scale):
        raise CastmixError(f"guidance_scale must be finite, got {sampling.guidance_scale}")
    own = {name: getattr(spec, name) for name in OWN if getattr(sampling, name) is None}
    return replace(sampling, **own)


def _check_branches(sampling: Sampling, masked: Masked, references: Sequence[LoraReference]) -> None:
    sampler = sampling.sampler
    if masked.layout == "base":
        raise CastmixError(
            f"--masked.layout base needs --sampler euler: with {sampler} the motion branch decides it"
        )
    roles = {one.role for one in references}
    if absent := [f"--{role}" for role in ("subject", "motion") if role not in roles]:
        raise CastmixError(
            f"--sampler {sampler} needs a LoRA for each branch: {' and '.join(absent)} is missing"
        )
    if sampling.num_frames is not None and sampling.num_frames < 5:
        raise CastmixError(f"--sampler {sampler} needs num_frames 5 or more, got {sampling.num_frames}")


def check_batch(request: Request, prompts: int, batch_size: int) -> None:
    """Refuse a batch size, or a number of motion prompts, that does not fit the number of prompts.

    Raises:
        CastmixError: one does not fit.
    """
    if batch_size < 1:
        raise CastmixError(f"batch_size must be above 0, got {batch_size}")
    if request.sampling.sampler == "scs" and batch_size > 1:
        raise CastmixError(
            f"--sampler scs reads the maps of one prompt at a time: batch_size must be 1, got {batch_size}"
        )
    given = len(request.sampling.motion_prompt)
    if given not in (0, 1, prompts):
        raise CastmixError(
            f"--motion-prompt was given {given} times for {prompts} prompts: give one, or one for each"
        )


def parse_words(words: Sequence[str]) -> dict[str, str]:
    """``NAME=NOUN`` or ``NOUN`` to the noun of each subject.

    Raises:
        CastmixError: a side is empty, or a name has two nouns.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, noun = (part.strip() for part in word.partition("="))
        noun = noun if equals else name
        if not name or not noun or found.setdefault(name, noun) != noun:
            raise CastmixError(f"--words {word}: expected NAME=NOUN once for each name, such as Mimi=bear")
    return found


def check_collaboration(settings: Collaboration) -> None:
    """Refuse settings that are out of range.

    Raises:
        CastmixError: names the setting, its value and its range.
    """
    low, high = settings.sigma_window
    problems = {
        f"sigma_window must be two rising noise levels in [0, 1], got {low:g},{high:g}": 0 <= low < high <= 1,
        f"every must be 1 or more, got {settings.every}": settings.every >= 1,
        f"eta must be 0 or more (try 0.02), got {settings.eta:g}": 0 <= settings.eta < float("inf"),
        f"alpha must be 0 or more, got {settings.alpha}": settings.alpha is None or settings.alpha >= 0,
        f"inversion is a share in [0, 1], got {settings.inversion:g}": 0 <= settings.inversion <= 1,
        f"iterations must be 1 or more, got {settings.iterations}": settings.iterations >= 1,
        f"window must be 0 or more, got {settings.window}": settings.window >= 0,
    }
    betas = list(zip(settings.beta_subject, settings.beta_motion, strict=True))
    problems[
        f"beta_subject {settings.beta_subject} and beta_motion {settings.beta_motion} must not be "
        "negative, nor both 0 at one end: their ratio is the branches' shares"
    ] = all(min(pair) >= 0 and sum(pair) > 0 for pair in betas)
    for problem, fine in problems.items():
        if not fine:
            raise CastmixError(f"collaboration: {problem}")


def note_prompts(prompts: Sequence[str], metadata: Sequence[Mapping[str, str]]) -> None:
    """Print a note for each prompt with a misspelt tag, without a character, or with an unknown character.

    metadata: Of the LoRA files, which say what characters and special tokens they know.
    """
    rest = [SCENE_TAG.sub("", TAG.sub("", prompt)) for prompt in prompts]
    if broken := sorted({word for text in rest for word in text.split() if "[" in word}):
        tags = "[Character: <name>] and [scene-style:<style>]"
        say(f"note: {broken[0]!r} begins no tag: there are {tags}")
    brought = {token for one in metadata for token in json.loads(one.get(TOKENS, "{}"))}
    if lost := sorted({token for prompt in prompts for token in TOKEN.findall(prompt)} - brought):
        there = f"they have {', '.join(sorted(brought))}" if brought else "they have none"
        say(f"note: no LoRA has the special token {lost[0]} ({there}): it is read as ordinary text")
    known = {name for one in metadata for name in json.loads(one.get("castmix.cast", "[]"))}
    if not known:
        return
    notes: dict[str, list[str]] = {}
    for prompt in prompts:
        tagged = set(TAG.findall(prompt))
        if strange := tagged - known:
            notes.setdefault(f"names {', '.join(sorted(strange))}", []).append(prompt)
        elif not tagged:
            notes.setdefault("has no [Character: <name>]", []).append(prompt)
    for what, [first, *others] in notes.items():
        meant = ""
        with contextlib.suppress(CastmixError):
            meant = f"; did you mean {tag(first, read_cast())!r}?" if not TAG.search(first) else ""
        more = f" (and {len(others)} more like it)" if others else ""
        say(f"note: {first[:60]!r} {what}{more}, the LoRAs know {', '.join(sorted(known))}{meant}")
