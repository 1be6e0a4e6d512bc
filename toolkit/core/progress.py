"""Progress output of the commands: bars with the time left, single lines, stage titles. All go to stderr."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 10.0
"""Interval between progress lines where stderr is not a terminal, e.g. in a log file."""


def say(message: str) -> None:
    """Print one line to stderr. If a bar is shown, the line appears above it."""
    print(message, file=sys.stderr, flush=True)


def stage(title: str) -> None:
    """Print the title of the next stage of a longer run."""
    from rich.text import Text

    console = _console()
    if console.is_terminal:
        console.rule(Text(title, style="bold"), align="left")
    else:
        say(f"== {title}")


def track(items: Iterable[T], label: str, total: int | None = None, start: int = 0) -> Iterator[T]:
    """Yield the items and show the progress of the loop.

    Args:
        items: The items to iterate over.
        label: Name of the work in a word or two, e.g. ``"training"``.
        total: Number of items of the whole job. Default: `len(items) + start` if `items` has a length,
            otherwise unknown.
        start: Number of items that an earlier run has done (for a resumed job).
    """
    if total is None and isinstance(items, Sized):
        total = len(items) + start
    if total is not None and total <= start:
        yield from items
    elif _console().is_terminal:
        yield from _bar(items, label, total, start)
    else:
        yield from _lines(items, label, total, start)


def _bar(items: Iterable[T], label: str, total: int | None, start: int) -> Iterator[T]:
    bars = _bars()
    outermost = not bars.live.is_started
    task = bars.add_task(label, total=total, completed=start)
    if outermost:
        bars.start()
    try:
        for item in items:
            yield item
            bars.advance(task)
    finally:
        if outermost:
            bars.stop()
        for finished in bars.task_ids if outermost else [task]:
            bars.remove_task(finished)


def _lines(items: Iterable[T], label: str, total: int | None, start: int) -> Iterator[T]:
    """Print a line every few seconds and one at the end. Loops shorter than the interval print nothing."""
    began = last = time.monotonic()
    done = start
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and done != total:
            say(_line(label, done, total, start, now - began))
            last = now
    if time.monotonic() - began >= SECONDS_BETWEEN_LINES:
        say(f"{label}: {done} done in {_clock(time.monotonic() - began)}")


def _line(label: str, done: int, total: int | None, start: int, seconds: float) -> str:
    if total is None:
        return f"{label}: {done} done, {_clock(seconds)} so far"
    left = seconds / max(done - start, 1) * max(total - done, 0)
    return f"{label}: {100 * done // total}% ({done}/{total}), {_clock(left)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@functools.cache
def _bars() -> Progress:
    """Return the one display of all bars. A nested loop shows its bar below the bar of the outer loop."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=_console())


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)
