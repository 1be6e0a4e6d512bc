"""Backend "carry": tracks characters by motion and colour, without a trained model.

1. In the prompt's frame, GrabCut cuts the character out (Rother et al., "GrabCut: Interactive Foreground
   Extraction using Iterated Graph Cuts", SIGGRAPH 2004).
2. From there, in both directions, dense optical flow carries the mask to the next frame (Kroeger et al.,
   "Fast Optical Flow using Dense Inverse Search", ECCV 2016). GrabCut draws its edge again.
3. If the character moves relative to the background, motion replaces the third colour axis of GrabCut.
4. The colours of the prompt's frame tell when the character is lost, and where it reappears.

Each character is tracked separately. If two tracks end up on the same character, `quality_gates` detects it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.footage.clips import Clip
from toolkit.footage.decoding import VideoReader
from toolkit.footage.disk_arrays import DiskArrays
from toolkit.segmentation.interfaces import Options, Prompt, Propagate, StoreMask
from toolkit.segmentation.mask_iou import box_of, region_iou
from toolkit.segmentation.motion_cues import (
    ColourModel,
    Picture,
    colour_model,
    colour_similarity,
    neighbour_frames,
    optical_flow,
    pixel_odds,
    relative_motion,
    with_motion,
)

HEIGHT = 240
"""Working height in pixels. Smaller clips are enlarged, at most by a factor of two."""

INNER, OUTER = 3 / 240, 10 / 240
"""Distances from the carried edge, in picture heights.

Deeper inside than INNER is foreground; further outside than OUTER is background; GrabCut decides between.
"""

MIN_FIT = 0.9
"""Colours are used to separate the character if their mean odds inside of it are at least this."""

MIN_SIMILARITY = 0.75
"""A mask whose colours are less similar to the prompt's frame does not show the character."""

INERTIA = 0.1
"""Weight of the carried mask in the new mask; the rest is GrabCut's."""

SoftMask = NDArray[np.float32]
"""(H, W), probability that each pixel is the character, 0 to 1."""

GetFrame = Callable[[int], Picture]
Bools = NDArray[np.bool_]


def optical_flow_tracker(options: Options) -> Propagate:
    """A tracker by motion and colour; it uses none of the options."""

    def propagate(clip: Clip, prompts: Mapping[str, Prompt], store: StoreMask) -> None:
        import cv2

        scale = min(2.0, HEIGHT / clip.height)
        kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        size = (round(clip.width * scale), round(clip.height * scale))
        with DiskArrays() as pictures, VideoReader(clip.path) as reader:
            count = 0
            for frame in reader:
                picture = cv2.resize(frame.rgb(), size, interpolation=kernel)
                pictures.put(count, np.asarray(picture, np.uint8))
                count += 1
            get_frame = functools.lru_cache(8)(pictures.get)
            for name, prompt in prompts.items():
                for number, soft in track(get_frame, count, prompt, scale):
                    full = cv2.resize(soft, (clip.width, clip.height), interpolation=cv2.INTER_LINEAR)
                    store(number, name, np.where(full > 0.5, 255, 0).astype(np.uint8))

    return propagate


def track(
    get_frame: GetFrame, count: int, prompt: Prompt, scale: float = 1.0
) -> Iterator[tuple[int, SoftMask]]:
    """Yield frame numbers and masks: the prompt's frame, then to the end, then back to the start.

    Args:
        get_frame: Returns the frame of a number.
        count: Number of frames.
        prompt: Position of the character.
        scale: Size of the frames relative to the prompt's coordinates.
    """
    first, use_motion = initial_mask(get_frame, count, prompt, scale)
    model = colour_model(get_frame(prompt.frame), first > 0.5)
    yield prompt.frame, first
    for step in (1, -1):
        mask, is_lost = first, not first.any()
        for number in range(prompt.frame + step, count if step > 0 else -1, step):
            if not is_lost:
                mask = _carry(get_frame, count, number, number - step, mask, model, use_motion)
                is_lost = _is_lost(get_frame(number), mask > 0.5, model)
            if is_lost:
                mask = _redetect(get_frame(number), model)
            # a character that returns through an edge is redetected until all of it is inside
            is_lost &= not mask.any() or _touches_edge(mask > 0.5)
            yield number, mask


