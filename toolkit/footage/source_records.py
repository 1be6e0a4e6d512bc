"""Finds the source videos of `castmix prepare` and keeps a record of each. A rerun only adds missing clips.

``prepare.json`` in the output folder holds the settings of all its clips. ``sources/<name>.json`` holds for
each source its fingerprint, the frames of each clip, and the rejected parts.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import write_atomic

VIDEO_SUFFIXES = frozenset(
    """.3gp .asf .avi .divx .f4v .flv .gif .m2ts .m2v .m4v .mjpeg .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .rm
    .rmvb .ts .vob .webm .wmv .y4m""".split()  # noqa: SIM905 - readable as it is
)
"""Suffixes of the files that count as video within a folder. A file given by its path is always tried."""
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Suffixes of the files that count as sources too if clips have a single frame."""


@dataclass(frozen=True)
class SourceRecord:
    """The clips and rejected parts of one source video.

    Attributes:
        name: Prefix of its clips' ids. Unique in the output folder.
        source: Path of the video as it was given.
        fingerprint: Fingerprint of the file's content. It identifies the source if the file is moved or
            renamed.
        source_fps: Average frame rate of the source.
        clips: One mapping per clip: `id`, `shot`, `start`, `end` (seconds) and `frames` (indices in the
            source).
        rejected: One mapping per part that cannot be used: `start`, `end` (seconds), `reason`, `value`.
    """

    name: str
    source: str
    fingerprint: str
    source_fps: float
    clips: list[dict[str, Any]]
    rejected: list[dict[str, Any]]


def find_sources(
    footage: Sequence[Path], out: Path, *, images: bool = False
) -> tuple[list[Path], list[Path]]:
    """Return the source files in `footage`, each once and in order, and the folders that contain none.

    Args:
        footage: Video files, and folders to search.
        out: The output folder. Its own clips are not taken as sources.
        images: Take the image files of folders too.

    Raises:
        CastmixError: A path does not exist.
    """
    suffixes = VIDEO_SUFFIXES | IMAGE_SUFFIXES if images else VIDEO_SUFFIXES
    found: dict[Path, Path] = {}
    empty = []
    for given in map(Path, footage):
        if not given.exists():
            raise CastmixError(f"{given} does not exist: expected video files or folders with video files")
        files = _walk(given, out.resolve(), suffixes) if given.is_dir() else [given]
        if not files:
            empty.append(given)
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values()), empty


def open_records(out: Path, settings: Mapping[str, Any]) -> dict[str, SourceRecord]:
    """Read the records of an output folder, keyed by fingerprint, and write these settings to prepare.json.

    Records without clips are deleted if the settings have changed.

    Raises:
        CastmixError: The folder has clips that were made with other settings.
    """
    for leftover in (out / "clips").glob(".*.part"):  # from a run that was killed
        leftover.unlink()
    wanted = json.loads(json.dumps(settings))
    path = out / "prepare.json"
    before = _read_json(path) if path.exists() else wanted
    records = {record.fingerprint: record for record in map(_read_record, _record_paths(out))}
    if changed := [name for name in wanted if wanted[name] != before.get(name)]:
        if any(record.clips for record in records.values()):
            what = ", ".join(f"{name} {before.get(name)} (now {wanted[name]})" for name in changed)
            raise CastmixError(
                f"{out} was prepared with {what}: give another --out folder, or use the same settings"
            )
        for stale in _record_paths(out):
            stale.unlink()
        records = {}
    write_atomic(path, json.dumps(wanted, indent=1) + "\n")
    return records


def write_record(out: Path, record: SourceRecord) -> None:
    """Write the record of one source."""
    write_atomic(_record_path(out, record.name), json.dumps(asdict(record), ensure_ascii=False) + "\n")


def delete_outdated(out: Path, known: dict[str, SourceRecord], source: str) -> None:
    """Delete the clips that were made from an earlier version of the file at the path `source`.

    Raises:
        CastmixError: One of the clips has a caption, which would be lost.
    """
    for old in [record for record in known.values() if record.source == source]:
        jsons = [out / "clips" / f"{clip['id']}.json" for clip in old.clips]
        for path in jsons:
            if path.exists() and _read_json(path).get("text"):
                raise CastmixError(
                    f"{source} has changed since it was prepared, and {path} has a caption: "
                    f"give another --out folder, or delete {_record_path(out, old.name)} and "
                    f"{out / 'clips' / old.name}_* first"
                )
        for path in jsons:
            path.unlink(missing_ok=True)
            path.with_suffix(".mp4").unlink(missing_ok=True)
        _record_path(out, old.name).unlink()
        del known[old.fingerprint]


def unique_name(source: Path, known: Mapping[str, SourceRecord]) -> str:
    """Return a name for a source that no other source has, made from its file name.

    The name has letters of any script, digits and the characters ``._-``.
    """
    stem = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", source.stem)).strip("._")
    stem = stem.encode()[:120].decode(errors="ignore") or "video"  # file names have at most 255 bytes
    taken = {record.name.casefold() for record in known.values()}
    name, number = stem, 1
    while name.casefold() in taken:  # another folder has a file of this name
        number += 1
        name = f"{stem}-{number}"
    return name


def path_text(path: Path) -> str:
    """Return a path as text for a json file, with backslash escapes for bytes that are not valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _walk(folder: Path, out: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the files below a folder with these suffixes, sorted. Skips hidden files and our output."""
    files = []
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        ours = ("clips", "sources") if here.resolve() == out else ()
        folders[:] = [
            n for n in sorted(folders) if n[0] != "." and n not in ours and (here / n).resolve() != out
        ]
        paths = [here / name for name in sorted(names) if not name.startswith(".")]
        files += [path for path in paths if path.suffix.lower() in suffixes and path.is_file()]
    return sorted(files)


def _record_path(out: Path, name: str) -> Path:
    return out / "sources" / f"{name}.json"


def _record_paths(out: Path) -> list[Path]:
    return sorted(path for path in (out / "sources").glob("*.json") if not path.name.startswith("."))


def _read_record(path: Path) -> SourceRecord:
    try:
        return SourceRecord(**_read_json(path))
    except TypeError as error:
        raise CastmixError(
            f"{path} is not the record of a source ({error}): delete it and run the command again"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise CastmixError(
            f"{path} is not valid JSON ({error}): delete it and run the command again"
        ) from error
    if not isinstance(content, dict):
        raise CastmixError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content
