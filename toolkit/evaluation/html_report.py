"""Writes report.html: a summary, then every video beside its scores, lowest first."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.core.files import write_atomic
from toolkit.evaluation.bootstrap import Interval
from toolkit.evaluation.metrics import Column
from toolkit.evaluation.tables import Row
from toolkit.evaluation.videos import Skipped
from toolkit.evaluation.vlm_judge import SPREAD

TEMPLATE = Path(__file__).parent / "report.html"
REPORT = "report.html"
MAX_EMBEDDED = 32 * 2**20
"""Videos are embedded in the page up to this total size in bytes; otherwise the page links to the files."""


@dataclass(frozen=True)
class Score:
    """One score as the page shows it.

    Attributes:
        name: Name of the metric.
        meaning: Description of the metric.
        value: The score, None if there is none.
        bar: The score in per cent of the metric's scale.
        spread: Highest minus lowest of the repeats, for metrics that are measured repeatedly.
        low, high: Ends of the interval in per cent of the metric's scale.
        interval: The interval, for means.
    """

    name: str
    meaning: str
    value: float | None
    bar: float
    spread: float | None
    low: float = 0.0
    high: float = 0.0
    interval: Interval | None = None


@dataclass(frozen=True)
class Card:
    """One video as the page shows it; `overall` is the mean of its bars, 0 to 100, None without scores."""

    row: Row
    source: str
    scores: tuple[Score, ...]
    overall: float | None


def write_report(
    folder: Path,
    rows: Sequence[Row],
    summary: Mapping[str, Interval],
    skipped: Sequence[Skipped],
    settings: Mapping[str, Any],
    known: Mapping[str, Column],
) -> Path:
    """Write the page and return its path.

    Args:
        folder: Folder of the page.
        rows: Scores per video.
        summary: Mean and interval per column.
        skipped: What could not be scored.
        settings: Settings of the run; the page shows castmix's version.
        known: Description and scale of every column, by name.
    """
    from jinja2 import Environment

    is_embedded = sum(row.video.path.stat().st_size for row in rows) <= MAX_EMBEDDED

    def source(path: Path) -> str:
        if is_embedded:
            return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
        return os.path.relpath(path, folder).replace(os.sep, "/")

    cards = [_card(row, known, summary, source) for row in rows]
    cards.sort(key=lambda card: (card.overall is None, card.overall or 0.0))
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    html = page.render(
        summary=[_mean_score(name, known[name], summary) for name in _columns(summary)],
        cards=cards,
        skipped=skipped,
        settings=settings,
    )
    write_atomic(folder / REPORT, html)
    return folder / REPORT


def _card(
    row: Row, known: Mapping[str, Column], summary: Mapping[str, Interval], source: Callable[[Path], str]
) -> Card:
    scores = []
    for name in _columns(summary):
        value, spread = row.scores.get(name), row.scores.get(name + SPREAD)
        scores.append(Score(name, known[name].meaning, value, _percent(known[name], value or 0.0), spread))
    bars = [one.bar for one in scores if one.value is not None]
    return Card(row, source(row.video.path), tuple(scores), sum(bars) / len(bars) if bars else None)


def _mean_score(name: str, column: Column, summary: Mapping[str, Interval]) -> Score:
    interval = summary[name]
    spread = summary[name + SPREAD].mean if name + SPREAD in summary else None
    bar, low, high = (_percent(column, end) for end in (interval.mean, interval.low, interval.high))
    return Score(name, column.meaning, interval.mean, bar, spread, low, high, interval)


def _columns(summary: Mapping[str, Interval]) -> list[str]:
    """The columns with a line of their own. A spread is shown beside its column."""
    return [name for name in summary if not name.endswith(SPREAD)]


def _percent(column: Column, value: float) -> float:
    """A value in per cent of the column's scale, 0 to 100."""
    return min(100.0, max(0.0, 100 * (value - column.low) / (column.high - column.low)))
