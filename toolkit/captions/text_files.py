"""Texts that lie beside clips and footage: captions written by hand or by a world that knows, and subtitles.

Rows of captions name a clip (`file_name`), or a place in the footage (`source`, `start`, `end` in seconds).
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
    """A clip that cannot be captioned: the reason, and the text that was refused (if there was one)."""

    def __init__(self, reason: str, value: str = "") -> None:
        super().__init__(reason)
        self.value = value


@dataclass(frozen=True)
class Row:
    """One caption. It is for the clip `file_name`, or for `start` to `end` (seconds) of `source`."""

    text: str
    file_name: str | None = None
    source: str | None = None
    start: float | None = None
    end: float | None = None


def beside(source: str, suffix: str) -> list[Path]:
    """Where a text about a source may lie: ``episode.srt`` or ``episode.mkv.srt`` for ``episode.mkv``."""
    path = Path(source)
    return [path.with_suffix(suffix), path.with_name(path.name + suffix)]


def read_rows(path: Path) -> list[Row]:
    """Read captions from a .jsonl, .csv or .yaml file; rows without a text are left out.

    Raises:
        CastmixError: The file or a row of it cannot be understood.
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
        raise CastmixError(f"{path}: cannot be read as captions: {' '.join(str(error).split())}") from error
    if not isinstance(entries, list):
        raise CastmixError(f"{path}: expected a list of rows, got {type(entries).__name__}")
    rows = [_row(entry, f"{path}: row {number}") for number, entry in enumerate(entries, 1)]
    return [row for row in rows if row.text]


def _row(entry: Any, where: str) -> Row:
    if not isinstance(entry, dict) or not (entry.get("file_name") or entry.get("source") or "start" in entry):
        raise CastmixError(
            f"{where}: expected text and file_name, or text, source, start and end; got {entry!r}"
        )
    try:
        start, end = (
            float(entry[key]) if entry.get(key) not in (None, "") else None for key in ("start", "end")
        )
    except (TypeError, ValueError):
        raise CastmixError(f"{where}: start and end must be seconds, got {entry!r}") from None
    if not entry.get("file_name") and (start is None or end is None or end <= start):
        raise CastmixError(f"{where}: start and end must be seconds, start first; got {start} and {end}")
    text = entry.get("text")
    if text is not None and not isinstance(text, str):
        raise CastmixError(f"{where}: text must be text, got {text!r}")
    return Row(" ".join((text or "").split()), entry.get("file_name"), entry.get("source"), start, end)


def row_by_name(rows: Iterable[Row], clip: Clip) -> Row | None:
    """The last row that names this clip: ``clips/a_0001.mp4``, ``a_0001.mp4`` or ``a_0001``."""
    named = [
        row for row in rows if row.file_name and PurePath(row.file_name).name in (clip.path.name, clip.id)
    ]
    return named[-1] if named else None


def row_by_overlap(rows: Iterable[Row], clip: Clip) -> Row | None:
    """The row without a `file_name`, of the clip's source, whose time overlaps the clip most.

    At least half of the shorter of the two: a caption of the next shot, a rounding away, is not taken.
    """
    best, most = None, 0.0
    for row in rows:
        if row.file_name or row.start is None or row.end is None:
            continue
        if not row.source or not is_tail(row.source, clip.source):
            continue
        shared = min(row.end, clip.end) - max(row.start, clip.start)
        if shared > most and shared >= 0.5 * min(row.end - row.start, clip.end - clip.start):
            best, most = row, shared
    return best


def row_that_covers(rows: Iterable[Row], clip: Clip) -> Row | None:
    """The shortest row that holds the whole clip, give or take half a frame."""
    slack = 0.5 / clip.fps
    covering = [
        (row.end - row.start, number, row)
        for number, row in enumerate(rows)
        if row.start is not None and row.end is not None
        if row.start <= clip.start + slack and clip.end <= row.end + slack
    ]
    return min(covering)[2] if covering else None


def is_tail(part: str, path: str) -> bool:
    """Whether `part` is the path or its last pieces: ``s1/e1.mkv`` of ``/tv/s1/e1.mkv``."""
    pieces, whole = PurePath(part).parts, PurePath(path).parts
    return bool(pieces) and whole[-len(pieces) :] == pieces


def check_sources(rows: Iterable[Row], sources: set[str], file: Path) -> None:
    """Refuse a row whose source means two: ``e1.mkv`` where there are ``s1/e1.mkv`` and ``s2/e1.mkv``."""
    for name in {row.source for row in rows if row.source} - sources:
        if len(meant := sorted(source for source in sources if is_tail(name, source))) > 1:
            raise CastmixError(f"{file}: source {name!r} means {' and '.join(meant)}: write more of the path")


def text_beside(clip: Clip, rows: list[Row], read: Callable[[Path], list[Row]] = read_rows) -> str:
    """The clip's caption: from `rows` by name, then by time; from ``<clip>.txt``; or by time from
    ``<source>.captions.jsonl``, which says everything that happens in the source, so that a row must hold the
    whole clip.

    Raises:
        NoCaptionError: None of them has a text for this clip.
        CastmixError: A file cannot be understood.
    """
    if row := row_by_name(rows, clip) or row_by_overlap(rows, clip):
        return row.text
    own = clip.path.with_suffix(".txt")
    if own.is_file():
        return " ".join(own.read_text(encoding="utf-8-sig", errors="replace").split())
    for file in beside(clip.source, ".captions.jsonl"):
        if file.is_file():
            if row := row_that_covers(read(file), clip):
                return row.text
            raise NoCaptionError(f"no row of {file} covers the clip, {clip.start:.2f} to {clip.end:.2f} s")
    looked = f"{own.name} beside the clip, {beside(clip.source, '.captions.jsonl')[0]}"
    raise NoCaptionError(f"no text found for it in: the file given with --captions, {looked}")


_CUE = re.compile(r"((?:\d+:)?\d+:\d+[,.]\d+)\s*-->\s*((?:\d+:)?\d+:\d+[,.]\d+).*\n((?:.*\S.*\n?)*)")
_MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")


def transcript(source: str, start: float, end: float) -> str:
    """What is said from `start` to `end` (seconds) by the .srt beside the source; "" if there is none.

    Beside ``episode.mkv`` that is ``episode.srt``, ``episode.mkv.srt`` or ``episode.eng.srt``.
    """
    path = Path(source)
    translations = sorted(path.parent.glob(f"{glob.escape(path.stem)}.*.srt"))
    found = [file for file in translations if re.fullmatch(r"\.[a-z]{2,3}(-\w+)?", Path(file.stem).suffix)]
    file = next((file for file in [*beside(source, ".srt"), *found] if file.is_file()), None)
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
