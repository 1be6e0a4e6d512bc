"""Pixels of the sandbox world: two drawing styles, scenes and creatures.

Shapes are signed distances (`shapes`). The style decides only how a distance becomes colour: `cartoon` is a
flat fill under a thick dark outline, `realistic` is shaded, textured, has no outline and throws a soft
shadow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.sandbox.shapes import (
    ACCESSORIES,
    BODIES,
    COLOURS,
    FACE_Y,
    INK,
    PATTERNS,
    RGB,
    TOP_Y,
    WHITE,
    Array,
    accessory,
    circle,
    pattern,
    rectangle,
    union,
)

__all__ = [
    "ACCESSORIES",
    "BODIES",
    "COLOURS",
    "PATTERNS",
    "PROPS",
    "SCENES",
    "creature",
    "scene",
    "smooth_noise",
    "thing",
]

SOFT = 0.62 * 64  # edges are about one and a half pixels wide in a picture 64 high, and scale with it


def _over(image: Array, alpha: Array, colour: Array | RGB) -> None:
    image += alpha[..., None] * (np.asarray(colour, np.float32) - image)


def _fill(
    image: Array, distance: Array, colour: RGB, style: str, light: Array, px: Array, inked: bool = True
) -> None:
    """Paint one shape.

    `px` is how steep an edge is, per unit; `light` the shading of the realistic style.
    """
    if style == "cartoon":
        if inked:
            _over(image, np.clip(0.5 - (distance - 0.1) * px, 0, 1), INK)
        _over(image, np.clip(0.5 - distance * px, 0, 1), colour)
    else:
        muted = np.asarray(colour, np.float32) * 0.86 + 16.0
        _over(image, np.clip(0.5 - distance * px, 0, 1), muted * light[..., None])


@dataclass(frozen=True)
class _Place:
    """The part of the picture that one creature can touch, (F, h, w), in the creature's coordinates."""

    rows: slice
    columns: slice
    dx: Array  # from its centre, in its half heights
    dy: Array
    u: Array  # the same, turned back and unstretched
    v: Array
    px: Array  # how steep edges are, per unit
    shadow: Array  # 0 in the middle of its shadow, about 1 at the rim


def _locate(pose: Mapping[str, Array], height: int, shape: tuple[int, int]) -> _Place:
    """Find the pixels of a picture of `shape` (H, W) that a creature can touch; pose values are (F, 1, 1)."""
    reach = float((pose["size"] * np.maximum(pose["sx"], pose["sy"])).max()) * 1.9  # nothing is drawn outside
    left, right = (
        int(np.clip(e * height, 0, shape[1])) for e in (pose["x"].min() - reach, pose["x"].max() + reach)
    )
    up, down = (
        int(np.clip(e * height, 0, shape[0])) for e in (pose["y"].min() - reach, pose["y"].max() + reach)
    )
    yy = ((np.arange(up, down, dtype=np.float32) + 0.5) / height).reshape(1, -1, 1)
    xx = ((np.arange(left, right, dtype=np.float32) + 0.5) / height).reshape(1, 1, -1)
    dx, dy = (xx - pose["x"]) / pose["size"], (yy - pose["y"]) / pose["size"]
    cos, sin = np.cos(pose["rot"]), np.sin(pose["rot"])
    u, v = (cos * dx + sin * dy) / pose["sx"], (cos * dy - sin * dx) / pose["sy"]
    across = (xx - pose["x"] - 0.03) / (0.9 * pose["size"])
    along = (yy - pose["ground"]) / (0.2 * pose["size"])
    px = pose["size"] * SOFT * np.ones_like(u)
    return _Place(slice(up, down), slice(left, right), dx, dy, u, v, px, across**2 + along**2)


