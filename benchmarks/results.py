"""Results of studies: a JSON file each, and the tables that are made from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import write_atomic
from toolkit.evaluation.bootstrap import Interval, mean_interval, paired_interval

BEGIN = "<!-- evidence: made by benchmarks/evidence.py --table, edits below are lost -->"
END = "<!-- evidence ends -->"

ABOUT = """\
Scores are 0 to 1, as `toolkit/sandbox/score.py` and `benchmarks/mixing.py` define them; a metric begins
with the kind of prompt that it is taken over: one character, several (inter-style: of both styles), or
prose about creatures that are in no show. ± is half the width of a 95 % bootstrap interval over the
prompts of an arm, whose repeats and seeds are averaged first; how much training varies is told seed by
seed. Differences are taken prompt by prompt with the same noise; those whose interval leaves out 0 are
bold; ± 0.00 says that all values are equal, not that others would be. Seeds vary training and noise, not
the clips. A few prompts are word for word captions of drawn shots."""

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
    ours, theirs = (scores(result, name, metric, seed) for name in (arm, against))
    both = ours.keys() & theirs.keys()
    one, other = (by_prompt({key: found[key] for key in both}) for found in (ours, theirs))
    return paired_interval(one, other) if both else None


def by_prompt(found: Mapping[Key, float]) -> list[float]:
    """The mean score of each prompt over its repeats ("multi-01#2") and seeds, in the order of their names.

    Scores of one prompt are no independent samples; the prompts are what an interval is taken over.
    """
    prompts: dict[str, list[float]] = {}
    for (_, prompt), value in sorted(found.items()):
        prompts.setdefault(prompt.partition("#")[0], []).append(value)
    return [sum(values) / len(values) for _, values in sorted(prompts.items())]


def page(results: Iterable[Result]) -> str:
    """All studies in Markdown, between the markers."""
    parts = [BEGIN, "", ABOUT]
    for result in results:
        parts += ["", study_section(result)]
    return "\n".join([*parts, "", END])


def replace_block(text: str, block: str) -> str:
    """The page with everything between its markers made anew."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise CastmixError(f"the results page must have the lines {BEGIN} and {END} once each")
    return text.partition(BEGIN)[0] + block + text.partition(END)[2]


def study_section(result: Result) -> str:
    """One study: question, how it was made, scores, differences, the decisive contrast."""
    base, cells = result["base"], result["cells"]
    shared = max(cell["seconds"].get("data", 0.0) for cell in cells)
    longest = max(sum(cell["seconds"].values()) - cell["seconds"].get("data", 0.0) for cell in cells)
    cores = " or ".join(sorted({str(cell["cores"]) for cell in cells}))
    commits = ", ".join(sorted({cell["commit"] for cell in cells}))
    on = f"base {base['name']} ({base['fingerprint']}), code {commits}"
    made = (
        f"`{result['command']}`: {len(cells)} of {result['planned']} cells of up to {longest:.0f} s, "
        f"besides {shared:.0f} s of shared data, on {cores} CPU core(s) each; {on}. "
        f"Settings and every single score: [{result['study']}.json](results/{result['study']}.json)."
    )
    parts = [f"### {result['study']}", "", result["question"], "", made, ""]
    parts += [
        "| | seeds | " + " | ".join(result["metrics"]) + " |",
        "|---" * (len(result["metrics"]) + 2) + "|",
    ]
    for arm in arms(result):
        row = [_mean(scores(result, arm, metric)) for metric in result["metrics"]]
        seeds = len({cell["seed"] for cell in cells if cell["arm"] == arm})
        parts.append(f"| {arm} | {seeds} | {' | '.join(row)} |")
    parts += _differences(result) + _contrast(result)
    parts += ["", f"![Scores of {result['study']}](results/{result['study']}.svg)"]
    if result.get("shown"):
        parts += ["", f"![The same prompts in each arm, at seed 0](results/{result['study']}.png)"]
    return "\n".join(parts)


def _differences(result: Result) -> list[str]:
    baseline, metrics = result["baseline"], result["metrics"]
    parts = ["", f"| against {baseline} | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for arm in (arm for arm in arms(result) if arm != baseline):
        row = [_signed(difference(result, arm, baseline, metric)) for metric in metrics]
        parts.append(f"| {arm} | {' | '.join(row)} |")
    return parts


def _contrast(result: Result) -> list[str]:
    """The decisive comparison seed by seed: training varies from run to run, which prompts cannot show."""
    arm, against = result["contrast"]
    seeds = sorted({cell["seed"] for cell in result["cells"] if cell["arm"] == arm})
    told = []
    for metric in result["metrics"]:
        each = [difference(result, arm, against, metric, seed) for seed in seeds]
        found = [f"{one.mean:+.2f}" for one in each if one is not None]
        if len(found) > 1:
            told.append(f"{metric} {', '.join(found)}")
    return ["", f"{arm} against {against}, seed by seed: {'; '.join(told)}."] if told else []


def _mean(found: Mapping[Key, float]) -> str:
    if not found:
        return "–"
    interval = mean_interval(by_prompt(found))
    return f"{interval.mean:.2f} ± {(interval.high - interval.low) / 2:.2f}"


def _signed(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    text = f"{interval.mean:+.2f} ± {(interval.high - interval.low) / 2:.2f}"
    return f"**{text}**" if interval.low > 0 or interval.high < 0 else text
