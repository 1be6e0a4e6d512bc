"""Turns Ctrl-C and SIGTERM into a flag that a loop checks between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StoppedError(Exception):
    """Work ended early, because a signal to stop arrived."""


def raise_if_set(stop: threading.Event | None) -> None:
    """Raise `StoppedError` if the event of `stop_signals` is set."""
    if stop is not None and stop.is_set():
        raise StoppedError


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Catch SIGINT and SIGTERM. The first signal sets the event, the second ends the program as usual.

    Python delivers signals to the main thread only. In other threads the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def first(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, first)
    try:
        yield stop
    finally:
        restore()