def initial_mask(get_frame: GetFrame, count: int, prompt: Prompt, scale: float) -> tuple[SoftMask, bool]:
    """The mask in the prompt's frame, and whether it was found by motion.

    It is cut out by colour, starting from the middle of the box. If something in the box moves, it is also
    cut out by motion. Boxes are tight, so the result that fills the box better is taken.
    """
    picture = get_frame(prompt.frame)
    height = len(picture)
    inside, likely, certain = _regions_of(prompt, picture, scale)
    neighbours = neighbour_frames(prompt.frame, count)
    moves = relative_motion([optical_flow(picture, get_frame(other)) for other in neighbours], ~inside)
    moving = inside & (moves > _motion_threshold(moves[~inside]))
    y, x = np.mgrid[:height, : picture.shape[1]] + 0.5
    for px, py, is_positive in prompt.points:
        spot = np.hypot(x - px * scale, y - py * scale) <= max(2 * INNER * height, 1)
        inside, likely, certain, moving = (
            (part | spot) if is_positive else (part & ~spot) for part in (inside, likely, certain, moving)
        )
    by_colour = _large_components(_grabcut(picture, inside, likely, certain, rounds=2))
    if moving.sum() < 0.1 * inside.sum():
        return by_colour, False
    picture = with_motion(picture, moves, _dilated(inside, round(height * 2 * OUTER)))
    by_motion = _large_components(_grabcut(picture, inside, moving, np.zeros_like(moving), rounds=2))
    if prompt.box is not None and _box_fill(by_colour, inside) > _box_fill(by_motion, inside) + 0.05:
        return by_colour, False
    return by_motion, True


def _regions_of(prompt: Prompt, picture: Picture, scale: float) -> tuple[Bools, Bools, Bools]:
    """Where a prompt's character may be (the box), is likely, and is certain; (H, W) each.

    Without a box, the box is the positive points with a margin, and nothing is certain.
    """
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width] + 0.5
    if prompt.box is not None:
        left, top, right, bottom = (edge * scale for edge in prompt.box)
    else:
        own = np.asarray([(px * scale, py * scale) for px, py, is_positive in prompt.points if is_positive])
        (left, top), (right, bottom) = own.min(0) - 0.3 * height, own.max(0) + 0.3 * height
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    from_centre = np.hypot((2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top))
    certain = inside & (from_centre < 0.5) & (prompt.box is not None)
    return inside, inside & (from_centre < 0.9), certain


def _box_fill(mask: SoftMask, inside: Bools) -> float:
    """IoU of the mask's bounding box with the given box, 0 to 1."""
    around = np.zeros_like(inside)
    if box := box_of(mask > 0.5):
        left, top, right, bottom = map(int, box)
        around[top:bottom, left:right] = True
    return region_iou(around, inside)


def _carry(
    get_frame: GetFrame,
    count: int,
    number: int,
    before: int,
    mask: SoftMask,
    model: ColourModel,
    use_motion: bool,
) -> SoftMask:
    """Carry the mask from the frame `before` to the frame `number`, and draw its edge again."""
    import cv2

    picture, height = get_frame(number), mask.shape[0]
    back = optical_flow(picture, get_frame(before))
    y, x = np.mgrid[:height, : mask.shape[1]].astype(np.float32)
    carried = cv2.remap(mask, x + back[..., 0], y + back[..., 1], cv2.INTER_LINEAR)
    likely = carried > 0.5
    inside, certain = _dilated(likely, round(OUTER * height)), _dilated(likely, -round(INNER * height))
    if model.fit > MIN_FIT:
        odds = pixel_odds(picture, model.odds)
        inside = _dilated(likely, round(2 * OUTER * height))
        likely, certain = inside & (carried + odds > 1), certain & (odds > 0.3)
    if use_motion:
        neighbours = [other for other in neighbour_frames(number, count) if other != before]
        flows = [back, *(optical_flow(picture, get_frame(other)) for other in neighbours)]
        moves = relative_motion(flows, ~inside)
        threshold = _motion_threshold(moves[~inside])
        own = float(np.median(moves[certain])) if certain.any() else 0.0
        if own > threshold:  # pixels that move with the background are in the mask by mistake
            moving = (moves > max(threshold, 0.3 * own)).astype(np.uint8)
            closed = cv2.morphologyEx(moving, cv2.MORPH_CLOSE, _disc(round(0.025 * height))) > 0
            carried, certain = carried * closed, certain & closed
            likely = inside & closed & (carried > 0.2)
            picture = with_motion(picture, moves, _dilated(inside, round(2 * OUTER * height)))
    drawn = _large_components(_grabcut(picture, inside, likely, certain, rounds=1))
    return np.asarray(INERTIA * carried + (1 - INERTIA) * drawn, np.float32)


