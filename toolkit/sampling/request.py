"""The checked settings of a call of `generate`. Light: it imports no torch, so errors come at once."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, get_args

from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import SCENE_TAG, TAG, tag
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file
from toolkit.core.progress import say
from toolkit.lora.loading import LoraReference
from toolkit.lora.settings import TOKENS
from toolkit.lora.special_tokens import TOKEN
from toolkit.models.interfaces import ModelSpec
from toolkit.sampling.settings import Collaboration, Masked, Sampler, Sampling


class Numbers(NamedTuple):
    """Settings whose default is the model's, filled in."""

    steps: int
    guidance_scale: float
    shift: float
    num_frames: int
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, height, width."""
        return self.num_frames, self.height, self.width


@dataclass(frozen=True)
class Request:
    """Settings of sampling for all videos of a call, checked, with the model's defaults filled in.

    Attributes:
        sampling: Without None for any of `Numbers`.
        words: Noun of each subject, for the motion branch or for masked.layout base.
        collaboration: Settings of the samplers scs and scs-lite.
        masked: Settings of masked fusions.
    """

    sampling: Sampling
    words: Mapping[str, str]
    collaboration: Collaboration
    masked: Masked

    @property
    def numbers(self) -> Numbers:
        """Steps, guidance_scale, shift and size."""
        values = [getattr(self.sampling, name) for name in Numbers._fields]
        assert None not in values
        return Numbers(*values)

    def facts(self) -> dict[str, Any]:
        """The request's entries in a video's JSON file."""
        names = ("negative_prompt", *Numbers._fields)
        return {name: getattr(self.sampling, name) for name in names}

    def collaboration_facts(self) -> dict[str, Any]:
        """The entries of collaborative sampling and of a motion clip in a video's JSON file."""
        facts: dict[str, Any] = {}
        clip = self.sampling.motion_clip
        if self.sampling.sampler != "euler":
            facts = {"sampler": self.sampling.sampler, "collaboration": asdict(self.collaboration)}
        if clip is not None:
            share = self.collaboration.inversion
            fingerprint = fingerprint_file(clip)
            facts["motion_clip"] = {"path": clip.as_posix(), "fingerprint": fingerprint, "share": share}
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
    """Fill in the model's defaults and check everything that needs no network.

    Raises:
        CastmixError: a number out of range, a missing clip, or a sampler without the LoRAs that it needs.
    """
    if sampling.sampler not in get_args(Sampler):
        raise CastmixError(f"no sampler {sampling.sampler!r}: use {', '.join(get_args(Sampler))}")
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
    for name in Numbers._fields:
        value = getattr(sampling, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise CastmixError(f"{name} must be a number, got {value!r}")
    for name in ("steps", "shift"):
        value = getattr(sampling, name)
        if value is not None and not value > 0:
            raise CastmixError(f"{name} must be above 0, got {value:g}")
    if sampling.guidance_scale is not None and not math.isfinite(sampling.guidance_scale):
        raise CastmixError(f"guidance_scale must be finite, got {sampling.guidance_scale}")
    defaults = {name: getattr(spec, name) for name in Numbers._fields if getattr(sampling, name) is None}
    return replace(sampling, **defaults)


def _check_branches(sampling: Sampling, masked: Masked, references: Sequence[LoraReference]) -> None:
    sampler = sampling.sampler
    if masked.layout == "base":
        raise CastmixError(
            f"--masked.layout base needs --sampler euler: with {sampler} the motion branch decides the layout"
        )
    roles = {reference.role for reference in references}
    if missing := [f"--{role}" for role in ("subject", "motion") if role not in roles]:
        raise CastmixError(
            f"--sampler {sampler} needs a LoRA for each branch, and there is no {' and no '.join(missing)}"
        )
    if sampling.num_frames is not None and sampling.num_frames < 5:
        raise CastmixError(f"--sampler {sampler} needs num_frames 5 or more, got {sampling.num_frames}")


def check_batch(request: Request, prompts: int, batch_size: int) -> None:
    """Check the batch size and the number of motion prompts against the number of prompts.

    Raises:
        CastmixError: either does not fit.
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
    """Parse ``NAME=NOUN``, or ``NOUN`` for a subject that is named by its noun, to nouns by subject.

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
    """Print notes about misspelt tags, unknown special tokens, and missing or unknown characters.

    metadata: Of the LoRA files. It names the characters and special tokens that they know.
    """
    rest = [SCENE_TAG.sub("", TAG.sub("", prompt)) for prompt in prompts]
    if broken := sorted({word for text in rest for word in text.split() if "[" in word}):
        tags = "[Character: <name>] and [scene-style:<style>]"
        say(f"note: {broken[0]!r} is not the start of a tag; tags are {tags}")
    tokens = {token for entries in metadata for token in json.loads(entries.get(TOKENS, "{}"))}
    if missing := sorted({token for prompt in prompts for token in TOKEN.findall(prompt)} - tokens):
        there = f"they have {', '.join(sorted(tokens))}" if tokens else "they have none"
        say(f"note: no LoRA has the special token {missing[0]} ({there}): it is read as ordinary text")
    known = {name for entries in metadata for name in json.loads(entries.get("castmix.cast", "[]"))}
    if not known:
        return
    notes: dict[str, list[str]] = {}
    for prompt in prompts:
        tagged = set(TAG.findall(prompt))
        if unknown := tagged - known:
            notes.setdefault(f"names {', '.join(sorted(unknown))}", []).append(prompt)
        elif not tagged:
            notes.setdefault("has no [Character: <name>]", []).append(prompt)
    for what, [first, *others] in notes.items():
        hint = ""
        with contextlib.suppress(CastmixError):
            hint = f"; did you mean {tag(first, read_cast())!r}?" if not TAG.search(first) else ""
        more = f" (and {len(others)} more like it)" if others else ""
        say(f"note: {first[:60]!r} {what}{more}, the LoRAs know {', '.join(sorted(known))}{hint}")
