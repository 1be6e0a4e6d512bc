"""Cuts a character out by its mask, moves it, softens its edge and blends it over another picture.

Colours are not changed: composites teach a model that a character keeps its native look in a foreign scene
(Character Mixing, arXiv 2510.05093, section 3.2). Masks and alphas are uint8, 0 to 255. Positions are
continuous pixels as in `camera_motion`. Only the character's bounding box is processed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB, or a mask or alpha (H, W)."""
Floats = NDArray[np.float64]

REFERENCE_HEIGHT = 480
"""The picture height for which the lengths in `Edge` are given."""

MIN_IOU = 0.85
"""Aligned masks of neighbouring frames with a lower IoU differ by a movement, not by flicker."""


@dataclass(frozen=True)
class Edge:
    """The edge of a pasted character.

    Lengths are in pixels at a picture height of 480 and scale with the clip's height.

    Attributes:
        erode: Erosion of the mask. It removes a rim of the old background.
        feather: Width of the soft edge, at least one pixel of the clip; 0 makes a hard edge.
        steady: How far a temporal median over three frames may move the outline, against flicker. 0 disables
            it.
        shadow: Darkness of a soft shadow at the feet, 0 (none) to 1.
    """

    erode: float = 1.0
    feather: float = 2.0
    steady: float = 1.0
    shadow: float = 0.0


