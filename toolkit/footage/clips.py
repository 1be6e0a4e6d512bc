"""What castmix keeps on disk: clips with their json, the index over them, and cached samples.

A folder of clips, here called DIR, looks like this:

- ``DIR/clips/<id>.mp4`` and ``DIR/clips/<id>.json``: a clip and all that is known of it. The json is the
  truth, one owner a file, so that several stages and shards never write to the same place.
- ``DIR/metadata.jsonl``: an index regenerated from the json files, one row a clip, in the layout that
  `datasets`' videofolder reads. A `text` that a person edits there is adopted by `read_clips`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import write_atomic

if TYPE_CHECKING:
    pass

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
