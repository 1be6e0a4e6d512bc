"""Measures the recognisers' accuracy on freshly drawn, labelled clips, optionally redrawn by a VAE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.sandbox.recogniser.networks import LOOK, Recognisers
from toolkit.sandbox.recogniser.recognise import recognise_many
from toolkit.sandbox.recogniser.truth import TEST_SEEDS, LabelledClip, sample_clip
from toolkit.sandbox.recogniser.verdict import Creature, Verdict
from toolkit.sandbox.world import world

CREATURE = ("who", *LOOK, "style", "action")
CLIP = ("scene", "scene_style", "interaction", "count")
MISSED = "not found"
MIN_AREA = 300  # visible pixels over a whole clip, of about 7,000: creatures with fewer are not evaluated
Array = NDArray[np.uint8]


@dataclass(frozen=True)
class Answer:
    """One prediction and its true value. `question` is an entry of `CREATURE` or `CLIP`."""

    question: str
    truth: str
    predicted: str


def sample_test_clips(model: Recognisers, n: int, seed: int, *, varied: bool = False) -> list[LabelledClip]:
    """Sample test clips. `varied`: positions, sizes and cameras have wider ranges than in pretraining."""
    named = {name: world.Look(*look) for name, look in model.vocabulary.looks.items()}
    return [sample_clip(TEST_SEEDS + 1_000_000 * seed + i, named, varied=varied) for i in range(n)]


def _boxes(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return masks (F, H, W) filled up to their bounding boxes."""
    full = np.zeros_like(masks)
    for frame, mask in zip(full, masks, strict=True):
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(xs):
            frame[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1] = True
    return full


def _overlap(creature: Creature, full: NDArray[np.bool_]) -> tuple[float, float]:
    """Return intersection (pixels) and IoU of a creature's boxes with the boxes in `full` (F, H, W).

    The IoU counts only frames in which the creature is seen.
    """
    there = np.zeros_like(full)
    seen = np.asarray(np.isfinite(creature.boxes).all(axis=1), np.bool_)
    for frame, box, yes in zip(there, creature.boxes, seen, strict=True):
        if yes:
            left, top, right, bottom = box.astype(int)
            frame[top:bottom, left:right] = True
    both = float((there & full).sum())
    return both, both / max(1.0, float((there | full)[seen].sum()))


def match_creatures(verdict: Verdict, masks: NDArray[np.bool_]) -> dict[int, Creature]:
    """Match predicted creatures to actors with visible masks (A, F, H, W), by overlap of their boxes."""
    boxes = [_boxes(mask) for mask in masks]
    fits = [(*_overlap(c, box), a, i) for a, box in enumerate(boxes) for i, c in enumerate(verdict.creatures)]
    pairs: dict[int, Creature] = {}
    left = set(range(len(verdict.creatures)))
    for _, share, a, i in sorted(fits, reverse=True):
        if share > 0.3 and i in left and a not in pairs:
            pairs[a] = verdict.creatures[i]
            left.remove(i)
    return pairs


def compare(
    model: Recognisers, real: LabelledClip, masks: NDArray[np.bool_], verdict: Verdict
) -> list[Answer]:
    """Compare the predictions for a clip with its labels; `masks` are its visible masks (A, F, H, W).

    Creatures are matched by position alone. Actors with less than `MIN_AREA` visible pixels do not count.
    """
    found = match_creatures(verdict, masks)
    asked = [a for a, mask in enumerate(masks) if mask.sum() >= MIN_AREA]
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


def judge_clips(
    model: Recognisers, clips: Sequence[LabelledClip], redraw: Callable[[Array], Array] | None = None
) -> list[Answer]:
    """Draw clips, redraw each (F, H, W, 3) with `redraw` if given, and compare predictions with labels."""
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
    """Return the accuracy of each question, 0 to 1. "count" is the number of creatures in a clip."""
    right, all_ = Counter[str](), Counter[str]()
    for answer in answers:
        all_[answer.question] += 1
        right[answer.question] += answer.predicted == answer.truth
    return {key: right[key] / all_[key] for key in (*CREATURE, *CLIP) if all_[key]}


def recogniser_accuracy(
    model: Recognisers, n: int, seed: int, redraw: Callable[[Array], Array] | None = None
) -> dict[str, float]:
    """Measure the accuracy of each question on `n` test clips, redrawn by `redraw` (F, H, W, 3) if given.

    Styles of creatures and scenes are independent. A third of the creatures are near misses of named
    characters, and every seventh pair has swapped colours or accessories. A creature that was not detected
    counts as wrong for all its questions.
    """
    return accuracy(judge_clips(model, sample_test_clips(model, n, seed), redraw))
