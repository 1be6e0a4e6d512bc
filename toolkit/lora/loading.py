"""The LoRAs that a call is given and what each is for. Light: the command line reads it without torch."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file
from toolkit.models.interfaces import Denoiser

if TYPE_CHECKING:
    from toolkit.lora.file import Lora

Role = Literal["lora", "subject", "motion"]
"""What it serves: everything, or one branch of collaborative sampling."""


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


def new_members(given: Sequence[Given], loras: Sequence[Lora]) -> list[Member]:
    """The adapters that the LoRAs become, named after their files; a masked fusion becomes its parts.

    A LoRA of special tokens alone changes no layer and becomes none.
    """
    from toolkit.lora.parts import unfused

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
    from toolkit.lora.layers import attach

    for one in members:
        attach(denoiser.module, one.lora, one.name, base)
