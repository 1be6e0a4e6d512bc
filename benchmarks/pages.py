"""The pages of docs/results: an index of claims, and a page for each study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.claims import FOLDER, Claim, decide, find_evidence, read_claims
from benchmarks.results import (
    Key,
    Result,
    arms,
    by_prompt,
    difference,
    read_results,
    scores,
    shared_seeds,
)
from benchmarks.store import flat
from toolkit.core.files import write_atomic
from toolkit.evaluation.bootstrap import Interval, mean_interval

NOTES = "notes"
"""The folder of what is written by hand, beside the pages."""
WIDE = 8
"""Metrics in one table; of more, each kind of prompt has a table of its own."""


def write_pages(folder: Path, order: Sequence[str]) -> None:
    """Write README.md and a page for each study from the JSON files and notes of a folder."""
    for name, text in make_pages(folder, order).items():
        write_atomic(folder / name, text)


def make_pages(folder: Path, order: Sequence[str]) -> dict[str, str]:
    """The generated pages of a folder by file name."""
    results = {result["study"]: result for result in read_results(folder, order)}
    claims = [claim for claim in read_claims(FOLDER, order) if claim.study in results]
    pages = {
        f"{name}.md": study_page(result, [one for one in claims if one.study == name], notes(folder, name))
        for name, result in results.items()
    }
    top, bottom = notes(folder, "README-top"), notes(folder, "README-bottom")
    return {"README.md": index_page(results, claims, top, bottom), **pages}


def notes(folder: Path, name: str) -> str:
    """The notes of a page, "" if there are none. Their links, which start in notes/, are made the page's."""
    path = folder / NOTES / f"{name}.md"
    return path.read_text(encoding="utf-8").strip().replace("](../", "](") if path.exists() else ""


def index_page(results: Mapping[str, Result], claims: Sequence[Claim], top: str, bottom: str) -> str:
    """README.md: a row for each claim, the studies, and what is written by hand above and below."""
    parts = [_made("the JSON files here, benchmarks/claims/*.yaml and notes/README-*.md"), "# Results", top]
    parts += ["## Claims", _claims_table(claims, results, links=True), "## Studies"]
    parts.append(
        _table(("study", "question"), ((f"[{n}]({n}.md)", one["question"]) for n, one in results.items()))
    )
    return _joined([*parts, bottom])


def study_page(result: Result, claims: Sequence[Claim], told: str) -> str:
    """One study: question, claims, setting, scores, differences, figures, notes."""
    name = result["study"]
    parts = [
        _made(f"{name}.json, benchmarks/claims/*.yaml and notes/{name}.md"),
        f"# {name}",
        result["question"],
        "[All results](README.md), [how to read the numbers](README.md#how-to-read-the-numbers), "
        "[metrics](README.md#metrics), [glossary](../glossary.md).",
    ]
    if claims:
        parts += ["## Claims", _claims_table(claims, {name: result}, links=False)]
    parts += [
        "## Setting",
        _setting(result),
        "## Scores",
        *tables(result),
        f"![Scores of {name}]({name}.svg)",
    ]
    if result.get("shown"):
        parts.append(f"![The same prompts in each arm, at seed 0]({name}.png)")
    return _joined([*parts, *(["## Notes", told] if told else [])])


def tables(result: Result) -> list[str]:
    """Scores, differences from the baseline, and the decisive contrast seed by seed, as Markdown."""
    metrics = list(result["metrics"])
    kinds = (
        list(dict.fromkeys(metric.partition(" ")[0] for metric in metrics)) if len(metrics) > WIDE else [""]
    )
    groups = [[metric for metric in metrics if metric.startswith(kind)] for kind in kinds]
    return [
        *(_scores(result, group) for group in groups),
        *(_differences(result, group) for group in groups),
        *_contrast(result),
    ]


