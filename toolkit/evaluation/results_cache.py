"""measured.jsonl: what was measured so far, one row each, so that an interrupted evaluation goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolkit.core.files import fingerprint_text, write_atomic
from toolkit.evaluation.videos import Footage, Measure, Measured, Video

LEDGER = "measured.jsonl"


class Ledger:
    """Rows by the key of what they depend on; each is on disk as soon as it is added.

    Args:
        folder: Where measured.jsonl is, or will be. A last line that a crash cut off is dropped.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / LEDGER
        self._rows: dict[str, dict[str, Any]] = {}
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        for line in lines:
            try:
                row = json.loads(line)
                self._rows[row["key"]] = row
            except (ValueError, LookupError, TypeError):
                kept = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self._rows.values())
                write_atomic(self.path, kept)
                break

    def get(self, key: str) -> dict[str, Any] | None:
        """The row of this key, if there is one."""
        return self._rows.get(key)

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Keep a row."""
        self._rows[key] = {"key": key, **row}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._rows[key], ensure_ascii=False) + "\n")


def key_of(*parts: Any) -> str:
    """The key of a measurement: all that its result depends on, in what JSON knows."""
    from toolkit.core.version import __version__

    return fingerprint_text(json.dumps([__version__, *parts], ensure_ascii=False))


def remembered(measure: Measure, ledger: Ledger, family: str, basis: object) -> Measure:
    """The same measure, made once for each video and prompt.

    basis: What its numbers depend on besides those: models, references, in what JSON knows.
    """

    def again(video: Video, footage: Footage) -> Measured:
        key = key_of(family, basis, video.fingerprint, video.prompt)
        row = ledger.get(key)
        if row is None:
            made = measure(video, footage)
            ledger.add(key, {"file": video.file, "family": family, **asdict(made)})
            return made
        problems = tuple((column, reason) for column, reason in row["problems"])
        return Measured(row["values"], problems, row["note"])

    return again
