"""Backend "carry": masks without any weights, by motion and colour alone.

In the prompt's frame the character is cut out by GrabCut (Rother et al., "GrabCut: Interactive Foreground
Extraction using Iterated Graph Cuts", SIGGRAPH 2004). From there, in both directions, the mask is carried to
the next frame by dense optical flow (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV
2016) and GrabCut draws its edge anew. Who moves in front of another background is told by that, too: movement
takes the place of the third axis of colour. The colours of the prompt's frame tell when the character is
lost, and where it is when it comes back.

Two characters are followed apart from each other; that both end up on the same one, `gates` tells.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.footage.clips import Clip
from toolkit.footage.decoding import VideoReader
from toolkit.footage.frame_spool import Spool
from toolkit.segmentation.interfaces import Options, Prompt, Propagate, Put
from toolkit.segmentation.mask_iou import box_of, region_iou
from toolkit.segmentation.motion_cues import (
    Looks,
    Picture,
    flow,
    likeness,
    looks_of,
    motion,
    neighbours,
    odds_at,
    with_motion,
)

HEIGHT = 240
"""Rows of the pictures that are compared; smaller clips are enlarged up to twice for it."""

SURE, WIDE = 3 / 240, 10 / 240
"""So far inside of the carried edge is the character for sure, so far outside it is not (picture heights)."""

TELLING = 0.9
"""Colours tell a character from what is around it if their odds are that good inside of it."""

ALIKE = 0.75
"""A mask of colours less alike than this to those of the prompt's frame is another's, or the background's."""

INERTIA = 0.1
"""The share of the carried mask in the new one; the rest is GrabCut's."""

Belief = NDArray[np.float32]
"""(H, W), how much of each pixel is believed to be the character, 0 to 1."""

Film = Callable[[int], Picture]
Bools = NDArray[np.bool_]


def carry(options: Options) -> Propagate:
    """Follow characters by motion and colour; needs no checkpoint and no GPU."""

    def propagate(clip: Clip, prompts: Mapping[str, Prompt], put: Put) -> None:
        import cv2

        scale = min(2.0, HEIGHT / clip.height)
        kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        size = (round(clip.width * scale), round(clip.height * scale))
        with Spool() as pictures, VideoReader(clip.path) as reader:
            count = 0
            for frame in reader:
                picture = cv2.resize(frame.rgb(), size, interpolation=kernel)
                pictures.put(count, np.asarray(picture, np.uint8))
                count += 1
            film = functools.lru_cache(8)(pictures.get)
            for name, prompt in prompts.items():
                for number, belief in follow(film, count, prompt, scale):
                    whole = cv2.resize(belief, (clip.width, clip.height), interpolation=cv2.INTER_LINEAR)
                    put(number, name, np.where(whole > 0.5, 255, 0).astype(np.uint8))

    return propagate


def follow(film: Film, count: int, prompt: Prompt, scale: float = 1.0) -> Iterator[tuple[int, Belief]]:
    """Frame numbers and beliefs, the prompt's frame first, then to the end, then back to the start.

    `scale` is the size of the film's pictures in that of the prompt's coordinates.
    """
    first, by_motion = cut_out(film, count, prompt, scale)
    looks = looks_of(film(prompt.frame), first > 0.5)
    yield prompt.frame, first
    for way in (1, -1):
        belief, is_out = first, not first.any()
        for number in range(prompt.frame + way, count if way > 0 else -1, way):
            if not is_out:
                belief = _step(film, count, number, number - way, belief, looks, by_motion)
                is_out = _is_lost(film(number), belief > 0.5, looks)
            if is_out:
                belief = _search(film(number), looks)
            # who comes back is searched for until all of it is in
            is_out &= not belief.any() or _is_cut_off(belief > 0.5)
            yield number, belief


def cut_out(film: Film, count: int, prompt: Prompt, scale: float) -> tuple[Belief, bool]:
    """The character in the prompt's frame, and whether it is told by how it moves.

    It is drawn by colour, from what stands in the middle, and by movement too, from what moves, if anything
    does. Boxes are tight: the cut-out that fills the box better is taken.
    """
    picture = film(prompt.frame)
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width] + 0.5
    marks = [(px * scale, py * scale, is_it) for px, py, is_it in prompt.points]
    if prompt.box is not None:
        left, top, right, bottom = (edge * scale for edge in prompt.box)
    else:
        own = np.asarray([(px, py) for px, py, is_it in marks if is_it])
        (left, top), (right, bottom) = own.min(0) - 0.3 * height, own.max(0) + 0.3 * height
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    near = neighbours(prompt.frame, count)
    moves = motion([flow(picture, film(other)) for other in near], ~inside)
    alive = inside & (moves > _stillness(moves[~inside]))
    away = np.hypot((2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top))
    likely, sure = inside & (away < 0.9), inside & (away < 0.5) & (prompt.box is not None)
    for px, py, is_it in marks:
        spot = np.hypot(x - px, y - py) <= max(2 * SURE * height, 1)
        inside, likely, sure, alive = (
            (part | spot) if is_it else (part & ~spot) for part in (inside, likely, sure, alive)
        )
    by_colour = _without_specks(_grab(picture, inside, likely, sure, rounds=2))
    if alive.sum() < 0.1 * inside.sum():
        return by_colour, False
    picture = with_motion(picture, moves, _grown(inside, round(height * 2 * WIDE)))
    by_motion = _without_specks(_grab(picture, inside, alive, np.zeros_like(alive), rounds=2))
    if prompt.box is not None and _filled(by_colour, inside) > _filled(by_motion, inside) + 0.05:
        return by_colour, False
    return by_motion, True


