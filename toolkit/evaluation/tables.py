"""scores.csv and scores.json: what was measured, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolkit.core.files import write_atomic
from toolkit.evaluation.bootstrap import Interval, mean_interval
from toolkit.evaluation.videos import SetAside, Video

CSV, JSON = "scores.csv", "scores.json"


@dataclass(frozen=True)
class Row:
    """One video's scores by column, None where there is none, and what each family notes."""

    video: Video
    scores: Mapping[str, float | None]
    notes: tuple[str, ...] = ()


def summarise(rows: Sequence[Row], columns: Sequence[str], seed: int) -> dict[str, Interval]:
    """The mean and its interval of each column that has a value."""
    summary = {}
    for column in columns:
        values = [value for row in rows if (value := row.scores.get(column)) is not None]
        if values:
            summary[column] = mean_interval(values, seed)
    return summary


def write_csv(folder: Path, rows: Sequence[Row], columns: Sequence[str]) -> Path:
    """One line a video: file, prompt, seed and its scores; nothing where there is none."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "prompt", "seed", *columns])
    for row in rows:
        scores = [row.scores.get(column) for column in columns]
        told = ["" if value is None else f"{value:.6g}" for value in scores]
        table.writerow([row.video.file, row.video.prompt, row.video.facts.get("seed", ""), *told])
    write_atomic(folder / CSV, text.getvalue())
    return folder / CSV


def write_json(
    folder: Path,
    rows: Sequence[Row],
    summary: Mapping[str, Interval],
    set_aside: Sequence[SetAside],
    settings: Mapping[str, Any],
) -> Path:
    """Means with intervals by metric, every video's scores, what was set aside and why, the settings."""
    videos = [
        {
            "file": row.video.file,
            "prompt": row.video.prompt,
            "seed": row.video.facts.get("seed"),
            "fingerprint": row.video.fingerprint,
            "scores": dict(row.scores),
            "notes": list(row.notes),
        }
        for row in rows
    ]
    scores = {
        "metrics": {column: asdict(interval) for column, interval in summary.items()},
        "videos": videos,
        "set_aside": [asdict(one) for one in set_aside],
        "settings": dict(settings),
    }
    write_atomic(folder / JSON, json.dumps(scores, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    return folder / JSON
