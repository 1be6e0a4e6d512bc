"""What a study is: a question, the arms that are compared to answer it, and the cells to run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.store import Store, key

MAX_CELLS = 25

Scores = dict[str, dict[str, float]]
"""Metric → prompt's id → score. A prompt that does not ask for what a metric measures is left out."""


@dataclass(frozen=True)
class Outcome:
    """What a cell found.

    Attributes:
        scores: Of each metric and prompt.
        prompts: Text by id, as it is judged.
        seconds: By part of the work. Shared parts (data, LoRAs) count in full in every cell that uses them.
    """

    scores: Scores
    prompts: dict[str, str]
    seconds: dict[str, float]


Run = Callable[[Any, int, Path, Store], Outcome]
"""Runs one cell: its settings, its seed, a folder of its own, and what it shares with other cells."""


@dataclass(frozen=True)
class Cell:
    """One arm at one seed. `settings` is a frozen dataclass, all of it: equal cells have equal settings."""

    arm: str
    seed: int
    settings: Any

    @property
    def name(self) -> str:
        """For --only and for folders, as 'rank-32-s0'."""
        return f"{slug(self.arm)}-s{self.seed}"

    def folder(self, study: Path, base: str) -> Path:
        """Where this cell lies below its study's folder: other settings or another base, another folder."""
        settings = dataclasses.asdict(self.settings)
        return study / f"{self.name}-{key({'settings': settings, 'seed': self.seed, 'base': base})[:8]}"


@dataclass(frozen=True)
class Study:
    """A question and how it is answered.

    Attributes:
        name: For the command line and the files of the results.
        question: In one sentence.
        arms: What is compared: name → settings, a frozen dataclass of the study's own kind.
        run: Runs one cell.
        baseline: The arm that all others are compared with, prompt by prompt.
        contrast: The decisive comparison, (this arm, against that one). These two have all seeds.
        metrics: The columns of the table, of those that `run` gives.
        seeds: Of the baseline and the contrast's arms; the others have seed 0 alone.
        repeated: Further arms that have all seeds.
        quick: Arms of the quick variant, at seed 0; the contrast's if left out.
        shown: Prompts by id of which a picture is made, arm beside arm.
        pictured: The arms in it; all if left out.
    """

    name: str
    question: str
    arms: Mapping[str, Any]
    run: Run
    baseline: str
    contrast: tuple[str, str]
    metrics: tuple[str, ...]
    seeds: int = 3
    quick: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    pictured: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = {
            self.baseline,
            *self.contrast,
            *self.quick,
            *self.repeated,
            *self.pictured,
        } - self.arms.keys()
        if unknown or len(self.cells()) > MAX_CELLS or len({slug(arm) for arm in self.arms}) < len(self.arms):
            raise ValueError(
                f"study {self.name}: unknown arms {unknown}, equal ones, or over {MAX_CELLS} cells"
            )

    def cells(self, quick: bool = False) -> list[Cell]:
        """The cells in the order to run them: seed 0 of every arm first."""
        if quick:
            return [Cell(arm, 0, self.arms[arm]) for arm in self.quick or self.contrast]
        rows = [(seed, arm) for seed in range(self.seeds) for arm in self.arms]
        often = {self.baseline, *self.contrast, *self.repeated}
        return [Cell(arm, seed, self.arms[arm]) for seed, arm in rows if seed == 0 or arm in often]


def slug(arm: str) -> str:
    """An arm's name for files."""
    return re.sub(r"[^a-z0-9]+", "-", arm.lower()).strip("-")
