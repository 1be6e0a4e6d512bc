"""The one way from LoRA references, such as ``runs/mine:0.8``, to a network that has these LoRAs.

`read_references` checks paths and weights (without torch), `load_loras` reads the files, and `LoraSet.attach`
puts them into a network. A masked fusion is attached part by part. So `generate`, `attention-maps` and
previews see the same weights.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file
from toolkit.lora.settings import LORA_FILE, Role, lora_file

if TYPE_CHECKING:
    from toolkit.lora.file import Lora
    from toolkit.lora.parts import Part
    from toolkit.models.interfaces import Denoiser


@dataclass(frozen=True)
class LoraReference:
    """A LoRA file with its role and weight, as an option names it."""

    role: Role
    path: Path
    weight: float

    @property
    def stem(self) -> str:
        """A name for its adapter: of the run's folder, or of the file."""
        return self.path.parent.name if self.path.name == LORA_FILE else self.path.stem

    def facts(self) -> dict[str, Any]:
        """What a video's JSON file says of it."""
        role = {} if self.role == "lora" else {"role": self.role}
        return {
            "path": self.path.as_posix(),
            "weight": self.weight,
            "fingerprint": fingerprint_file(self.path),
            **role,
        }


@dataclass(frozen=True)
class LoraSet:
    """LoRAs that are used together: references, files as read, and the adapters that they become."""

    references: tuple[LoraReference, ...] = ()
    files: tuple[Lora, ...] = ()
    parts: tuple[Part, ...] = ()

    @property
    def confined(self) -> list[str]:
        """Adapters that act only where their subjects are: the parts of masked fusions."""
        return [part.name for part in self.parts if part.subjects]

    def of_role(self, role: Role) -> list[Part]:
        """The parts that a branch uses: those of its role, and those of role "lora"."""
        return [part for part in self.parts if part.role in ("lora", role)]

    def attach(self, denoiser: Denoiser, base: str) -> None:
        """Put all adapters into the network; none takes effect until it is activated.

        base: The network's fingerprint. A LoRA that was trained on another base gets a warning.

        Raises:
            CastmixError: a LoRA does not fit. Then none of them is attached.
        """
        from toolkit.lora.layers import attach, detach

        done: list[str] = []
        try:
            for part in self.parts:
                attach(denoiser.module, part.lora, part.name, base)
                done.append(part.name)
        except CastmixError:
            for name in done:
                detach(denoiser.module, name)
            raise

    def detach(self, denoiser: Denoiser) -> None:
        """Take all adapters out again: the network's layers are those that it had before."""
        from toolkit.lora.layers import detach

        for part in self.parts:
            detach(denoiser.module, part.name)


def read_references(**given: Sequence[str | Path] | str | Path | None) -> list[LoraReference]:
    """LoRA references by role: ``read_references(lora=["run:0.8"], motion="run/wave")``.

    Raises:
        CastmixError: there is no such file, or a weight is not finite.
    """
    references = []
    for role, texts in given.items():
        assert role in get_args(Role)
        for text in [texts] if isinstance(texts, (str, Path)) else texts or []:
            path, weight = parse_lora(text, role)
            references.append(LoraReference(role, path, weight))  # type: ignore[arg-type]
    return references


def parse_lora(text: str | Path, option: str = "lora") -> tuple[Path, float]:
    """``PATH:WEIGHT`` or ``PATH`` to the file and its weight. Only a number after the last colon is a weight.

    option: The option that it was given to, for messages; "" where there is none.

    Raises:
        CastmixError: there is no such file, or the weight is not finite.
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
    path = lora_file(path)
    if not path.is_file():
        raise CastmixError(f"{said}: no file {path}; expected PATH or PATH:WEIGHT, such as run/a:0.8")
    return path, weight


def load_loras(references: Sequence[LoraReference]) -> LoraSet:
    """Read LoRA files and name their adapters.

    Raises:
        CastmixError: a file is no LoRA, or a masked fusion is not what its metadata describes.
    """
    from toolkit.lora.file import load_lora
    from toolkit.lora.parts import adapters_of

    files = tuple(load_lora(one.path) for one in references)
    parts: list[Part] = []
    for reference, file in zip(references, files, strict=True):
        for part in adapters_of(file, reference.stem):
            name = part.name.replace(".", "_") or "lora"
            while any(name == other.name for other in parts):
                name += "_"
            parts.append(replace(part, name=name, weight=reference.weight, role=reference.role))
    return LoraSet(tuple(references), files, tuple(parts))
