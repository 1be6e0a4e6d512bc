"""Pixels of the sandbox world: two drawing styles, creatures and things.

Shapes are signed distances (`shapes`). The style decides only how a distance becomes colour: `cartoon` is a
flat fill under a thick dark outline, `realistic` is shaded, textured, has no outline and throws a soft
shadow.
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

__all__ = ["ACCESSORIES", "BODIES", "COLOURS", "PATTERNS", "creature", "over", "thing"]

SOFT = 0.62 * 64  # edges are about one and a half pixels wide in a picture 64 high, and scale with it


def over(image: Array, alpha: Array, colour: Array | RGB) -> None:
    """Blend a colour into `image` (..., 3), in place, by `alpha` (...) in 0..1."""
    image += alpha[..., None] * (np.asarray(colour, np.float32) - image)


def _fill(
    image: Array, distance: Array, colour: RGB, style: str, light: Array, px: Array, inked: bool = True
) -> None:
    """Paint one shape.

    `px` is how steep an edge is, per unit; `light` the shading of the realistic style.
    """
    if style == "cartoon":
        if inked:
            over(image, np.clip(0.5 - (distance - 0.1) * px, 0, 1), INK)
        over(image, np.clip(0.5 - distance * px, 0, 1), colour)
    else:
        muted = np.asarray(colour, np.float32) * 0.86 + 16.0
        over(image, np.clip(0.5 - distance * px, 0, 1), muted * light[..., None])


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
        over(image, 0.5 * np.clip(1.25 - place.shadow, 0, 1), (18, 16, 20))
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
        box = rectangle(u, v, 0, -0.3, 1.15, 0.4, 0.05)
        gaps = np.maximum(np.abs((v + 0.3 + 0.2) % 0.4 - 0.2) - 0.03, box)
        parts = [(box, (150, 98, 52)), (gaps, (104, 66, 36))]
    light = np.clip(0.98 - 0.1 * (u + v), 0.75, 1.15).astype(np.float32)
    for k, (distance, tint) in enumerate(parts):
        _fill(image, distance, tint, style, light, size * SOFT * np.ones_like(u), inked=k == 0)
    return np.asarray(box < (0.1 if style == "cartoon" else 0.0))