def _filled(belief: Belief, inside: Bools) -> float:
    """Overlap of the box around what is believed with the box that was given, 0 to 1."""
    around = np.zeros_like(inside)
    if box := box_of(belief > 0.5):
        left, top, right, bottom = map(int, box)
        around[top:bottom, left:right] = True
    return region_iou(around, inside)


def _step(
    film: Film, count: int, number: int, before: int, belief: Belief, looks: Looks, by_motion: bool
) -> Belief:
    """Carry the belief from the frame `before` to this one, and draw its edge anew."""
    import cv2

    picture, height = film(number), belief.shape[0]
    back = flow(picture, film(before))
    y, x = np.mgrid[:height, : belief.shape[1]].astype(np.float32)
    carried = cv2.remap(belief, x + back[..., 0], y + back[..., 1], cv2.INTER_LINEAR)
    likely = carried > 0.5
    inside, sure = _grown(likely, round(WIDE * height)), _grown(likely, -round(SURE * height))
    if looks.fit > TELLING:
        odds = odds_at(picture, looks.odds)
        inside = _grown(likely, round(2 * WIDE * height))
        likely, sure = inside & (carried + odds > 1), sure & (odds > 0.3)
    if by_motion:
        others = [flow(picture, film(other)) for other in neighbours(number, count) if other != before]
        moves = motion([back, *others], ~inside)
        still, own = _stillness(moves[~inside]), float(np.median(moves[sure])) if sure.any() else 0.0
        if own > still:  # what moves with the background has come along by mistake
            alive = (moves > max(still, 0.3 * own)).astype(np.uint8)
            closed = cv2.morphologyEx(alive, cv2.MORPH_CLOSE, _disc(round(0.025 * height))) > 0
            carried, sure = carried * closed, sure & closed
            likely = inside & closed & (carried > 0.2)
            picture = with_motion(picture, moves, _grown(inside, round(2 * WIDE * height)))
    drawn = _without_specks(_grab(picture, inside, likely, sure, rounds=1))
    return np.asarray(INERTIA * carried + (1 - INERTIA) * drawn, np.float32)


def _search(picture: Picture, looks: Looks) -> Belief:
    """A character that was lost: the largest patch of its colours, if that is like it in colours and size."""
    import cv2

    odds = cv2.GaussianBlur(odds_at(picture, looks.odds), (0, 0), max(0.01 * picture.shape[0], 0.5))
    patch = _without_specks((odds > 0.6).astype(np.float32), share=1.0) > 0.5
    if likeness(picture, patch, looks) < ALIKE or not 0.25 * looks.area < patch.sum() < 4 * looks.area:
        return np.zeros(patch.shape, np.float32)
    inside = _grown(patch, round(WIDE * len(patch)))
    return _without_specks(_grab(picture, inside, patch, _grown(patch, -round(SURE * len(patch))), rounds=2))


def _is_lost(picture: Picture, mask: Bools, looks: Looks) -> bool:
    return bool(mask.sum() < 0.05 * looks.area) or likeness(picture, mask, looks) < ALIKE


def _is_cut_off(mask: Bools) -> bool:
    return bool(mask[0].any() or mask[:, 0].any() or mask[:, -1].any())


def _grab(picture: Picture, inside: Bools, likely: Bools, sure: Bools, rounds: int) -> Belief:
    """GrabCut: `sure` is the character, outside of `inside` it is not, between that `likely` is a guess."""
    import cv2

    drawn = np.zeros(inside.shape, np.float32)
    if not (likely | sure).any():
        return drawn
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    margin = max(8, round(0.35 * max(len(rows), len(columns))))  # far away, other colours only mislead
    part = tuple(slice(max(place[0] - margin, 0), place[-1] + margin + 1) for place in (rows, columns))
    trimap = np.where(likely, cv2.GC_PR_FGD, np.where(inside, cv2.GC_PR_BGD, cv2.GC_BGD)).astype(np.uint8)
    trimap[sure] = cv2.GC_FGD
    trimap = np.ascontiguousarray(trimap[part])
    if (trimap & 1).all():
        return np.asarray(inside, np.float32)
    near, unused = np.ascontiguousarray(picture[part]), (0, 0, 0, 0)
    own, rest = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(near, trimap, unused, rest, own, rounds, cv2.GC_INIT_WITH_MASK)
    drawn[part] = trimap & 1
    return drawn


def _stillness(outside: NDArray[np.float32]) -> float:
    """What moves less than this, in pixels a frame, moves with the background."""
    return max(1.0, 2 * float(np.percentile(outside, 80))) if outside.size else 1.0


def _without_specks(drawn: Belief, share: float = 0.15) -> Belief:
    """Only the pieces of at least this share of the largest one."""
    import cv2

    _, labels, facts, _ = cv2.connectedComponentsWithStats((drawn > 0.5).astype(np.uint8))
    areas = facts[1:, cv2.CC_STAT_AREA]
    kept = np.r_[False, areas >= share * areas.max(initial=0)]
    return np.where(kept[labels], drawn, np.float32(0))


def _grown(mask: Bools, pixels: int) -> Bools:
    """The mask grown by so many pixels, or shrunk where that is negative."""
    import cv2

    change = cv2.dilate if pixels > 0 else cv2.erode
    return np.asarray(change(mask.astype(np.uint8), _disc(abs(pixels))) > 0)


def _disc(radius: int) -> NDArray[Any]:
    import cv2

    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2))