@dataclass(frozen=True, eq=False)
class Cutout:
    """A character's pixels, moved into another picture.

    Attributes:
        rgb: (h, w, 3).
        mask: (h, w).
        top, left: Position of the upper left pixel in the other picture.
    """

    rgb: Picture
    mask: Picture
    top: int
    left: int

    @property
    def region(self) -> tuple[slice, slice]:
        """Rows and columns of the picture that it covers."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def stabilised(masks: Iterable[Picture], reach: int) -> Iterator[Picture]:
    """Replace each mask by the median of itself and its two neighbours, to remove flicker.

    The outline moves by at most `reach` pixels. The neighbours are aligned with the mask first. If they
    still differ much, that is movement and not flicker, and the mask is not changed.
    """
    import cv2

    if reach < 1:
        yield from masks
        return
    shape = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    kernel = np.asarray(shape, np.uint8)
    before: Picture | None = None
    now: Picture | None = None
    for after in _repeat_last(masks):
        if now is not None:
            first = now if before is None else before
            left, top, width, height = cv2.boundingRect(np.maximum(np.maximum(first, now), after))
            part = (
                slice(max(0, top - reach), top + height + reach),
                slice(max(0, left - reach), left + width + reach),
            )
            stable = now.copy()
            stable[part] = _median(first[part], now[part], after[part], kernel)
            yield stable
            before = now
        now = after


def cut_out(picture: Picture, mask: Picture, matrix: Floats, height: int, width: int) -> Cutout | None:
    """Cut a character out and move it into a picture of another size.

    Args:
        picture: The picture to cut from, (H, W, 3).
        mask: The character's mask, (H, W).
        matrix: (3, 3), from pixels of `picture` to pixels of the new picture.
        height: Of the new picture, in pixels.
        width: Likewise.

    Returns:
        The cut-out; None if no part of it is inside the new picture.
    """
    import cv2

    left, top, w, h = cv2.boundingRect(mask)
    if not w:
        return None
    top, left, bottom, right = (
        max(0, top - 2), max(0, left - 2), min(len(mask), top + h + 2), min(mask.shape[1], left + w + 2)
    )  # fmt: skip
    rgb, mask = picture[top:bottom, left:right], mask[top:bottom, left:right]
    corners = matrix @ np.array([[left, right, left, right], [top, top, bottom, bottom], [1, 1, 1, 1]])
    x0, y0 = np.maximum(np.floor(corners[:2].min(1)).astype(int) - 1, 0)
    x1, y1 = np.minimum(np.ceil(corners[:2].max(1)).astype(int) + 1, (width, height))
    if x0 >= x1 or y0 >= y1:
        return None
    moved = _shifted(-x0, -y0) @ matrix @ _shifted(left, top)
    scale = float(np.sqrt(abs(np.linalg.det(moved[:2, :2]))))
    if scale < 0.75:  # average pixels first: interpolation alone would alias and flicker
        small = max(2, round(rgb.shape[1] * scale)), max(2, round(rgb.shape[0] * scale))
        moved = moved @ np.diag([rgb.shape[1] / small[0], rgb.shape[0] / small[1], 1.0])
        rgb = np.asarray(cv2.resize(rgb, small, interpolation=cv2.INTER_AREA), np.uint8)
        mask = np.asarray(cv2.resize(mask, small, interpolation=cv2.INTER_AREA), np.uint8)
    centred = (_shifted(-0.5, -0.5) @ moved @ _shifted(0.5, 0.5))[:2]
    size = (int(x1 - x0), int(y1 - y0))
    kernel = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_LINEAR
    moved_rgb = cv2.warpAffine(rgb, centred, size, flags=kernel, borderMode=cv2.BORDER_REPLICATE)
    moved_mask = cv2.warpAffine(mask, centred, size, flags=cv2.INTER_LINEAR)
    return Cutout(np.asarray(moved_rgb, np.uint8), np.asarray(moved_mask, np.uint8), int(y0), int(x0))


def alpha_of(mask: Picture, erode: float, feather: float) -> Picture:
    """The alpha of a mask, from the signed distance d of each pixel to its outline (positive inside).

    Alpha is 255 for d >= erode + feather/2, 0 for d <= erode - feather/2, and linear between, rounded to the
    nearest level. The outline is where the mask is half covered. With a `feather` of 0 the alpha is 0 or 255.
    """
    import cv2

    inside = (mask >= 128).astype(np.uint8)
    if not inside.any():
        return np.zeros_like(mask)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) - 0.5
    outward = erode - feather / 2 < 0
    if outward:
        outside = cv2.distanceTransform(1 - inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) - 0.5
        distance = np.where(inside, distance, -outside)
    if not feather:
        return np.where((distance > erode) & (inside > 0), np.uint8(255), np.uint8(0))
    rim = (
        (np.abs(distance) <= 0.6) & (mask > 0) & (mask < 255)
    )  # for partly covered pixels the coverage is exact
    distance[rim] = mask[rim] / np.float32(255) - np.float32(0.5)
    ramp = (distance - np.float32(erode)) * np.float32(255 / feather) + np.float32(128)
    return np.asarray(np.clip(ramp, 0, 255.5), np.uint8)


def edge_pixels(edge: Edge, height: int) -> tuple[float, float]:
    """Erosion and feather in pixels, for a picture of this height."""
    scale = height / REFERENCE_HEIGHT
    return edge.erode * scale, max(edge.feather * scale, 1.0) if edge.feather else 0.0


def blend(back: Picture, front: Picture, alpha: Picture) -> None:
    """Blend `front` (h, w, 3) over `back` in place: (alpha·front + (255 - alpha)·back) / 255, rounded."""
    a = alpha.astype(np.uint16)[..., None]
    mixed = a * front + (255 - a) * back
    mixed += 128
    back[...] = (mixed + (mixed >> 8)) >> 8  # division by 255, exact for 16 bits


def occluded(alpha: Picture, by: Picture) -> Picture:
    """The part of an alpha that stays visible behind the alpha `by`, both (h, w): alpha·(1 - by)."""
    product = alpha.astype(np.uint16) * (255 - by) + 128
    return np.asarray((product + (product >> 8)) >> 8, np.uint8)


def cast_shadow(back: Picture, box: tuple[float, float, float, float], ground: float, dark: float) -> None:
    """Darken the ground below a character, in place.

    The shadow is a soft ellipse. It fades as the character rises above the ground line.

    Args:
        back: The picture, (H, W, 3).
        box: Left, top, right, bottom of the character.
        ground: y of the ground line.
        dark: Darkness of the shadow's middle, 0 to 1.
    """
    left, top, right, bottom = box
    x, radius = (left + right) / 2, 0.5 * (right - left)
    flat = max(1.0, 0.22 * radius)
    lifted = max(0.0, ground - bottom) / max(1.0, bottom - top)
    y0, y1 = max(0, int(ground - flat)), min(len(back), int(ground + flat) + 1)
    x0, x1 = max(0, int(x - radius)), min(back.shape[1], int(x + radius) + 1)
    if y0 >= y1 or x0 >= x1:
        return
    rows = (np.arange(y0, y1)[:, None] + 0.5 - ground) / flat
    columns = (np.arange(x0, x1)[None] + 0.5 - x) / radius
    shade = np.clip(1 - np.hypot(rows, columns), 0, 1) * dark * max(0.0, 1 - 1.5 * lifted)
    part = back[y0:y1, x0:x1]
    part[...] = part * (1 - shade[..., None]) + 0.5


def _shifted(x: float, y: float) -> Floats:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def _median(before: Picture, now: Picture, after: Picture, kernel: Picture) -> Picture:
    """The median of three masks, aligned with the second, limited to its erosion and dilation by `kernel`."""
    import cv2

    first, last = _aligned(before, now), _aligned(after, now)
    low, high = np.minimum(first, last), np.maximum(first, last)
    if np.count_nonzero(low >= 128) < MIN_IOU * np.count_nonzero(high >= 128):
        return now
    median = np.maximum(low, np.minimum(high, now))
    return np.asarray(np.clip(median, cv2.erode(now, kernel), cv2.dilate(now, kernel)), np.uint8)


def _aligned(mask: Picture, other: Picture) -> Picture:
    """The mask, moved by whole pixels so that its centroid is that of another mask."""
    import cv2

    a, b = cv2.moments(other), cv2.moments(mask)
    if not a["m00"] or not b["m00"] or mask is other:
        return mask
    x, y = (round(a[name] / a["m00"] - b[name] / b["m00"]) for name in ("m10", "m01"))
    if not x and not y:
        return mask
    shift = np.array([[1.0, 0.0, x], [0.0, 1.0, y]])
    return np.asarray(cv2.warpAffine(mask, shift, mask.shape[::-1], flags=cv2.INTER_NEAREST), np.uint8)


def _repeat_last(items: Iterable[Picture]) -> Iterator[Picture]:
    last: Any = None
    for last in items:
        yield last
    if last is not None:
        yield last
