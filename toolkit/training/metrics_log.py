"""Numbers of a training run: metrics.jsonl for programs, TensorBoard for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from toolkit.core.files import write_atomic

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS = "metrics.jsonl"
BOARD = "tensorboard"


class Metrics:
    """Writes rows of numbers. A resumed run drops the rows after its checkpoint.

    Args:
        out: Folder of the run.
        start: Number of finished steps. Later rows are dropped; if it is 0, all rows.
    """

    def __init__(self, out: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = out / METRICS
        kept = [row for row in read_metrics(out) if start and row["step"] <= start]
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file: TextIO = path.open("a")
        self._board: SummaryWriter = SummaryWriter(str(out / BOARD), purge_step=start + 1 if start else 0)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add a row. A step may have several rows with different values."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still in memory."""
        self._file.close()
        self._board.close()


def read_metrics(out: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.jsonl. A last line that a crash cut off is left out."""
    path = out / METRICS
    rows: list[dict[str, float]] = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
