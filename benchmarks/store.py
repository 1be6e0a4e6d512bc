"""What several cells need is made once and kept: footage, clips with their cache, trained LoRAs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from toolkit.core.files import fingerprint_text, write_atomic
from toolkit.core.progress import say

MADE = "made.yaml"


@dataclass(frozen=True)
class Store:
    """Folders by what they were made from. `base` is the base model's fingerprint, a part of every key."""

    folder: Path
    base: str

    def make(self, kind: str, settings: Mapping[str, Any], fill: Callable[[Path], object]) -> Path:
        """The folder of these settings, filled by `fill` if it is not complete yet.

        A second process that wants it waits. `fill` must be able to go on in a folder that it left half full.
        """
        path = self.folder / f"{kind}-{key({**settings, 'base': self.base})}"
        path.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_suffix(".lock")):
            if not (path / MADE).exists():
                say(f"making {path}")
                with clocked(path / "seconds"):
                    fill(path)
                made = {
                    "kind": kind,
                    "settings": plain(settings),
                    "base": self.base,
                    "seconds": seconds(path),
                }
                write_atomic(path / MADE, yaml.safe_dump(made, sort_keys=False))
        return path


def key(settings: Mapping[str, Any]) -> str:
    """16 hex digits of settings that JSON can hold."""
    return fingerprint_text(json.dumps(settings, sort_keys=True))


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as YAML holds them: lists for tuples."""
    copy: dict[str, Any] = json.loads(json.dumps(settings))
    return copy


def flat(settings: Mapping[str, Any], group: str = "") -> dict[str, Any]:
    """Settings by dotted name: {"data": {"clips": 8}} as {"data.clips": 8}."""
    names: dict[str, Any] = {}
    for name, value in settings.items():
        names |= flat(value, f"{group}{name}.") if isinstance(value, dict) else {group + name: value}
    return names


def seconds(path: Path) -> float:
    """How long it took to fill a folder, interruptions taken out."""
    file = path / "seconds"
    return float(file.read_text()) if file.exists() else 0.0


@contextlib.contextmanager
def clocked(path: Path) -> Iterator[None]:
    """Add the time that the block takes to the number in a file, also where it is interrupted."""
    before, start = float(path.read_text()) if path.exists() else 0.0, time.monotonic()
    try:
        yield
    finally:
        write_atomic(path, f"{before + time.monotonic() - start:.1f}\n")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however that ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
