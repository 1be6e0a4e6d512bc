"""Reads and writes clips on disk: one mp4 and one json file per clip, and an index of all clips.

A folder DIR of clips has this layout:

- ``DIR/clips/<id>.mp4`` and ``DIR/clips/<id>.json``: one clip and its metadata. The json file is the source
  of truth. Each clip has its own file, so that several stages and shards never write to the same one.
- ``DIR/metadata.jsonl``: an index generated from the json files, one row per clip, in the layout that the
  videofolder builder of `datasets` reads. `read_clips` copies a `text` edited there into the clip's json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import write_atomic, write_jsonl

INDEX = "metadata.jsonl"


@dataclass(frozen=True)
class Clip:
    """One clip: a video file and its metadata.

    Attributes:
        path: The mp4 file.
        text: The caption; "" if the clip has none yet.
        source: Path of the video that the clip was cut from.
        start: Timestamp in the source of the clip's first frame, seconds.
        end: Timestamp in the source of the clip's last frame, seconds.
        fps: Frames per second of the clip.
        num_frames: Number of frames.
        width: Width in pixels.
        height: Height in pixels.
        shot: Index of the shot within the source.
        extra: All other keys of the clip's json. Every stage writes back the keys that it does not use.
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
        """The file name without its suffix."""
        return self.path.stem


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


def write_clip(folder: Path, clip: Clip) -> None:
    """Write the json of one clip below `folder`. The video and the index are not written."""
    row = {name: getattr(clip, name) for name in _FIELDS} | clip.extra
    write_atomic(_json_path(folder, clip.id), json.dumps(row, ensure_ascii=False, indent=1) + "\n")


def read_clips(folder: Path) -> list[Clip]:
    """Read all clips of a folder, sorted by id.

    Captions edited in `metadata.jsonl` are adopted first: see `adopt_edits`.

    Raises:
        CastmixError: The folder has no clips, a clip has no video, or a json or the index is malformed.
    """
    folder = Path(folder)
    paths = _clip_jsons(folder)
    if not paths:
        raise CastmixError(f"{folder} has no clips (clips/*.json): create them with `castmix prepare`")
    adopt_edits(folder)
    return [_read_clip(path) for path in paths]


def adopt_edits(folder: Path) -> None:
    """Copy captions that a person has edited in `metadata.jsonl` into the clips' json files.

    A text counts as edited if `metadata.jsonl` is newer than the clip's json and its `text` differs. An empty
    text is ignored, because it may come from an index that was written before the caption.
    """
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
    """Write `metadata.jsonl` anew from the clips' json files."""
    rows = []
    for path in _clip_jsons(Path(folder)):
        clip = _read_clip(path)
        row = {name: getattr(clip, name) for name in _FIELDS} | clip.extra
        rows.append({"file_name": f"clips/{clip.path.name}", **row})
    write_jsonl(Path(folder) / INDEX, rows)


def _json_path(folder: Path, clip_id: str) -> Path:
    return Path(folder) / "clips" / f"{clip_id}.json"


def _clip_jsons(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "clips").glob("*.json") if not path.name.startswith("."))


def _read_clip(path: Path) -> Clip:
    row = _parse_row(path.read_bytes(), str(path))
    for name, kind in _FIELDS.items():
        if not isinstance(row.get(name), kind):
            expected = {str: "text", int: "a whole number"}.get(kind, "a number")
            raise CastmixError(f"{path}: `{name}` must be {expected}, got {row.get(name)!r}")
    video = path.with_suffix(".mp4")
    if not video.exists():
        raise CastmixError(
            f"{video} is missing: run `castmix prepare` again, or delete {path.name} to drop the clip"
        )
    extra = {name: value for name, value in row.items() if name not in _FIELDS}
    return Clip(path=video, **{name: row[name] for name in _FIELDS}, extra=extra)


def _index_texts(index: Path) -> dict[str, str]:
    """Return the `text` of each row by its `file_name`."""
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