def _made(sources: str) -> str:
    return f"<!-- Made by `python benchmarks/evidence.py --table` from {sources}. Edits here are lost. -->"


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _claims_table(claims: Sequence[Claim], results: Mapping[str, Result], links: bool) -> str:
    head = ["claim", "verdict", "what we found", "effect", "seeds", *(["study"] if links else [])]
    rows = []
    for claim in claims:
        result = results[claim.study]
        evidence = find_evidence(claim, result)
        if evidence is None:
            continue
        effect = (
            f"{claim.metric} {_signed(evidence.effect)}<br>"
            f"*{claim.arm}* {evidence.ours:.2f}, *{claim.against}* {evidence.theirs:.2f}"
        )
        seeds = str(len(shared_seeds(result, claim.arm, claim.against)))
        link = [f"[{claim.study}]({claim.study}.md)"] if links else []
        rows.append([claim.claim, decide(claim, evidence), claim.found, effect, seeds, *link])
    return _table(head, rows)


def _setting(result: Result) -> str:
    """How the study was made: command, time, base, code; the baseline's settings; how other arms differ."""
    name, base, cells = result["study"], result["base"], result["cells"]
    shared = max(cell["seconds"].get("data", 0.0) for cell in cells)
    longest = max(sum(cell["seconds"].values()) - cell["seconds"].get("data", 0.0) for cell in cells)
    cores = " or ".join(sorted({str(cell["cores"]) for cell in cells}))
    commits = ", ".join(sorted({cell["commit"] for cell in cells}))
    facts = [
        f"- Command: `{result['command']}`",
        f"- Cells: {len(cells)} of {result['planned']}, of up to {longest:.0f} s each",
        f"- Shared data: {shared:.0f} s; CPU cores of a cell: {cores}",
        f"- Base: {base['name']} (`{base['fingerprint']}`); code: {commits}",
        f"- All settings and every single score: [{name}.json]({name}.json)",
    ]
    own = {cell["arm"]: cell["settings"] for cell in cells}
    changes = [
        (arm, "(baseline)" if arm == result["baseline"] else _settings(own[arm])) for arm in arms(result)
    ]
    return _joined(
        [
            "\n".join(facts),
            _table(("arm", "settings that differ from the baseline's"), changes),
            "<details><summary>Settings of the baseline</summary>",
            _table(
                ("setting", "value"),
                ((name, _value(value)) for name, value in flat(result["settings"]).items()),
            ),
            "</details>",
        ]
    ).strip()


def _settings(values: Mapping[str, object]) -> str:
    return "; ".join(f"{name}: {_value(value)}" for name, value in values.items())


def _value(value: object, between: str = ", ") -> str:
    return between.join(_value(one, " + ") for one in value) if isinstance(value, list) else str(value)


def _scores(result: Result, metrics: Sequence[str]) -> str:
    rows = []
    for arm in arms(result):
        seeds = len({cell["seed"] for cell in result["cells"] if cell["arm"] == arm})
        rows.append([arm, str(seeds), *(_mean(scores(result, arm, metric)) for metric in metrics)])
    return _table(["arm", "seeds", *metrics], rows)


def _differences(result: Result, metrics: Sequence[str]) -> str:
    baseline = result["baseline"]
    rows = [
        [arm, *(_signed(difference(result, arm, baseline, metric)) for metric in metrics)]
        for arm in arms(result)
        if arm != baseline
    ]
    return _table([f"against {baseline}", *metrics], rows)


def _contrast(result: Result) -> list[str]:
    """The decisive comparison seed by seed: training varies from run to run, which prompts cannot show."""
    arm, against = result["contrast"]
    seeds = shared_seeds(result, arm, against)
    if len(seeds) < 2:
        return []
    rows = []
    for metric in result["metrics"]:
        each = [difference(result, arm, against, metric, seed) for seed in seeds]
        rows.append([metric, *("–" if one is None else f"{one.mean:+.2f}" for one in each)])
    return [_table([f"{arm} against {against}", *(f"seed {seed}" for seed in seeds)], rows)]


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
