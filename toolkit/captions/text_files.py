"""Reads sidecar texts of clips and footage: captions and subtitles.

A row of a caption file is for a clip (`file_name`), or for a time span of a source video (`source`, `start`,
`end` in seconds). Subtitles are .srt files beside the source video.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip


class NoCaptionError(CastmixError):
    """A clip cannot be captioned: the reason, and the rejected caption in `value` (if there is one)."""

    def __init__(self, reason: str, value: str = "") -> None:
        super().__init__(reason)
        self.value = value


@dataclass(frozen=True)
class CaptionRow:
    """One caption: for the clip `file_name`, or for the span `start` to `end` (seconds) of `source`."""

    text: str
    file_name: str | None = None
    source: str | None = None
    start: float | None = None
    end: float | None = None


def sidecar_paths(source: str, suffix: str) -> list[Path]:
    """Return the possible sidecar files of a source: ``episode.srt``, ``episode.mkv.srt`` for episode.mkv."""
    path = Path(source)
    return [path.with_suffix(suffix), path.with_name(path.name + suffix)]


def read_rows(path: Path) -> list[CaptionRow]:
    """Read captions from a .jsonl, .csv or .yaml file. Rows without a text are left out.

    Raises:
        CastmixError: The file or one of its rows is malformed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            entries: Any = list(csv.DictReader(io.StringIO(text)))
        elif path.suffix in (".yaml", ".yml"):
            entries = yaml.safe_load(text)
        else:
            entries = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError, ValueError, csv.Error, yaml.YAMLError) as error:
        raise CastmixError(
            f"{path} cannot be read as a caption file: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(entries, list):
        raise CastmixError(f"{path}: expected a list of rows, got {type(entries).__name__}")
    rows = [_row(entry, f"{path}: row {number}") for number, entry in enumerate(entries, 1)]
    return [row for row in rows if row.text]


def _row(entry: Any, where: str) -> CaptionRow:
    if not isinstance(entry, dict) or not (entry.get("file_name") or entry.get("source") or "start" in entry):
        raise CastmixError(
            f"{where}: expected the keys text and file_name, or text, source, start and end; got {entry!r}"
        )
    try:
        start, end = (
            float(entry[key]) if entry.get(key) not in (None, "") else None for key in ("start", "end")
        )
    except (TypeError, ValueError):
        raise CastmixError(f"{where}: start and end must be seconds, got {entry!r}") from None
    if not entry.get("file_name") and (start is None or end is None or end <= start):
        raise CastmixError(f"{where}: start and end must be seconds, start < end; got {start} and {end}")
    text = entry.get("text")
    if text is not None and not isinstance(text, str):
        raise CastmixError(f"{where}: text must be text, got {text!r}")
    return CaptionRow(" ".join((text or "").split()), entry.get("file_name"), entry.get("source"), start, end)


def row_by_name(rows: Iterable[CaptionRow], clip: Clip) -> CaptionRow | None:
    """Return the last row that names this clip: ``clips/a_0001.mp4``, ``a_0001.mp4`` or ``a_0001``."""
    named = [
        row for row in rows if row.file_name and PurePath(row.file_name).name in (clip.path.name, clip.id)
    ]
    return named[-1] if named else None


def row_by_overlap(rows: Iterable[CaptionRow], clip: Clip) -> CaptionRow | None:
    """Return the row of the clip's source, without a `file_name`, whose time span overlaps the clip most.

    The overlap must be at least half of the shorter of the two spans. This excludes the caption of a
    neighbouring shot that overlaps only by rounding.
    """
    best, most = None, 0.0
    for row in rows:
        if row.file_name or row.start is None or row.end is None:
            continue
        if not row.source or not is_path_tail(row.source, clip.source):
            continue
        shared = min(row.end, clip.end) - max(row.start, clip.start)
        if shared > most and shared >= 0.5 * min(row.end - row.start, clip.end - clip.start):
            best, most = row, shared
    return best


def covering_row(rows: Iterable[CaptionRow], clip: Clip) -> CaptionRow | None:
    """Return the shortest row whose time span contains the clip, with a tolerance of half a frame."""
    slack = 0.5 / clip.fps
    covering = [
        (row.end - row.start, number, row)
        for number, row in enumerate(rows)
        if row.start is not None and row.end is not None
        if row.start <= clip.start + slack and clip.end <= row.end + slack
    ]
    return min(covering)[2] if covering else None


def is_path_tail(part: str, path: str) -> bool:
    """Return whether `path` ends with the path components of `part`: ``/tv/s1/e1.mkv`` with ``s1/e1.mkv``."""
    pieces, whole = PurePath(part).parts, PurePath(path).parts
    return bool(pieces) and whole[-len(pieces) :] == pieces


def check_sources_unique(rows: Iterable[CaptionRow], sources: set[str], file: Path) -> None:
    """Raise if a row's source is ambiguous: ``e1.mkv`` if there are ``s1/e1.mkv`` and ``s2/e1.mkv``."""
    for name in {row.source for row in rows if row.source} - sources:
        if len(meant := sorted(source for source in sources if is_path_tail(name, source))) > 1:
            raise CastmixError(
                f"{file}: source {name!r} is ambiguous, it matches {' and '.join(meant)}: "
                "write more of the path"
            )


def sidecar_caption(
    clip: Clip, rows: list[CaptionRow], read: Callable[[Path], list[CaptionRow]] = read_rows
) -> str:
    """Find a clip's caption in sidecar files. The first of these that has a text is used:

    1. the row in `rows` that names the clip,
    2. the row in `rows` whose time span overlaps the clip most,
    3. the file ``<clip>.txt``,
    4. the row of ``<source>.captions.jsonl`` whose time span contains the whole clip.

    Args:
        clip: The clip.
        rows: Rows of the caption file given by the user; may be empty.
        read: Function that reads a caption file, e.g. a cached `read_rows`.

    Raises:
        NoCaptionError: None of them has a text for this clip.
        CastmixError: A file is malformed.
    """
    if row := row_by_name(rows, clip) or row_by_overlap(rows, clip):
        return row.text
    own = clip.path.with_suffix(".txt")
    if own.is_file():
        return " ".join(own.read_text(encoding="utf-8-sig", errors="replace").split())
    for file in sidecar_paths(clip.source, ".captions.jsonl"):
        if file.is_file():
            if row := covering_row(read(file), clip):
                return row.text
            raise NoCaptionError(f"no row of {file} covers the clip, {clip.start:.2f} to {clip.end:.2f} s")
    looked = f"{own.name} beside the clip, {sidecar_paths(clip.source, '.captions.jsonl')[0]}"
    raise NoCaptionError(f"no caption found in: the file given with --captions, {looked}")


_CUE = re.compile(r"((?:\d+:)?\d+:\d+[,.]\d+)\s*-->\s*((?:\d+:)?\d+:\d+[,.]\d+).*\n((?:.*\S.*\n?)*)")
_MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")


def transcript(source: str, start: float, end: float) -> str:
    """Return the subtitles of a source from `start` to `end` (seconds); "" if there is no .srt file.

    The subtitles of ``episode.mkv`` are ``episode.srt``, ``episode.mkv.srt`` or ``episode.eng.srt``.
    """
    path = Path(source)
    translations = sorted(path.parent.glob(f"{glob.escape(path.stem)}.*.srt"))
    found = [file for file in translations if re.fullmatch(r"\.[a-z]{2,3}(-\w+)?", Path(file.stem).suffix)]
    file = next((file for file in [*sidecar_paths(source, ".srt"), *found] if file.is_file()), None)
    if file is None:
        return ""
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    said = [
        " ".join(_MARKUP.sub("", cue[3]).split())
        for cue in _CUE.finditer(text.replace("\r", ""))
        if _seconds(cue[1]) < end and _seconds(cue[2]) > start
    ]
    return "\n".join(line for line in said if line)


def _seconds(clock: str) -> float:
    seconds = 0.0
    for part in clock.replace(",", ".").split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
