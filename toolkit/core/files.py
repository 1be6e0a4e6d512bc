"""Files: written whole or not at all, read safely, and told apart by fingerprints."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.core.errors import CastmixError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file or nothing: to a temporary name beside it first, then renamed over the target.

    The name has the process in it: two that write the same file do not take it from each other.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_bytes(data.encode() if isinstance(data, str) else data)
    partial.replace(path)


def safetensors_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with its header in sorted order: equal content, equal bytes.

    The library writes the metadata in an order that changes from run to run.
    """
    from safetensors.torch import save

    blob = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {**metadata})
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + size])
    raw = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # the data that follows stays aligned
    return len(raw).to_bytes(8, "little") + raw + blob[8 + size :]


def fingerprint_file(path: Path) -> str:
    """The first 16 hex digits of the SHA-256 of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def fingerprint_text(text: str) -> str:
    """The first 16 hex digits of the SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a safetensors file.

    Raises:
        CastmixError: there is no such file, or it is not of that kind. Nothing is ever unpickled.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CastmixError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise CastmixError(f"{path} is no safetensors file ({error}); castmix reads no other kind") from error
