"""What a call of `generate` asks for. Light: the command line reads it without torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import SCENE_TAG, TAG, tag
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file
from toolkit.core.progress import say
from toolkit.lora.special_tokens import METADATA, TOKEN
from toolkit.sampling.settings import Collaboration, Masked

if TYPE_CHECKING:
    pass


Sampler = Literal["euler", "scs", "scs-lite"]


@dataclass(frozen=True)
class Settings:
    """How all videos of a call are made; see `toolkit.generate`."""

    negative_prompt: str
    steps: int
    guidance_scale: float
    shift: float
    num_frames: int
    height: int
    width: int
    batch_size: int


@dataclass(frozen=True)
class Together:
    """How subjects and motion come together; see `toolkit.generate`."""

    sampler: Sampler
    motion_prompts: tuple[str, ...]
    motion_clip: Path | None
    words: Mapping[str, str]
    collaboration: Collaboration
    masked: Masked

    def facts(self) -> dict[str, Any]:
        """What a video says of it; nothing where nothing is asked for."""
        clip = self.motion_clip
        knobs = {} if self.sampler == "euler" else {"collaboration": asdict(self.collaboration)}
        if clip is not None:
            share = self.collaboration.inversion
            knobs["motion_clip"] = {
                "path": clip.as_posix(),
                "fingerprint": fingerprint_file(clip),
                "share": share,
            }
        return ({} if self.sampler == "euler" else {"sampler": self.sampler}) | knobs


def parse_words(words: Sequence[str]) -> dict[str, str]:
    """``NAME=NOUN`` or ``NOUN`` to what the subject branch and the motion branch call a subject.

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
    """Raise a CastmixError where the settings make no sense."""
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


def hint(prompts: Sequence[str], metadata: Sequence[Mapping[str, str]]) -> None:
    """Say where a prompt has a misspelt tag, names nobody, or names somebody whom the LoRAs do not know.

    It is made all the same.
    """
    rest = [SCENE_TAG.sub("", TAG.sub("", prompt)) for prompt in prompts]
    if broken := sorted({word for text in rest for word in text.split() if "[" in word}):
        tags = "[Character: <name>] and [scene-style:<style>]"
        say(f"note: {broken[0]!r} begins no tag: there are {tags}")
    brought = {token for one in metadata for token in json.loads(one.get(METADATA, "{}"))}
    if lost := sorted({token for prompt in prompts for token in TOKEN.findall(prompt)} - brought):
        there = f"they bring {', '.join(sorted(brought))}" if brought else "they bring none"
        say(f"note: {lost[0]} is a special token of none of the LoRAs ({there}): it is read as it is spelt")
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
