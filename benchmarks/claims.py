"""What the results say: claims, each decided by one difference between two arms of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from benchmarks.results import Result, by_prompt, difference, paired_scores, shared_seeds
from toolkit.evaluation.bootstrap import Interval

FOLDER = Path(__file__).resolve().parent / "claims"

Verdict = Literal["confirmed", "denied", "undecided"]


@dataclass(frozen=True)
class Claim:
    """A sentence, and the comparison that decides it.

    Attributes:
        claim: The sentence.
        study, arm, against, metric: What is compared: the metric of `arm` minus that of `against`.
        expect: What the claim predicts of this difference. With "not lower" and "not higher" a difference of
            less than `margin` does not count.
        verdict: What the numbers say, as of the writing of `found`. A test compares it with `decide`.
        found: The result in words, for the verdict above.
        margin: The smallest difference that matters, in units of the metric.
    """

    claim: str
    study: str
    arm: str
    against: str
    metric: str
    expect: Literal["higher", "lower", "not lower", "not higher"]
    verdict: Verdict
    found: str
    margin: float = 0.1


@dataclass(frozen=True)
class Evidence:
    """The numbers of a claim, over the seeds and prompts that both arms have.

    Attributes:
        ours: Mean of the arm.
        theirs: Mean of the arm that it is compared with.
        effect: Their difference with its interval.
        by_seed: The difference of each seed.
    """

    ours: float
    theirs: float
    effect: Interval
    by_seed: tuple[float, ...]


def read_claims(folder: Path, order: Sequence[str]) -> list[Claim]:
    """The claims of all files in a folder, in the order of their studies, then as they stand in the files."""
    rows = [row for path in sorted(folder.glob("*.yaml")) for row in yaml.safe_load(path.read_text("utf-8"))]
    return sorted((Claim(**row) for row in rows), key=lambda claim: order.index(claim.study))


def find_evidence(claim: Claim, result: Result) -> Evidence | None:
    """The numbers of a claim; None if its study has none yet."""
    pair = (claim.arm, claim.against)
    effect = difference(result, *pair, claim.metric)
    if effect is None:
        return None
    ours, theirs = (by_prompt(found) for found in paired_scores(result, *pair, claim.metric))
    each = [difference(result, *pair, claim.metric, seed) for seed in shared_seeds(result, *pair)]
    by_seed = tuple(one.mean for one in each if one is not None)
    return Evidence(sum(ours) / len(ours), sum(theirs) / len(theirs), effect, by_seed)


def decide(claim: Claim, evidence: Evidence) -> Verdict:
    """What the numbers say; all seeds must agree.

    "higher" and "lower" are confirmed if the interval leaves out 0 on the predicted side, and denied if it
    leaves out an effect of `margin` on that side. "not lower" and "not higher" are confirmed if it leaves out
    a loss of `margin`, and denied if it leaves out 0 on the side of the loss.
    """
    sign = 1 if claim.expect in ("higher", "not lower") else -1
    ends = sorted((sign * evidence.effect.low, sign * evidence.effect.high))
    seeds = [sign * one for one in evidence.by_seed]
    least, most = min(ends[0], *seeds), max(ends[1], *seeds)
    confirmed_above, denied_below = (0.0, claim.margin)
    if claim.expect.startswith("not"):
        confirmed_above, denied_below = (-claim.margin, 0.0)
    if least > confirmed_above:
        return "confirmed"
    return "denied" if most < denied_below else "undecided"