def _redetect(picture: Picture, model: ColourModel) -> SoftMask:
    """Search a lost character: the largest patch of its colours, if its colours and size are similar."""
    import cv2

    odds = cv2.GaussianBlur(pixel_odds(picture, model.odds), (0, 0), max(0.01 * picture.shape[0], 0.5))
    patch = _large_components((odds > 0.6).astype(np.float32), share=1.0) > 0.5
    is_similar = colour_similarity(picture, patch, model) >= MIN_SIMILARITY
    if not is_similar or not 0.25 * model.area < patch.sum() < 4 * model.area:
        return np.zeros(patch.shape, np.float32)
    inside = _dilated(patch, round(OUTER * len(patch)))
    certain = _dilated(patch, -round(INNER * len(patch)))
    return _large_components(_grabcut(picture, inside, patch, certain, rounds=2))


def _is_lost(picture: Picture, mask: Bools, model: ColourModel) -> bool:
    is_small = bool(mask.sum() < 0.05 * model.area)
    return is_small or colour_similarity(picture, mask, model) < MIN_SIMILARITY


def _touches_edge(mask: Bools) -> bool:
    """Whether a mask touches the top, left or right edge of the picture."""
    return bool(mask[0].any() or mask[:, 0].any() or mask[:, -1].any())


def _grabcut(picture: Picture, inside: Bools, likely: Bools, certain: Bools, rounds: int) -> SoftMask:
    """Run GrabCut: `certain` is foreground, outside `inside` is background, `likely` is the first guess."""
    import cv2

    drawn = np.zeros(inside.shape, np.float32)
    if not (likely | certain).any():
        return drawn
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    margin = max(8, round(0.35 * max(len(rows), len(columns))))  # colours far away would mislead
    part = tuple(slice(max(place[0] - margin, 0), place[-1] + margin + 1) for place in (rows, columns))
    trimap = np.where(likely, cv2.GC_PR_FGD, np.where(inside, cv2.GC_PR_BGD, cv2.GC_BGD)).astype(np.uint8)
    trimap[certain] = cv2.GC_FGD
    trimap = np.ascontiguousarray(trimap[part])
    if (trimap & 1).all():
        return np.asarray(inside, np.float32)
    near, unused = np.ascontiguousarray(picture[part]), (0, 0, 0, 0)
    own, rest = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(near, trimap, unused, rest, own, rounds, cv2.GC_INIT_WITH_MASK)
    drawn[part] = trimap & 1
    return drawn


def _motion_threshold(outside: NDArray[np.float32]) -> float:
    """Pixels that move less than this relative to the background, in pixels per frame, belong to it."""
    return max(1.0, 2 * float(np.percentile(outside, 80))) if outside.size else 1.0


def _large_components(drawn: SoftMask, share: float = 0.15) -> SoftMask:
    """Remove connected components smaller than this share of the largest one."""
    import cv2

    _, labels, statistics, _ = cv2.connectedComponentsWithStats((drawn > 0.5).astype(np.uint8))
    areas = statistics[1:, cv2.CC_STAT_AREA]
    kept = np.r_[False, areas >= share * areas.max(initial=0)]
    return np.where(kept[labels], drawn, np.float32(0))


def _dilated(mask: Bools, pixels: int) -> Bools:
    """The mask dilated by this many pixels, or eroded if negative."""
    import cv2

    change = cv2.dilate if pixels > 0 else cv2.erode
    return np.asarray(change(mask.astype(np.uint8), _disc(abs(pixels))) > 0)


def _disc(radius: int) -> NDArray[Any]:
    import cv2

    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2))
