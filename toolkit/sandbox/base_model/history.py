"""The history of a pretraining run: rows of a .jsonl file with a `step` each, and the step of its state."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import write_jsonl

Row = Mapping[str, Any]


def load_state(path: Path, device: str = "cpu") -> dict[str, Any] | None:
    """Load a training state; None if there is no file.

    Raises:
        CastmixError: The file is broken.
    """
    import torch

    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        state["step"] = int(state["step"])
    except (RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise CastmixError(
            f"{path} is not a training state ({type(error).__name__}): put a whole copy there, or delete it"
        ) from error
    return state


def saved_step(path: Path) -> int:
    """Return the step of a training state; 0 if there is no file."""
    state = load_state(path)
    return state["step"] if state else 0


def read_start(folder: Path) -> dict[str, Any]:
    """Return the facts of a run's start: weights, their steps, samples_a_step and seed.

    Raises:
        CastmixError: The file is missing or broken.
    """
    path = folder / "start.json"
    try:
        row: dict[str, Any] = {"seed": 0} | json.loads(path.read_text())
        return row | {name: int(row[name]) for name in ("steps", "samples_a_step", "seed")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CastmixError(
            f"{path} does not say how the run started ({error!r}): expected an object such as "
            '{"weights": "base", "steps": 0, "samples_a_step": 32, "seed": 0}'
        ) from error


def read(path: Path) -> list[Row]:
    """Return the rows of a history. A last line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def go_on_from(path: Path, step: int) -> None:
    """Delete the rows after a step: a resumed run writes them again."""
    if path.exists():
        write_jsonl(path, [row for row in read(path) if row["step"] <= step])


def append(path: Path, row: Row) -> None:
    """Append a row."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
