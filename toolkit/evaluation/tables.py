"""Writes scores.csv and scores.json, and averages scores over videos."""

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
from toolkit.evaluation.videos import Skipped, Video

CSV, JSON = "scores.csv", "scores.json"


@dataclass(frozen=True)
class Row:
    """The scores of one video by column (None if it does not apply), and the notes of the metric families."""

    video: Video
    scores: Mapping[str, float | None]
    notes: tuple[str, ...] = ()


def summarise(rows: Sequence[Row], columns: Sequence[str], seed: int) -> dict[str, Interval]:
    """The mean and its interval of each column that has at least one value."""
    summary = {}
    for column in columns:
        values = [value for row in rows if (value := row.scores.get(column)) is not None]
        if values:
            summary[column] = mean_interval(values, seed)
    return summary


def write_csv(folder: Path, rows: Sequence[Row], columns: Sequence[str]) -> Path:
    """Write scores.csv: file, prompt, seed and scores, one line per video. Missing scores are empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "prompt", "seed", *columns])
    for row in rows:
        scores = [row.scores.get(column) for column in columns]
        texts = ["" if value is None else f"{value:.6g}" for value in scores]
        table.writerow([row.video.file, row.video.prompt, row.video.facts.get("seed", ""), *texts])
    write_atomic(folder / CSV, text.getvalue())
    return folder / CSV


def write_json(
    folder: Path,
    rows: Sequence[Row],
    summary: Mapping[str, Interval],
    skipped: Sequence[Skipped],
    settings: Mapping[str, Any],
) -> Path:
    """Write scores.json: mean and interval per metric, scores per video, what was skipped, settings."""
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
        "set_aside": [asdict(one) for one in skipped],
        "settings": dict(settings),
    }
    write_atomic(folder / JSON, json.dumps(scores, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    return folder / JSON
