"""The LoRAs that a call is given and what each is for. Light: the command line reads it without torch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolkit.captions import SCENE_TAG, TAG, tag
from toolkit.cast import read_cast
from toolkit.data import fingerprint_file
from toolkit.errors import CastmixError
from toolkit.fusion.knobs import Masked
from toolkit.models import Denoiser
from toolkit.progress import say
from toolkit.settings import Collaboration
from toolkit.tokens import METADATA, TOKEN

if TYPE_CHECKING:
    from toolkit.lora import Lora

Role = Literal["lora", "subject", "motion"]
"""What it serves: everything, or one branch of collaborative sampling."""

Sampler = Literal["euler", "scs", "scs-lite"]


@dataclass(frozen=True)
class Given:
    """A LoRA file with its weight and role."""

    role: Role
    path: Path
    weight: float

    def facts(self) -> dict[str, Any]:
        """What a video says of it."""
        role = {} if self.role == "lora" else {"role": self.role}
        return {
            "path": self.path.as_posix(),
            "weight": self.weight,
            "fingerprint": fingerprint_file(self.path),
            **role,
        }


@dataclass(frozen=True)
class Member:
    """An adapter of the network. One with `subjects`, phrases that name them, acts only where they are."""

    role: Role
    name: str
    weight: float
    lora: Lora
    subjects: tuple[str, ...] = ()


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


def read_given(**texts: Sequence[str] | str | Path | None) -> list[Given]:
    """The LoRAs of each role, as options name them: ``read_given(lora=["run:0.8"], motion="run/wave")``."""
    given = []
    for role, named in texts.items():
        several = [named] if isinstance(named, (str, Path)) else named or []
        for one in several:
            path, weight = parse_lora(one, role)
            given.append(Given(role, path, weight))  # type: ignore[arg-type]
    return given


def parse_lora(text: str | Path, option: str = "lora") -> tuple[Path, float]:
    """``path:weight`` or ``path`` to the file and its weight. Only a number after the last colon is a weight.

    option: That it was given to, for messages; "" where it is no option's.

    Raises:
        CastmixError: there is no such file.
    """
    said = f"--{option} {text}" if option else str(text)
    head, colon, tail = str(text).rpartition(":")
    path, weight = Path(text), 1.0
    if colon and head and not path.exists():
        with contextlib.suppress(ValueError):  # a colon of the path itself, as in C:\\runs\\a.safetensors
            weight = float(tail)
            path = Path(head)
    if not math.isfinite(weight):
        raise CastmixError(f"{said}: the weight must be a finite number, got {tail}")
    path = path / "lora.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise CastmixError(f"{said}: no file {path}; expected PATH or PATH:WEIGHT, such as run/a:0.8")
    return path, weight


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


def new_members(given: Sequence[Given], loras: Sequence[Lora]) -> list[Member]:
    """The adapters that the LoRAs become, named after their files; a masked fusion becomes its parts.

    A LoRA of special tokens alone changes no layer and becomes none.
    """
    from toolkit.fusion.parts import unfused

    members: list[Member] = []
    for one, lora in zip(given, loras, strict=True):
        stem = one.path.parent.name if one.path.name == "lora.safetensors" else one.path.stem
        parts = unfused(lora) if lora.tensors else []
        wanted: list[tuple[str, Lora, tuple[str, ...]]]
        if parts is None:
            wanted = [(stem, lora, ())]
        else:  # each part says nothing of its base, the file does
            wanted = [
                (part.name, dataclasses.replace(part.lora, metadata=lora.metadata), part.subjects)
                for part in parts
            ]
        for name, own, subjects in wanted:
            name = name.replace(".", "_") or "lora"
            while any(name == other.name for other in members):
                name += "_"
            members.append(Member(one.role, name, one.weight, own, subjects))
    return members


def attach_members(denoiser: Denoiser, members: Sequence[Member], base: str) -> None:
    """Put them all into the network, where none takes effect yet. base: the network's fingerprint."""
    from toolkit.adapters import attach

    for one in members:
        attach(denoiser.module, one.lora, one.name, base)


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
