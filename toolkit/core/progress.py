"""What a person sees while a verb works: a bar with time left, short lines, stage titles. All on stderr."""

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
"""How often a log file (anything that is not a terminal) gets a line."""


def say(message: str) -> None:
    """Write one line on stderr. Above the bar, if one is being drawn."""
    print(message, file=sys.stderr, flush=True)


def stage(title: str) -> None:
    """Write the title of the next stage of a longer run."""
    from rich.text import Text

    console = _console()
    if console.is_terminal:
        console.rule(Text(title, style="bold"), align="left")
    else:
        say(f"== {title}")


def track(items: Iterable[T], label: str, total: int | None = None, start: int = 0) -> Iterator[T]:
    """Yield the items and show how far the loop is.

    Args:
        items: What is to be worked on.
        what: The work in a word or two, e.g. ``"training"``.
        total: How many items the whole job has; `len(items) + start` where items has a length,
            unknown otherwise.
        start: How many were done before this run (a resumed job begins part of the way).
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
    """A line every few seconds, and a last one: quick loops leave a log clean."""
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
    """One display for all bars, so that a loop inside a loop shows its bar under the outer one."""
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