def creature(
    image: Array, look: Mapping[str, str], style: str, pose: Mapping[str, Array], height: int, texture: Array
) -> NDArray[np.bool_]:
    """Draw one creature over `image` (F, H, W, 3) and return its mask (F, H, W).

    `pose` holds per-frame arrays: x, y (centre), size (half height), all in units of the picture's height,
    rot (radians), sx, sy (stretch), step (foot swing, -1..1) and ground (where the shadow lies).
    """
    frames, h, w = image.shape[:3]
    pose = {k: np.asarray(a, np.float32).reshape(frames, 1, 1) for k, a in pose.items()}
    place = _locate(pose, height, (h, w))
    image, texture = image[:, place.rows, place.columns], texture[place.rows, place.columns]
    dx, dy, u, v, px = place.dx, place.dy, place.u, place.v, place.px
    body = BODIES[look["body"]](u, v)
    depth = np.sqrt(np.clip(-body / 0.7, 0, 1))
    light = np.clip(0.5 + 0.34 * depth - 0.2 * (dx + 1.2 * dy) * (0.4 + 0.6 * depth), 0.3, 1.32) * texture
    light = light.astype(np.float32)
    flat = np.clip(0.92 - 0.12 * (dx + dy), 0.55, 1.15).astype(np.float32)
    if style == "realistic":
        _over(image, 0.5 * np.clip(1.25 - place.shadow, 0, 1), (18, 16, 20))
    swing = 0.16 * pose["step"]
    feet = union([circle(u, v + swing, -0.36, 0.86, 0.24), circle(u, v - swing, 0.36, 0.86, 0.24)])
    red, green, blue = COLOURS[look["colour"]]
    _fill(image, feet, (red * 0.62, green * 0.62, blue * 0.62), style, flat, px)
    _fill(image, body, (red, green, blue), style, light, px)
    marks = pattern(look["pattern"], u, v)
    if marks is not None:
        pale = (red * 0.25 + 190, green * 0.25 + 190, blue * 0.25 + 190)
        _fill(image, np.maximum(marks, body + 0.02), pale, style, light, px, inked=False)
    face, top = FACE_Y[look["body"]], TOP_Y[look["body"]]
    eyes = union([circle(u, v, -0.33, face, 0.24), circle(u, v, 0.33, face, 0.24)])
    pupils = union([circle(u, v, -0.29, face + 0.03, 0.125), circle(u, v, 0.37, face + 0.03, 0.125)])
    _fill(image, eyes, WHITE, style, flat, px, inked=False)
    _fill(image, pupils, INK, style, flat, px, inked=False)
    solid = union([body, feet])
    for distance, tint in accessory(look["accessory"], u, v, top, face):
        _fill(image, distance, tint, style, flat, px, inked=look["accessory"] != "glasses")
        solid = union([solid, distance])
    mask = np.zeros((frames, h, w), np.bool_)
    mask[:, place.rows, place.columns] = solid < (0.1 if style == "cartoon" else 0.0)
    return mask


SCENES = ("meadow", "beach", "room", "city", "snow")
_SKY: dict[str, tuple[RGB, RGB]] = {  # sky or wall, ground
    "meadow": ((150, 212, 250), (112, 190, 84)),
    "beach": ((178, 228, 250), (240, 218, 150)),
    "room": ((238, 206, 170), (158, 108, 74)),
    "city": ((44, 46, 96), (96, 96, 112)),
    "snow": ((196, 214, 236), (240, 244, 250)),
}
GROUND_Y = 0.72
MARGIN = 0.2  # how much of a scene lies beyond either side of the picture, in picture heights
PROPS = ("lamp", "fence", "balloon", "barrel")


def _prop(name: str, x: Array, y: Array) -> list[tuple[Array, RGB]]:
    """Something that stands in a scene, behind everybody; x is measured from its middle."""
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


def _things(name: str, x: Array, y: Array, w: float, shift: float) -> list[tuple[Array, RGB]]:
    """What stands in a scene, far to near; x, y in picture heights, `shift` moves things sideways."""
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
    """Soft noise in about -1..1, `cells` bumps over the picture's height."""
    grid = rng.standard_normal((cells + 3, int(cells * w / h) + 4)).astype(np.float32)
    yy, xx = np.linspace(0, cells, h, dtype=np.float32), np.linspace(0, cells * w / h, w, dtype=np.float32)
    y0, x0 = yy.astype(int), xx.astype(int)
    fy, fx = yy - y0, xx - x0
    fy, fx = (fy * fy * (3 - 2 * fy))[:, None], (fx * fx * (3 - 2 * fx))[None]
    top = grid[y0][:, x0] * (1 - fx) + grid[y0][:, x0 + 1] * fx
    low = grid[y0 + 1][:, x0] * (1 - fx) + grid[y0 + 1][:, x0 + 1] * fx
    return np.asarray(top * (1 - fy) + low * fy, np.float32)


