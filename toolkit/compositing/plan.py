"""Plans composites: samples clips and positions for each, and chooses the best layout.

Row number i is sampled from (seed, i) alone, so a longer plan begins with the shorter one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from toolkit.compositing.blending import Edge
from toolkit.compositing.eligible_clips import Background, Foreground, Rejections, rejection
from toolkit.compositing.layout import Layout, background_camera, row_id, row_of
from toolkit.compositing.pairing import TOTALS, PairingSampler
from toolkit.compositing.placement import CharacterToPlace, Place, Placement, find_placement, visible_area

MAX_TRIES = 40
"""Samples of clips for a row's first character; after them another character is tried."""
CANDIDATES = 4
"""Layouts of which a mix takes the one with the lowest cost.

More candidates would repeat the same few clips, and variety matters more than free space.
"""
MIN_SAMPLES_TO_REPORT = 5
"""A clip that was sampled this often and never fitted is reported."""
MIN_FRAMES = 5
"""Shortest composite."""


def plan_rows(
    numbers: Iterable[int], sampler: PairingSampler, *, three: float, place: Place, edge: Edge, seed: int
) -> tuple[list[dict[str, Any]], Rejections]:
    """Plan the rows with these numbers.

    Returns:
        The rows of plan.jsonl; the rows that could not be planned and the clips that never fitted.
    """
    rows, rejected = [], []
    sampled: Counter[str] = Counter()
    fitted: Counter[str] = Counter()
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        layout = _best_layout(sampler, three, place, rng, sampled, fitted)
        if layout is None:
            reason = f"no character fitted in {MAX_TRIES} tries each: see --place.overlap and --place.height"
            rejected.append(rejection(f"{sampler.kind}-{number:05d}", "composite", reason))
            continue
        about = {"kind": sampler.kind, "seed": seed, "index": number}
        row = about | row_of(layout) | {"edge": asdict(edge)}
        rows.append({"id": row_id(row)} | row)
    for clip, times in sorted(sampled.items()):
        if times >= MIN_SAMPLES_TO_REPORT and not fitted[clip]:
            reason = f"did not fit in any of {times} tries: it moves too far, is too large or too short"
            rejected.append(rejection(clip, "foreground", reason))
    return rows, rejected


def _best_layout(
    sampler: PairingSampler,
    three: float,
    place: Place,
    rng: np.random.Generator,
    sampled: Counter[str],
    fitted: Counter[str],
) -> Layout | None:
    """The layout of a row, None if nothing fits. Counts each foreground clip sampled and each that fitted."""
    wanted = CANDIDATES if sampler.kind == "mix" else 1
    for name in map(str, rng.permutation(sampler.names)):
        found: list[Layout] = []
        for _ in range(MAX_TRIES):
            foregrounds, background = sampler.sample(name, rng, three)
            sampled.update(one.clip.id for one in foregrounds)
            if layout := _layout(sampler.kind, foregrounds, background, place, rng):
                fitted.update(one.clip.id for one in foregrounds)
                found.append(layout)
            if len(found) == wanted:
                break
        if found:
            return min(found, key=lambda layout: layout.cost)
    return None


def _layout(
    kind: str,
    foregrounds: Sequence[Foreground],
    background: Background,
    place: Place,
    rng: np.random.Generator,
) -> Layout | None:
    """Place the characters of these clips; None if one does not fit or the composite would be too short."""
    names = [one.name for one in foregrounds] + [*background.names]
    if len(names) < min(TOTALS[kind]):  # type: ignore[index]
        return None
    is_still = kind == "references"
    fps, count, height, width = _shape(foregrounds, background)
    if not is_still and count < MIN_FRAMES:
        return None
    times = np.zeros(1) if is_still else np.arange(count) / fps
    views = visible_area(background_camera(background, times), len(times), height, width)
    facts = background.facts
    present = {name: track.at(facts.frames_at(times)) for name, track in background.tracks.items() if facts}
    placements: list[Placement] = []
    starts: list[float] = []
    for one in foregrounds:
        start = float(one.facts.times[rng.integers(len(one.track.boxes))]) if is_still else 0.0
        track = one.track.at(one.facts.frames_at(times + start))
        character = CharacterToPlace(
            track, one.facts.width, one.facts.height, one.cropped_bottom, one.cropped_top
        )
        overlap = float(rng.uniform(0, place.overlap)) if kind == "pairs" and placements else 0.0
        others = [*present.values(), *(placement.track for placement in placements)]
        placement = find_placement(character, others, views, place, overlap, rng)
        if placement is None:
            return None
        placements.append(placement)
        starts.append(start)
    return Layout(foregrounds, background, fps, height, width, times, starts, placements, present)


def _shape(foregrounds: Sequence[Foreground], background: Background) -> tuple[float, int, int, int]:
    """Frames per second, number of frames, height and width of a composite.

    The number of frames is 4k+1, as Wan's VAE requires.
    """
    first = foregrounds[0].clip
    fps = background.clip.fps if background.clip and background.form == "video" else first.fps
    shape = background.clip if background.clip else first
    seconds = [one.facts.seconds for one in foregrounds]
    if background.form == "video" and background.facts:
        seconds.append(background.facts.seconds)
    count = int(min(seconds) * fps + 1e-3)
    return fps, (count - 1) // 4 * 4 + 1, shape.height, shape.width
