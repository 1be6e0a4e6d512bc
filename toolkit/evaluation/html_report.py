"""report.html: the summary on top, below it every video beside its scores, the worst first."""

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
from toolkit.evaluation.videos import SetAside
from toolkit.evaluation.vlm_judge import SPREAD

TEMPLATE = Path(__file__).parent / "report.html"
REPORT = "report.html"
LARGEST_PAGE = 32 * 2**20
"""Bytes of video up to which the page holds them itself; a larger one links to the files."""


@dataclass(frozen=True)
class Score:
    """One number as the page shows it: `bar` and the interval's ends in per cent of the metric's scale.

    `spread` is that of the repeats, where a metric is asked for several times.
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
    """One video as the page shows it. `overall` is the mean of its bars, 0 to 100; None without any."""

    row: Row
    source: str
    scores: tuple[Score, ...]
    overall: float | None


def write_report(
    folder: Path,
    rows: Sequence[Row],
    summary: Mapping[str, Interval],
    set_aside: Sequence[SetAside],
    settings: Mapping[str, Any],
    known: Mapping[str, Column],
) -> Path:
    """Write the page into `folder`; its path. known: what each column means, by name."""
    from jinja2 import Environment

    inside = sum(row.video.path.stat().st_size for row in rows) <= LARGEST_PAGE

    def source(path: Path) -> str:
        if inside:
            return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
        return os.path.relpath(path, folder).replace(os.sep, "/")

    cards = [_card(row, known, summary, source) for row in rows]
    cards.sort(key=lambda card: (card.overall is None, card.overall or 0.0))
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    html = page.render(
        summary=[_mean(name, known[name], summary) for name in _shown(summary)],
        cards=cards,
        set_aside=set_aside,
        settings=settings,
    )
    write_atomic(folder / REPORT, html)
    return folder / REPORT


def _card(
    row: Row, known: Mapping[str, Column], summary: Mapping[str, Interval], source: Callable[[Path], str]
) -> Card:
    scores = []
    for name in _shown(summary):
        value, spread = row.scores.get(name), row.scores.get(name + SPREAD)
        scores.append(Score(name, known[name].meaning, value, _percent(known[name], value or 0.0), spread))
    bars = [one.bar for one in scores if one.value is not None]
    return Card(row, source(row.video.path), tuple(scores), sum(bars) / len(bars) if bars else None)


def _mean(name: str, column: Column, summary: Mapping[str, Interval]) -> Score:
    interval = summary[name]
    spread = summary[name + SPREAD].mean if name + SPREAD in summary else None
    bar, low, high = (_percent(column, end) for end in (interval.mean, interval.low, interval.high))
    return Score(name, column.meaning, interval.mean, bar, spread, low, high, interval)


def _shown(summary: Mapping[str, Interval]) -> list[str]:
    """The columns that have a line of their own: a spread is shown beside what it is of."""
    return [name for name in summary if not name.endswith(SPREAD)]


def _percent(column: Column, value: float) -> float:
    return min(100.0, max(0.0, 100 * (value - column.low) / (column.high - column.low)))
