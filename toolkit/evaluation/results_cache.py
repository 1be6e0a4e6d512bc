"""The cache measured.jsonl: one row per measurement, so that an interrupted evaluation can continue."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolkit.core.files import fingerprint_text, write_jsonl
from toolkit.evaluation.videos import Measure, Measurement, ReadFrames, Video

CACHE_FILE = "measured.jsonl"


class ResultsCache:
    """Rows by a key of everything they depend on. Each row is written to disk when it is added.

    Args:
        folder: Folder of measured.jsonl. An incomplete last line, as a crash leaves it, is removed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / CACHE_FILE
        self._rows: dict[str, dict[str, Any]] = {}
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        for line in lines:
            try:
                row = json.loads(line)
                self._rows[row["key"]] = row
            except (ValueError, LookupError, TypeError):
                write_jsonl(self.path, self._rows.values())
                break

    def get(self, key: str) -> dict[str, Any] | None:
        """The row of this key, if there is one."""
        return self._rows.get(key)

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Store a row."""
        self._rows[key] = {"key": key, **row}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._rows[key], ensure_ascii=False) + "\n")


def cache_key(*parts: Any) -> str:
    """The key of a measurement: a hash of `parts` (JSON values) and of castmix's version."""
    from toolkit.core.version import __version__

    return fingerprint_text(json.dumps([__version__, *parts], ensure_ascii=False))


def cached(measure: Measure, cache: ResultsCache, family: str, depends_on: object) -> Measure:
    """A cached version of `measure`.

    depends_on: Everything besides video and prompt that determines the numbers: models, references, as JSON
    values.
    """

    def cached_measure(video: Video, read_frames: ReadFrames) -> Measurement:
        key = cache_key(family, depends_on, video.fingerprint, video.prompt)
        row = cache.get(key)
        if row is None:
            made = measure(video, read_frames)
            cache.add(key, {"file": video.file, "family": family, **asdict(made)})
            return made
        problems = tuple((column, reason) for column, reason in row["problems"])
        return Measurement(row["values"], problems, row["note"])

    return cached_measure
