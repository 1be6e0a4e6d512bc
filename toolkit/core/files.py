"""File helpers: atomic writes, reproducible safetensors files, content fingerprints."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import CastmixError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file atomically: write a temporary file in the same folder, then rename it over the target.

    The temporary name contains the process id, so that two processes can write the same file at once.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_bytes(data.encode() if isinstance(data, str) else data)
    partial.replace(path)


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`. It is renamed to `path` at the end, or deleted on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a .jsonl file atomically, one JSON object per line."""
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def save_torch(value: Any, path: Path) -> None:
    """`torch.save` under a temporary name, then renamed."""
    import torch

    partial = path.with_suffix(".tmp")
    torch.save(value, partial)
    partial.replace(path)


def safetensors_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file as bytes. Equal tensors and metadata give equal bytes.

    The header is rewritten with sorted keys, because the library writes metadata in an order that changes
    from run to run.
    """
    from safetensors.torch import save

    blob = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {**metadata})
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + size])
    raw = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # keeps the tensor data aligned to 8 bytes
    return len(raw).to_bytes(8, "little") + raw + blob[8 + size :]


def fingerprint_file(path: Path) -> str:
    """Return the first 16 hex digits of the SHA-256 of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def fingerprint_text(text: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of a text, encoded as UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors (on the CPU) and the metadata of a safetensors file. Nothing is unpickled.

    Raises:
        CastmixError: The file does not exist or is not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CastmixError(f"{path} does not exist: expected a safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise CastmixError(
            f"{path} is not a safetensors file ({error}): castmix reads only this format"
        ) from error
