"""What castmix keeps on disk: clips with their json, the index over them, and cached samples.

A folder of clips, here called DIR, looks like this:

- ``DIR/clips/<id>.mp4`` and ``DIR/clips/<id>.json``: a clip and all that is known of it. The json is the
  truth, one owner a file, so that several stages and shards never write to the same place.
- ``DIR/metadata.jsonl``: an index regenerated from the json files, one row a clip, in the layout that
  `datasets`' videofolder reads. A `text` that a person edits there is adopted by `read_clips`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import CastmixError

if TYPE_CHECKING:
    import torch

INDEX = "metadata.jsonl"


@dataclass(frozen=True)
class Clip:
    """One clip: a file, and what is known of it.

    `start` and `end` are the seconds in the source of the first and the last frame. `extra` holds every other
    key of the clip's json, so that a stage keeps what it does not know.
    """

    path: Path
    text: str
    source: str
    start: float
    end: float
    fps: float
    num_frames: int
    width: int
    height: int
    shot: int
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The clip's name: its file name without the suffix."""
        return self.path.stem


@dataclass(frozen=True, eq=False)
class Sample:
    """What training reads of a clip.

    Attributes:
        id: The clip's id.
        latents: float32 (C, f, h, w), normalised as the denoiser takes them.
        prompt_embeds: float32 (L, D).
        text: The caption that `prompt_embeds` encodes.
        fingerprint: What the sample was made from (file, caption, model, settings), by name.
    """

    id: str
    latents: torch.Tensor
    prompt_embeds: torch.Tensor
    text: str
    fingerprint: dict[str, str]


_FIELDS: dict[str, Any] = {
    "text": str,
    "source": str,
    "start": int | float,
    "end": int | float,
    "fps": int | float,
    "num_frames": int,
    "width": int,
    "height": int,
    "shot": int,
}


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file or nothing: to a temporary name beside it first, then renamed over the target.

    The name has the process in it: two that write the same file do not take it from each other.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_bytes(data.encode() if isinstance(data, str) else data)
    partial.replace(path)


def write_clip(folder: Path, clip: Clip) -> None:
    """Write the json of one clip (not its video) below `folder`. The index is `write_index`'s."""
    row = {name: getattr(clip, name) for name in _FIELDS} | clip.extra
    write_atomic(_json_path(folder, clip.id), json.dumps(row, ensure_ascii=False, indent=1) + "\n")


def read_clips(folder: Path) -> list[Clip]:
    """Read all clips of a folder, sorted by id.

    Where `metadata.jsonl` is newer than a clip's json and gives another `text`, a person has edited it: that
    text is adopted and written to the json. An empty one is not: it may come from an index that was never
    finished.

    Raises:
        CastmixError: No clips there, a clip without its video, a json or index that cannot be understood.
    """
    folder = Path(folder)
    paths = _clip_jsons(folder)
    if not paths:
        raise CastmixError(f"{folder} has no clips (clips/*.json): make them with `castmix prepare`")
    adopt_edits(folder)
    return [_read_clip(path) for path in paths]


def adopt_edits(folder: Path) -> None:
    """Take texts over that a person has edited in `metadata.jsonl`: see `read_clips`."""
    index = Path(folder) / INDEX
    if not index.exists():
        return
    edited, when = _index_texts(index), index.stat().st_mtime_ns
    for path in _clip_jsons(Path(folder)):
        row = _parse_row(path.read_bytes(), str(path))
        text = edited.get(f"clips/{path.stem}.mp4")
        if text and text != row.get("text") and when > path.stat().st_mtime_ns:
            write_atomic(path, json.dumps(row | {"text": text}, ensure_ascii=False, indent=1) + "\n")


def write_index(folder: Path) -> None:
    """Regenerate `metadata.jsonl` from the clips' json files."""
    rows = []
    for path in _clip_jsons(Path(folder)):
        clip = _read_clip(path)
        row = {name: getattr(clip, name) for name in _FIELDS} | clip.extra
        rows.append({"file_name": f"clips/{clip.path.name}", **row})
    write_atomic(Path(folder) / INDEX, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def save_sample(folder: Path, sample: Sample) -> Path:
    """Write a sample as `<id>.safetensors` and return its path. Equal samples make equal bytes."""
    tensors = {"latents": sample.latents.float(), "prompt_embeds": sample.prompt_embeds.float()}
    fingerprint = json.dumps(sample.fingerprint, sort_keys=True, ensure_ascii=False)
    path = Path(folder) / f"{sample.id}.safetensors"
    write_atomic(path, safetensors_bytes(tensors, {"text": sample.text, "fingerprint": fingerprint}))
    return path


def load_samples(folder: Path) -> list[Sample]:
    """Read every sample of a folder, sorted by id.

    Raises:
        CastmixError: No samples there, or a file that is not a sample.
    """
    paths = sorted(Path(folder).glob("*.safetensors"))
    if not paths:
        raise CastmixError(f"{folder} has no samples (*.safetensors): make them with `castmix cache`")
    return [_load_sample(path) for path in paths]


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


def _json_path(folder: Path, clip_id: str) -> Path:
    return Path(folder) / "clips" / f"{clip_id}.json"


def _clip_jsons(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "clips").glob("*.json") if not path.name.startswith("."))


def _read_clip(path: Path) -> Clip:
    row = _parse_row(path.read_bytes(), str(path))
    for name, kind in _FIELDS.items():
        if not isinstance(row.get(name), kind):
            expected = {str: "a text", int: "a whole number"}.get(kind, "a number")
            raise CastmixError(f"{path}: `{name}` should be {expected}, got {row.get(name)!r}")
    video = path.with_suffix(".mp4")
    if not video.exists():
        raise CastmixError(f"{video} is missing: prepare it again, or delete {path.name} to drop the clip")
    extra = {name: value for name, value in row.items() if name not in _FIELDS}
    return Clip(path=video, **{name: row[name] for name in _FIELDS}, extra=extra)


def _index_texts(index: Path) -> dict[str, str]:
    """The `text` of each row by its `file_name`."""
    texts = {}
    for number, line in enumerate(index.read_bytes().split(b"\n"), 1):
        if line.strip():
            row = _parse_row(line, f"{index}, line {number}")
            texts[str(row.get("file_name"))] = str(row.get("text", ""))
    return texts


def _parse_row(text: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise CastmixError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise CastmixError(f"{where}: expected a JSON object, got {type(row).__name__}")
    return row


def _load_sample(path: Path) -> Sample:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            latents, prompt_embeds = file.get_tensor("latents"), file.get_tensor("prompt_embeds")
        text, fingerprint = metadata["text"], json.loads(metadata["fingerprint"])
    except (SafetensorError, KeyError) as error:
        raise CastmixError(f"{path} is not a sample ({error}): delete it and run `castmix cache`") from error
    return Sample(path.stem, latents, prompt_embeds, text, fingerprint)
