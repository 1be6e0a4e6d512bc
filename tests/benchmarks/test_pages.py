"""Claims are decided by their numbers; the pages of docs/results are what their sources say."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.claims import FOLDER, Claim, Evidence, decide, find_evidence, read_claims
from benchmarks.pages import make_pages, study_page
from benchmarks.results import Result, read_results
from benchmarks.store import flat, plain
from benchmarks.studies import STUDIES
from benchmarks.study import Study
from toolkit.evaluation.bootstrap import Interval

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS = DOCS / "results"
ORDER = list(STUDIES)
CLAIM = Claim("Good wins more.", "toss", "good", "bad", "won", "higher", "confirmed", "It does.")


def measured() -> dict[str, Result]:
    return {result["study"]: result for result in read_results(RESULTS, ORDER)}


def effect(low: float, high: float, *by_seed: float) -> Evidence:
    return Evidence(0.5, 0.5, Interval((low + high) / 2, low, high, 10), by_seed or ((low + high) / 2,))


@pytest.mark.parametrize(
    ("expect", "found", "verdict"),
    [
        ("higher", effect(0.02, 0.2), "confirmed"),
        ("higher", effect(0.0, 0.2), "undecided"),  # the interval touches 0
        ("higher", effect(0.02, 0.2, 0.3, -0.05), "undecided"),  # a seed says the contrary
        ("higher", effect(-0.2, -0.1), "denied"),
        ("higher", effect(-0.05, 0.05), "denied"),  # no room for an effect of 0.1
        ("higher", effect(-0.05, 0.05, 0.15, -0.15), "undecided"),
        ("higher", effect(-0.2, 0.2), "undecided"),
        ("not lower", effect(-0.05, 0.05), "confirmed"),
        ("not lower", effect(0.2, 0.3), "confirmed"),
        ("not lower", effect(-0.3, -0.2), "denied"),
        ("not lower", effect(-0.2, 0.0), "undecided"),
    ],
)
def test_a_verdict_needs_the_interval_and_every_seed(expect: Any, found: Evidence, verdict: str) -> None:
    mirrored: Any = {"higher": "lower", "not lower": "not higher"}[expect]
    turned = effect(-found.effect.high, -found.effect.low, *(-one for one in found.by_seed))
    assert decide(replace(CLAIM, expect=expect), found) == verdict
    assert decide(replace(CLAIM, expect=mirrored), turned) == verdict


def test_the_smallest_difference_that_matters_is_the_claims_own() -> None:
    small = effect(-0.01, 0.03)
    assert decide(replace(CLAIM, margin=0.05), small) == "denied"
    assert decide(replace(CLAIM, margin=0.02), small) == "undecided"


def cell(arm: str, seed: int, **won: float) -> dict[str, Any]:
    facts = {"commit": "c0ffee", "cores": 1, "seconds": {"data": 2.0, "train": 1.0}}
    return {"arm": arm, "seed": seed, "settings": {}, "scores": {"won": won}, **facts}


TOSS: Result = {
    "study": "toss",
    "question": "Who wins?",
    "command": "toss",
    "base": {"name": "b", "fingerprint": "f"},
    "arms": ["bad", "good"],
    "baseline": "bad",
    "contrast": ["good", "bad"],
    "metrics": ["won"],
    "settings": {"teams": [["a", "b"], ["c"]], "deep": {"skill": 3}},
    "planned": 3,
    "cells": [cell("bad", 0, p=0.0, q=0.5), cell("good", 0, p=1.0, q=0.5, r=0.0), cell("good", 1, p=0.0)],
}


def test_a_claim_is_taken_over_what_both_arms_have() -> None:
    found = find_evidence(CLAIM, TOSS)
    assert found is not None
    assert (found.ours, found.theirs, found.effect.mean, found.by_seed) == (0.75, 0.25, 0.5, (0.5,))
    assert find_evidence(replace(CLAIM, metric="lost"), TOSS) is None


def test_a_page_of_a_study() -> None:
    text = study_page(TOSS, [CLAIM], "Notes by hand.")
    assert (
        "| Good wins more. | undecided | It does. | won +0.50 ± 0.50<br>*good* 0.75, *bad* 0.25 | 1 |" in text
    )
    assert "| teams | a + b, c |\n| deep.skill | 3 |" in text
    assert text.endswith("## Notes\n\nNotes by hand.\n")
    assert "## Claims" not in study_page(TOSS, [], "")


def test_many_metrics_have_a_table_for_each_kind_of_prompt() -> None:
    metrics = [f"{kind} {k}" for kind in ("one", "two") for k in range(5)]
    text = study_page({**TOSS, "metrics": metrics}, [], "")
    assert "| arm | seeds | one 0 | one 1 | one 2 | one 3 | one 4 |\n" in text
    assert "| against bad | two 0 | two 1 | two 2 | two 3 | two 4 |\n" in text


# The committed results


def test_the_pages_are_what_their_sources_say() -> None:
    for name, text in make_pages(RESULTS, ORDER).items():
        written = (RESULTS / name).read_text(encoding="utf-8")
        assert written == text, f"{name}: run python benchmarks/evidence.py --table"


def test_every_claim_says_what_its_numbers_say() -> None:
    results = measured()
    for claim in read_claims(FOLDER, ORDER):
        found = find_evidence(claim, results[claim.study])
        assert found is not None, claim
        assert decide(claim, found) == claim.verdict, claim


def test_every_study_decides_a_claim() -> None:
    assert {claim.study for claim in read_claims(FOLDER, ORDER)} == set(STUDIES)


def test_every_note_belongs_to_a_page() -> None:
    pages = {"README-top", "README-bottom", *measured()}
    assert {path.stem for path in (RESULTS / "notes").glob("*.md")} <= pages


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_results_are_of_the_settings_that_their_study_has(study: Study) -> None:
    result = measured()[study.name]
    for one in result["cells"]:
        settings = flat(plain(dataclasses.asdict(study.arms[one["arm"]])))
        recorded = {**flat(result["settings"]), **one["settings"]}  # an older study lacks newer settings
        assert {name: settings.get(name) for name in recorded} == recorded


@pytest.mark.parametrize(
    "page",
    sorted([*RESULTS.rglob("*.md"), DOCS / "glossary.md"]),
    ids=lambda page: str(page.relative_to(DOCS)),
)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
        path = page.parent / target if target else page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]
            assert anchor in slugs, f"{page}: {target}#{anchor}"
