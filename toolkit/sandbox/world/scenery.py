"""Draws the sandbox's scenes (backgrounds and props) as seen by the camera."""

from __future__ import annotations

import numpy as np

from toolkit.sandbox.world.paint import EDGE_SHARPNESS, blend
from toolkit.sandbox.world.shapes import OUTLINE, RGB, Array, circle, rectangle, union

SCENES = ("meadow", "beach", "room", "city", "snow")
_SKY: dict[str, tuple[RGB, RGB]] = {  # sky or wall, ground
    "meadow": ((150, 212, 250), (112, 190, 84)),
    "beach": ((178, 228, 250), (240, 218, 150)),
    "room": ((238, 206, 170), (158, 108, 74)),
    "city": ((44, 46, 96), (96, 96, 112)),
    "snow": ((196, 214, 236), (240, 244, 250)),
}
GROUND_Y = 0.72
MARGIN = 0.2  # extra width of a scene on each side of the picture, in picture heights
PROPS = ("lamp", "fence", "balloon", "barrel")


def _prop_shapes(name: str, x: Array, y: Array) -> list[tuple[Array, RGB]]:
    """Return the shapes of a prop behind the creatures as (signed distance, colour); x is from its centre."""
    if name == "lamp":
        glass = circle(x, y, 0, 0.2, 0.085)
        return [(rectangle(x, y, 0, 0.5, 0.022, 0.3), (64, 64, 74)), (glass, (255, 236, 150))]
    if name == "fence":
        posts = np.maximum(np.abs((x + 0.06) % 0.12 - 0.06) - 0.03, np.abs(x) - 0.3)
        return [(np.maximum(posts, np.abs(y - 0.66) - 0.12), (236, 226, 206))]
    if name == "balloon":
        string = rectangle(x, y, 0, 0.46, 0.012, 0.26)
        return [(string, (90, 90, 96)), (circle(x, y, 0, 0.16, 0.12), (226, 56, 120))]
    if name == "barrel":
        return [(rectangle(x, y, 0, 0.66, 0.13, 0.16, 0.05), (142, 92, 50))]
    return []


def _backdrop_shapes(name: str, x: Array, y: Array, w: float, shift: float) -> list[tuple[Array, RGB]]:
    """Return the shapes of a scene as (signed distance, colour), from far to near.

    x, y are pixel coordinates in picture heights. `shift` moves the shapes sideways.
    """
    if name == "meadow":
        hills = union([circle(x, y, 0.3 + shift, 1.05, 0.52), circle(x, y, 1.2 + shift, 1.1, 0.58)])
        return [(circle(x, y, w - 0.2 - shift, 0.16, 0.1), (255, 226, 92)), (hills, (84, 158, 84))]
    if name == "beach":
        sun = circle(x, y, 0.25 + shift, 0.2, 0.12)
        return [(sun, (255, 214, 80)), (np.maximum(0.5 - y, y - 0.8), (46, 132, 206))]
    if name == "room":
        window = rectangle(x, y, w * 0.72 + shift, 0.3, 0.24, 0.18)
        picture = rectangle(x, y, 0.3 + shift, 0.3, 0.13, 0.12)
        return [(window, (168, 220, 246)), (picture, (186, 70, 62))]
    if name == "city":
        towers = [(0.14, 0.5, 0.2), (0.52, 0.34, 0.15), (0.92, 0.48, 0.18), (1.34, 0.3, 0.17)]
        blocks = union([rectangle(x, y, a + shift, top + 0.4, half, 0.42) for a, top, half in towers])
        return [(circle(x, y, w - 0.24 - shift, 0.16, 0.09), (246, 240, 196)), (blocks, (76, 70, 118))]
    trees = [(0.2, 0.3), (0.72, 0.36), (1.3, 0.28)]
    pines = union([np.maximum(y - 0.74, (np.abs(x - a - shift) * 2.4 - (y - top)) / 2.6) for a, top in trees])
    return [(pines, (44, 108, 88))]