def scene(
    name: str,
    style: str,
    height: int,
    width: int,
    rng: np.random.Generator,
    prop: str,
    moved: Array,
    scale: Array,
    axis: float,
) -> Array:
    """A scene without creatures as the camera sees it, (F, H, W, 3), 0..255; `world.Camera` gives its way."""
    wide = width + 2 * round(MARGIN * height)
    rows, columns = np.arange(height, dtype=np.float32), np.arange(wide, dtype=np.float32)
    y = np.broadcast_to(((rows + 0.5) / height)[:, None], (height, wide)).copy()
    x = np.broadcast_to(((columns + 0.5) / height)[None] - MARGIN, (height, wide)).copy()
    sky, ground = _SKY[name]
    shift = float(rng.uniform(-0.06, 0.06))
    where = width / height * float(rng.choice([0.08, 0.5, 0.92]))
    soft = SOFT if style == "cartoon" else SOFT / 2.5
    image = np.ones((height, wide, 3), np.float32) * np.asarray(sky, np.float32)
    layers = [*_things(name, x, y, width / height, shift), (GROUND_Y - y, ground)]
    layers += [(distance, colour) for distance, colour in _prop(prop, x - where, y)]
    for distance, colour in layers:
        if style == "cartoon":
            _over(image, np.clip(0.5 - (distance - 0.02) * SOFT, 0, 1), INK)
        _over(image, np.clip(0.5 - distance * soft, 0, 1), colour)
    if style == "realistic":
        grey = image.mean(-1, keepdims=True)
        image = (0.6 * image + 0.4 * grey) * (0.92 - 0.3 * (y[..., None] - 0.45))
        image *= 1 + 0.05 * smooth_noise(rng, height, wide, 5)[..., None]
        image *= 1.04 - 0.16 * ((x / (width / height) - 0.5) ** 2 + (y - 0.5) ** 2)[..., None] * 2
    return _filmed(image, height, width, moved, scale, axis)


def _filmed(image: Array, height: int, width: int, moved: Array, scale: Array, axis: float) -> Array:
    """What the camera sees of a wide picture (H, wide, 3): (F, H, W, 3)."""
    import cv2

    left = (image.shape[1] - width) // 2
    if not moved.any() and (scale == 1).all():
        return np.repeat(image[None, :, left : left + width], len(moved), 0)
    views = []
    for m, z in zip(moved, scale, strict=True):
        middle, line = width / 2, axis * height
        matrix = np.asarray(
            [[1 / z, 0, left + middle + m * height - middle / z], [0, 1 / z, line - line / z]], np.float32
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        views.append(
            cv2.warpAffine(image, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        )
    return np.stack(views)


def thing(image: Array, name: str, style: str, pose: Mapping[str, Array], height: int) -> NDArray[np.bool_]:
    """Draw a gift, or planks to hide behind, over `image` (F, H, W, 3); returns its mask (F, H, W).

    `pose` holds per-frame arrays in picture heights: x, y (a gift's middle, the planks' foot) and size (half
    the height of the creature it goes with).
    """
    frames, h, w = image.shape[:3]
    x, y, size = (np.asarray(pose[k], np.float32).reshape(frames, 1, 1) for k in ("x", "y", "size"))
    u = ((np.arange(w, dtype=np.float32) + 0.5) / height - x) / size
    v = ((np.arange(h, dtype=np.float32)[:, None] + 0.5) / height - y) / size
    u, v = np.broadcast_arrays(u, v)
    if name == "gift":
        box = rectangle(u, v, 0, 0, 0.46, 0.46, 0.06)
        ribbon = np.maximum(np.minimum(np.abs(u), np.abs(v)) - 0.13, box)
        parts: list[tuple[Array, RGB]] = [(box, (250, 244, 230)), (ribbon, (214, 40, 60))]
    else:
        box = rectangle(u, v, 0, -0.55, 1.15, 0.62, 0.05)
        gaps = np.maximum(np.abs((v + 0.55 + 0.2) % 0.4 - 0.2) - 0.03, box)
        parts = [(box, (150, 98, 52)), (gaps, (104, 66, 36))]
    light = np.clip(0.98 - 0.1 * (u + v), 0.75, 1.15).astype(np.float32)
    for k, (distance, tint) in enumerate(parts):
        _fill(image, distance, tint, style, light, size * SOFT * np.ones_like(u), inked=k == 0)
    return np.asarray(box < (0.1 if style == "cartoon" else 0.0))
