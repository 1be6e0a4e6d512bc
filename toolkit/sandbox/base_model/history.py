"""The history of a pretraining run: rows of a .jsonl file with a `step` each, and the step of its state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.core.files import write_jsonl

Row = Mapping[str, Any]


def saved_step(state: Path) -> int:
    """Return the step of a training state; 0 if there is no file."""
    import torch

    return int(torch.load(state, map_location="cpu", weights_only=True)["step"]) if state.exists() else 0


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