def smooth_noise(rng: np.random.Generator, h: int, w: int, cells: int) -> Array:
    """Return smooth noise (h, w) of about -1 to 1, with `cells` grid cells over the picture's height."""
    grid = rng.standard_normal((cells + 3, int(cells * w / h) + 4)).astype(np.float32)
    yy, xx = np.linspace(0, cells, h, dtype=np.float32), np.linspace(0, cells * w / h, w, dtype=np.float32)
    y0, x0 = yy.astype(int), xx.astype(int)
    fy, fx = yy - y0, xx - x0
    fy, fx = (fy * fy * (3 - 2 * fy))[:, None], (fx * fx * (3 - 2 * fx))[None]
    top = grid[y0][:, x0] * (1 - fx) + grid[y0][:, x0 + 1] * fx
    low = grid[y0 + 1][:, x0] * (1 - fx) + grid[y0 + 1][:, x0 + 1] * fx
    return np.asarray(top * (1 - fy) + low * fy, np.float32)


def draw_scene(
    name: str,
    style: str,
    height: int,
    width: int,
    rng: np.random.Generator | None,
    prop: str,
    offset: Array,
    scale: Array,
    axis: float,
) -> Array:
    """Draw a scene without creatures as seen by the camera: (F, H, W, 3) float, 0 to 255.

    Args:
        name: One of `SCENES`.
        style: "cartoon" or "realistic".
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
        rng: If given, positions and light vary a little. Default: always the same scene.
        prop: One of `PROPS`, or "".
        offset: Offset of the view's centre per frame, in picture heights; see `world.Camera.view`.
        scale: Zoom per frame.
        axis: Height about which the camera zooms, in picture heights.
    """
    wide = width + 2 * round(MARGIN * height)
    rows, columns = np.arange(height, dtype=np.float32), np.arange(wide, dtype=np.float32)
    y = np.broadcast_to(((rows + 0.5) / height)[:, None], (height, wide)).copy()
    x = np.broadcast_to(((columns + 0.5) / height)[None] - MARGIN, (height, wide)).copy()
    sky, ground = _SKY[name]
    shift = float(rng.uniform(-0.06, 0.06)) if rng else 0.0
    where = width / height * (float(rng.choice([0.08, 0.5, 0.92])) if rng else 0.92)
    light = rng or np.random.default_rng(SCENES.index(name))
    soft = EDGE_SHARPNESS if style == "cartoon" else EDGE_SHARPNESS / 2.5
    image = np.ones((height, wide, 3), np.float32) * np.asarray(sky, np.float32)
    layers = [*_backdrop_shapes(name, x, y, width / height, shift), (GROUND_Y - y, ground)]
    layers += [(distance, colour) for distance, colour in _prop_shapes(prop, x - where, y)]
    for distance, colour in layers:
        if style == "cartoon":
            blend(image, np.clip(0.5 - (distance - 0.02) * EDGE_SHARPNESS, 0, 1), OUTLINE)
        blend(image, np.clip(0.5 - distance * soft, 0, 1), colour)
    if style == "realistic":
        grey = image.mean(-1, keepdims=True)
        image = (0.6 * image + 0.4 * grey) * (0.92 - 0.3 * (y[..., None] - 0.45))
        image *= 1 + 0.05 * smooth_noise(light, height, wide, 5)[..., None]
        image *= 1.04 - 0.16 * ((x / (width / height) - 0.5) ** 2 + (y - 0.5) ** 2)[..., None] * 2
    return _apply_camera(image, height, width, offset, scale, axis)


def _apply_camera(image: Array, height: int, width: int, offset: Array, scale: Array, axis: float) -> Array:
    """Return the camera's view of a wide picture (H, wide, 3) per frame: (F, H, W, 3)."""
    import cv2

    left = (image.shape[1] - width) // 2
    if not offset.any() and (scale == 1).all():
        return np.repeat(image[None, :, left : left + width], len(offset), 0)
    views = []
    for m, z in zip(offset, scale, strict=True):
        middle, line = width / 2, axis * height
        matrix = np.asarray(
            [[1 / z, 0, left + middle + m * height - middle / z], [0, 1 / z, line - line / z]], np.float32
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        views.append(
            cv2.warpAffine(image, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        )
    return np.stack(views)
