"""How often the recognisers are right: on clips drawn afresh, or redrawn by a VAE, whose truth is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.sandbox.recogniser.networks import LOOK, Recognisers
from toolkit.sandbox.recogniser.recognise import recognise_many
from toolkit.sandbox.recogniser.truth import TESTING, Truth, truth
from toolkit.sandbox.recogniser.verdict import Creature, Verdict
from toolkit.sandbox.world import world

CREATURE = ("who", *LOOK, "style", "action")
CLIP = ("scene", "scene_style", "interaction", "count")
MISSED = "not found"
SEEN_AREA = 300  # pixels over a whole clip, of some 7,000: who shows less cannot be asked for
Array = NDArray[np.uint8]


@dataclass(frozen=True)
class Answer:
    """What one judge said, and what it should have said."""

    judge: str
    truth: str
    said: str


def truths(model: Recognisers, n: int, seed: int, *, varied: bool = False) -> list[Truth]:
    """Clips to test on; varied ones have places, sizes and cameras that no generator is trained on."""
    named = {name: world.Look(*look) for name, look in model.vocabulary.looks.items()}
    return [truth(TESTING + 1_000_000 * seed + i, named, varied=varied) for i in range(n)]


def _boxes(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Masks (F, H, W) filled up to their boxes."""
    full = np.zeros_like(masks)
    for frame, mask in zip(full, masks, strict=True):
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(xs):
            frame[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1] = True
    return full


def _overlap(creature: Creature, full: NDArray[np.bool_]) -> tuple[float, float]:
    """How many pixels a creature's boxes share with boxes (F, H, W), and which part of both, 0..1, that is.

    Frames in which the creature is not seen do not count.
    """
    there = np.zeros_like(full)
    seen = np.asarray(np.isfinite(creature.boxes).all(axis=1), np.bool_)
    for frame, box, yes in zip(there, creature.boxes, seen, strict=True):
        if yes:
            left, top, right, bottom = box.astype(int)
            frame[top:bottom, left:right] = True
    both = float((there & full).sum())
    return both, both / max(1.0, float((there | full)[seen].sum()))


def paired(verdict: Verdict, masks: NDArray[np.bool_]) -> dict[int, Creature]:
    """Which creature of a verdict stands where which actor of visible masks (A, F, H, W) does."""
    boxes = [_boxes(mask) for mask in masks]
    fits = [(*_overlap(c, box), a, i) for a, box in enumerate(boxes) for i, c in enumerate(verdict.creatures)]
    pairs: dict[int, Creature] = {}
    left = set(range(len(verdict.creatures)))
    for _, share, a, i in sorted(fits, reverse=True):
        if share > 0.3 and i in left and a not in pairs:
            pairs[a] = verdict.creatures[i]
            left.remove(i)
    return pairs


def compare(model: Recognisers, real: Truth, masks: NDArray[np.bool_], verdict: Verdict) -> list[Answer]:
    """Hold a verdict against the truth, whose visible masks are (A, F, H, W).

    Creatures are paired by place alone; who shows less than `SEEN_AREA` is not asked for.
    """
    found = paired(verdict, masks)
    asked = [a for a, mask in enumerate(masks) if mask.sum() >= SEEN_AREA]
    count = len(verdict.creatures) - len(found.keys() - set(asked))
    pairs = [(a, found.get(a)) for a in asked]
    answers = []
    for a, creature in pairs:
        look = [str(getattr(real.actors[a].look, key)) for key in LOOK]
        values = dict(zip(LOOK, look, strict=True)) | {"who": model.vocabulary.who(look) or "nobody"}
        values |= {"style": real.actors[a].style, "action": real.actors[a].action}
        for key in CREATURE:
            said = (getattr(creature, key) or "nobody") if creature else MISSED
            answers.append(Answer(key, values[key], said))
    answers.append(Answer("scene", real.scene, verdict.scene))
    answers.append(Answer("scene_style", real.scene_style, verdict.scene_style))
    answers.append(Answer("interaction", real.interaction or "none", verdict.interaction or "none"))
    answers.append(Answer("count", str(len(asked)), str(count)))
    return answers


def judge(
    model: Recognisers, clips: Sequence[Truth], redraw: Callable[[Array], Array] | None = None
) -> list[Answer]:
    """Draw clips, redraw each of them (F, H, W, 3) if asked to, and hold the verdicts against the truth."""
    answers = []
    for start in range(0, len(clips), 32):
        part = clips[start : start + 32]
        drawn = [clip.draw() for clip in part]
        frames = [redraw(f) if redraw else f for f, _ in drawn]
        verdicts = recognise_many(model, frames)
        for clip, (_, masks), verdict in zip(part, drawn, verdicts, strict=True):
            answers += compare(model, clip, masks, verdict)
    return answers


def accuracy(answers: Iterable[Answer]) -> dict[str, float]:
    """Share of right answers by judge, 0..1; `count` is whether as many creatures were seen as there are."""
    right, all_ = Counter[str](), Counter[str]()
    for answer in answers:
        all_[answer.judge] += 1
        right[answer.judge] += answer.said == answer.truth
    return {key: right[key] / all_[key] for key in (*CREATURE, *CLIP) if all_[key]}


def confusion(answers: Iterable[Answer], key: str) -> dict[str, dict[str, int]]:
    """How often each truth was called what by one judge: `matrix[truth][said]`."""
    matrix: dict[str, dict[str, int]] = {}
    for answer in answers:
        if answer.judge == key:
            row = matrix.setdefault(answer.truth, {})
            row[answer.said] = row.get(answer.said, 0) + 1
    return matrix


def recogniser_accuracy(
    model: Recognisers, n: int, seed: int, redraw: Callable[[Array], Array] | None = None
) -> dict[str, float]:
    """Accuracy of each judge on `n` fresh clips (F, H, W, 3), redrawn by `redraw` if given.

    Styles of creatures and scenes are independent; a third of the creatures are near misses of named ones,
    and every seventh pair has swapped colours or accessories. A creature that was not found counts against
    all its judges.
    """
    return accuracy(judge(model, truths(model, n, seed), redraw))
