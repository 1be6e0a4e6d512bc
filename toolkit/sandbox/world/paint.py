"""Draws creatures and props in the sandbox's two rendering styles.

Shapes are signed distance functions (see `toolkit.sandbox.world.shapes`). The style decides only how a
distance becomes colour. "cartoon" is a flat fill with a thick dark outline. "realistic" is shaded and
textured, with a soft shadow and no outline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.sandbox.world.shapes import (
    ACCESSORIES,
    BODIES,
    COLOURS,
    FACE_Y,
    OUTLINE,
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

__all__ = ["ACCESSORIES", "BODIES", "COLOURS", "PATTERNS", "blend", "draw_creature", "draw_prop"]

EDGE_SHARPNESS = 0.62 * 64
"""Slope of alpha at an edge, per picture height. Edges are about 1.5 pixels wide at 64 pixels of height."""


def blend(image: Array, alpha: Array, colour: Array | RGB) -> None:
    """Alpha-blend a colour into `image` (..., 3) in place; `alpha` (...) is in [0, 1]."""
    image += alpha[..., None] * (np.asarray(colour, np.float32) - image)


def _paint_shape(
    image: Array,
    distance: Array,
    colour: RGB,
    style: str,
    light: Array,
    sharpness: Array,
    outlined: bool = True,
) -> None:
    """Paint one shape, given by its signed distance, into `image`.

    `sharpness` is the slope of alpha at the edge, per unit of distance. `light` is the shading of the
    realistic style.
    """
    if style == "cartoon":
        if outlined:
            blend(image, np.clip(0.5 - (distance - 0.1) * sharpness, 0, 1), OUTLINE)
        blend(image, np.clip(0.5 - distance * sharpness, 0, 1), colour)
    else:
        muted = np.asarray(colour, np.float32) * 0.86 + 16.0
        blend(image, np.clip(0.5 - distance * sharpness, 0, 1), muted * light[..., None])


@dataclass(frozen=True)
class _CreatureRegion:
    """The part of the picture that one creature can cover, (F, h, w), with the creature's coordinates."""

    rows: slice
    columns: slice
    dx: Array  # offset from the creature's centre, in units of its half height
    dy: Array
    u: Array  # the same without the creature's rotation and stretch
    v: Array
    sharpness: Array  # slope of alpha at edges, per unit of distance
    shadow: Array  # 0 at the centre of its shadow, about 1 at the border


def _creature_region(pose: Mapping[str, Array], height: int, shape: tuple[int, int]) -> _CreatureRegion:
    """Return the region of a picture of `shape` (H, W) that a creature can cover. Pose values: (F, 1, 1)."""
    reach = float((pose["size"] * np.maximum(pose["sx"], pose["sy"])).max()) * 1.9  # no part extends further
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
    sharpness = pose["size"] * EDGE_SHARPNESS * np.ones_like(u)
    return _CreatureRegion(slice(up, down), slice(left, right), dx, dy, u, v, sharpness, across**2 + along**2)


def draw_creature(
    image: Array, look: Mapping[str, str], style: str, pose: Mapping[str, Array], height: int, texture: Array
) -> NDArray[np.bool_]:
    """Draw one creature onto `image` (F, H, W, 3) in place and return its mask (F, H, W).

    Args:
        image: Float frames, 0 to 255.
        look: Values of body, colour, pattern and accessory.
        style: "cartoon" or "realistic".
        pose: Per-frame arrays. In picture heights: x, y (centre), size (half height) and ground (height of
            the shadow). Also rot (radians), sx, sy (stretch) and step (swing of the feet, -1 to 1).
        height: Height of the picture in pixels.
        texture: Multiplicative texture of the realistic style, (H, W).
    """
    frames, h, w = image.shape[:3]
    pose = {k: np.asarray(a, np.float32).reshape(frames, 1, 1) for k, a in pose.items()}
    region = _creature_region(pose, height, (h, w))
    image, texture = image[:, region.rows, region.columns], texture[region.rows, region.columns]
    dx, dy, u, v, sharpness = region.dx, region.dy, region.u, region.v, region.sharpness
    body = BODIES[look["body"]](u, v)
    depth = np.sqrt(np.clip(-body / 0.7, 0, 1))
    light = np.clip(0.5 + 0.34 * depth - 0.2 * (dx + 1.2 * dy) * (0.4 + 0.6 * depth), 0.3, 1.32) * texture
    light = light.astype(np.float32)
    flat = np.clip(0.92 - 0.12 * (dx + dy), 0.55, 1.15).astype(np.float32)
    if style == "realistic":
        blend(image, 0.5 * np.clip(1.25 - region.shadow, 0, 1), (18, 16, 20))
    swing = 0.16 * pose["step"]
    feet = union([circle(u, v + swing, -0.36, 0.86, 0.24), circle(u, v - swing, 0.36, 0.86, 0.24)])
    red, green, blue = COLOURS[look["colour"]]
    _paint_shape(image, feet, (red * 0.62, green * 0.62, blue * 0.62), style, flat, sharpness)
    _paint_shape(image, body, (red, green, blue), style, light, sharpness)
    marks = pattern(look["pattern"], u, v)
    if marks is not None:
        pale = (red * 0.25 + 190, green * 0.25 + 190, blue * 0.25 + 190)
        _paint_shape(image, np.maximum(marks, body + 0.02), pale, style, light, sharpness, outlined=False)
    face, top = FACE_Y[look["body"]], TOP_Y[look["body"]]
    eyes = union([circle(u, v, -0.33, face, 0.24), circle(u, v, 0.33, face, 0.24)])
    pupils = union([circle(u, v, -0.29, face + 0.03, 0.125), circle(u, v, 0.37, face + 0.03, 0.125)])
    _paint_shape(image, eyes, WHITE, style, flat, sharpness, outlined=False)
    _paint_shape(image, pupils, OUTLINE, style, flat, sharpness, outlined=False)
    solid = union([body, feet])
    for distance, tint in accessory(look["accessory"], u, v, top, face):
        _paint_shape(image, distance, tint, style, flat, sharpness, outlined=look["accessory"] != "glasses")
        solid = union([solid, distance])
    mask = np.zeros((frames, h, w), np.bool_)
    mask[:, region.rows, region.columns] = solid < (0.1 if style == "cartoon" else 0.0)
    return mask


def draw_prop(
    image: Array, name: str, style: str, pose: Mapping[str, Array], height: int
) -> NDArray[np.bool_]:
    """Draw a gift, or planks to hide behind, onto `image` (F, H, W, 3) and return its mask (F, H, W).

    `pose` holds per-frame arrays in picture heights: x, y (the centre of a gift, the bottom of the planks)
    and size (half the height of the creature it belongs to).
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
        box = rectangle(u, v, 0, -0.3, 1.15, 0.4, 0.05)
        gaps = np.maximum(np.abs((v + 0.3 + 0.2) % 0.4 - 0.2) - 0.03, box)
        parts = [(box, (150, 98, 52)), (gaps, (104, 66, 36))]
    light = np.clip(0.98 - 0.1 * (u + v), 0.75, 1.15).astype(np.float32)
    for k, (distance, tint) in enumerate(parts):
        _paint_shape(
            image, distance, tint, style, light, size * EDGE_SHARPNESS * np.ones_like(u), outlined=k == 0
        )
    return np.asarray(box < (0.1 if style == "cartoon" else 0.0))
