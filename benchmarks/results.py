"""Results of studies: a JSON file each, and the statistics of its scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.core.files import write_atomic
from toolkit.evaluation.bootstrap import Interval, paired_interval

Result = dict[str, Any]
"""What NAME.json holds; `cells` are rows with arm, seed, settings, commit, cores, seconds, scores."""

Key = tuple[int, str]
"""Seed and prompt: what a pair has in common."""


def write_result(path: Path, result: Result) -> None:
    """Write the JSON of a study, one line a cell."""
    head = json.dumps({name: value for name, value in result.items() if name != "cells"}, indent=1)
    cells = ",\n".join("  " + json.dumps(cell) for cell in result["cells"])
    write_atomic(path, f'{head.removesuffix("}").rstrip()},\n "cells": [\n{cells}\n ]\n}}\n')


def read_results(folder: Path, order: Sequence[str]) -> list[Result]:
    """All results of a folder, those named in `order` first and in that order."""
    found = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))
    }
    names = [name for name in order if name in found] + [name for name in found if name not in order]
    return [found[name] for name in names]


def arms(result: Result) -> list[str]:
    """The arms that have results, in the study's order."""
    have = {cell["arm"] for cell in result["cells"]}
    return [arm for arm in result["arms"] if arm in have]


def scores(result: Result, arm: str, metric: str, seed: int | None = None) -> dict[Key, float]:
    """Every score of an arm, by seed and prompt; of one seed alone if it is given."""
    return {
        (cell["seed"], prompt): value
        for cell in result["cells"]
        if cell["arm"] == arm and seed in (None, cell["seed"])
        for prompt, value in cell["scores"].get(metric, {}).items()
    }


def difference(
    result: Result, arm: str, against: str, metric: str, seed: int | None = None
) -> Interval | None:
    """How much better an arm is, over the seeds and prompts that both have; None if there are none."""
    ours, theirs = (by_prompt(found) for found in paired_scores(result, arm, against, metric, seed))
    return paired_interval(ours, theirs) if ours else None


def paired_scores(
    result: Result, arm: str, against: str, metric: str, seed: int | None = None
) -> tuple[dict[Key, float], dict[Key, float]]:
    """The scores of two arms over the seeds and prompts that both have."""
    ours, theirs = (scores(result, name, metric, seed) for name in (arm, against))
    both = ours.keys() & theirs.keys()
    return {key: ours[key] for key in both}, {key: theirs[key] for key in both}


def shared_seeds(result: Result, arm: str, against: str) -> list[int]:
    """The seeds that both arms have."""
    ours, theirs = ({cell["seed"] for cell in result["cells"] if cell["arm"] == a} for a in (arm, against))
    return sorted(ours & theirs)


def by_prompt(found: Mapping[Key, float]) -> list[float]:
    """The mean score of each prompt over its repeats ("multi-01#2") and seeds, in the order of their names.

    Scores of one prompt are no independent samples; the prompts are what an interval is taken over.
    """
    prompts: dict[str, list[float]] = {}
    for (_, prompt), value in sorted(found.items()):
        prompts.setdefault(prompt.partition("#")[0], []).append(value)
    return [sum(values) / len(values) for _, values in sorted(prompts.items())]
