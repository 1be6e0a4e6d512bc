"""The one LoRA loader: from texts such as ``runs/mine:0.8`` to LoRAs inside a network.

1. `read_references` checks paths and weights, without torch.
2. `load_loras` reads the files (`file.load_lora` applies their alpha) and names an adapter for each. A masked
   fusion becomes one adapter per part.
3. `LoraSet.attach` puts the adapters into a network.

`generate`, `attention-maps`, `fuse` and notebooks all read LoRAs here.
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
    """A LoRA file with its role and weight; the file has not been read."""

    role: Role
    path: Path
    weight: float

    def read(self) -> Part:
        """Read the file as one part, named after the folder of its run, or after the file.

        Raises:
            CastmixError: the file is not a LoRA.
        """
        from toolkit.lora.file import load_lora
        from toolkit.lora.parts import Part

        name = self.path.parent.name if self.path.name == LORA_FILE else self.path.stem
        return Part(name or "lora", load_lora(self.path), self.weight, role=self.role)

    def facts(self) -> dict[str, Any]:
        """The LoRA's entry in a video's JSON file."""
        role = {} if self.role == "lora" else {"role": self.role}
        return {
            "path": self.path.as_posix(),
            "weight": self.weight,
            "fingerprint": fingerprint_file(self.path),
            **role,
        }


@dataclass(frozen=True)
class LoraSet:
    """LoRAs that are used together.

    Attributes:
        references: Path, role and weight of each file.
        files: The content of each file.
        parts: One per adapter: a masked fusion has several, a file of special tokens alone has none.
    """

    references: tuple[LoraReference, ...] = ()
    files: tuple[Lora, ...] = ()
    parts: tuple[Part, ...] = ()

    @property
    def confined(self) -> list[str]:
        """Names of the adapters that act only where their subjects are: the parts of masked fusions."""
        return [part.name for part in self.parts if part.subjects]

    def of_role(self, role: Role) -> list[Part]:
        """The parts that a branch of collaborative sampling uses: those of its role and of role "lora"."""
        return [part for part in self.parts if part.role in ("lora", role)]

    def attach(self, denoiser: Denoiser, base: str) -> None:
        """Put all adapters into the network. They take effect inside `lora.layers.activate` only.

        base: The network's fingerprint. A LoRA that was trained on another base gets a warning.

        Raises:
            CastmixError: a LoRA does not fit the network. Then none is attached.
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
        """Take all adapters out of the network again."""
        from toolkit.lora.layers import detach

        for part in self.parts:
            detach(denoiser.module, part.name)


def read_references(**given: Sequence[str | Path] | str | Path | None) -> list[LoraReference]:
    """LoRA references by role: ``read_references(lora=["run:0.8"], motion="run/wave")``.

    Raises:
        CastmixError: there is no such file, or a weight is not finite.
    """
    references: list[LoraReference] = []
    for role, texts in given.items():
        assert role in get_args(Role)
        several = [texts] if isinstance(texts, (str, Path)) else texts or []
        references += [parse_lora(text, role, f"--{role} ") for text in several]  # type: ignore[arg-type]
    return references


def parse_lora(text: str | Path, role: Role = "lora", option: str = "") -> LoraReference:
    """Parse ``PATH`` or ``PATH:WEIGHT``; the default weight is 1.

    What follows the last colon is a weight only if it is a number.

    Args:
        text: A LoRA file or the folder of a run, with or without a weight.
        role: Its role.
        option: What error messages put before the text, such as "--lora ".

    Raises:
        CastmixError: the file does not exist, or the weight is not finite.
    """
    head, colon, tail = str(text).rpartition(":")
    path, weight = Path(text), 1.0
    if colon and head and not path.exists():
        with contextlib.suppress(ValueError):  # the path itself has a colon, as in C:\\runs\\a.safetensors
            weight = float(tail)
            path = Path(head)
    if not math.isfinite(weight):
        raise CastmixError(f"{option}{text}: the weight must be a finite number, got {tail}")
    path = lora_file(path)
    if not path.is_file():
        raise CastmixError(f"{option}{text}: no file {path}; expected PATH or PATH:WEIGHT, such as run/a:0.8")
    return LoraReference(role, path, weight)


def load_loras(references: Sequence[LoraReference]) -> LoraSet:
    """Read LoRA files and give each adapter a name of its own.

    Raises:
        CastmixError: a file is not a LoRA, or the tensors of a masked fusion contradict its metadata.
    """
    from toolkit.lora.parts import adapters_of

    files = [reference.read() for reference in references]
    adapters: list[Part] = []
    for file in files:
        for part in adapters_of(file):
            name = part.name.replace(".", "_") or "lora"  # torch allows no dots in names of modules
            while any(name == other.name for other in adapters):
                name += "_"
            adapters.append(replace(part, name=name))
    return LoraSet(tuple(references), tuple(file.lora for file in files), tuple(adapters))
