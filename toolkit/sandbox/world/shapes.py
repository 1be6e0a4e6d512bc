"""Signed distance functions of bodies, patterns and accessories, and their colours.

Distances are negative inside. Coordinates are the creature's own: u to the right, v down; the body is about
two units tall.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
RGB = tuple[float, float, float]

OUTLINE: RGB = (24, 22, 34)
WHITE: RGB = (250, 250, 246)
COLOURS: dict[str, RGB] = {
    "red": (222, 40, 44),
    "orange": (250, 138, 22),
    "yellow": (248, 214, 40),
    "green": (62, 170, 52),
    "teal": (16, 190, 186),
    "blue": (42, 88, 222),
    "purple": (138, 52, 190),
    "pink": (250, 130, 182),
}


def circle(u: Array, v: Array, x: float, y: float, r: float) -> Array:
    """Signed distance to a disc of radius `r` centred at (x, y)."""
    return np.asarray(np.hypot(u - x, v - y) - r)


def rectangle(u: Array, v: Array, x: float, y: float, half_w: float, half_h: float, r: float = 0.0) -> Array:
    """Signed distance to a rectangle centred at (x, y), with corners of radius `r`."""
    a, b = np.abs(u - x) - (half_w - r), np.abs(v - y) - (half_h - r)
    return np.asarray(np.hypot(np.maximum(a, 0), np.maximum(b, 0)) + np.minimum(np.maximum(a, b), 0) - r)


def union(distances: Sequence[Array]) -> Array:
    """Signed distance to the union of shapes."""
    return np.asarray(reduce(np.minimum, distances))


def _ball(u: Array, v: Array) -> Array:
    return circle(u, v, 0, 0, 0.88)


def _box(u: Array, v: Array) -> Array:
    return rectangle(u, v, 0, 0, 0.84, 0.84, 0.14)


def _star(u: Array, v: Array) -> Array:
    radius, angle = np.hypot(u, v), np.arctan2(u, -v)
    angle = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)  # folded onto half a point of the star
    a, b = radius * np.cos(angle), radius * np.sin(angle)
    tip, inner = 1.16, 0.6
    dx, dy = inner * np.cos(np.pi / 5) - tip, inner * np.sin(np.pi / 5)
    return np.asarray(((a - tip) * dy - b * dx) / np.hypot(dx, dy))


def _cone(u: Array, v: Array) -> Array:
    return np.asarray(np.maximum(v - 0.82, (np.abs(u) * 1.9 - (v + 1.05) * 0.95) / 2.12))


def _ghost(u: Array, v: Array) -> Array:
    top = np.where(v < -0.4, circle(u, v, 0, -0.4, 0.62), np.abs(u) - 0.62)
    return np.asarray(np.maximum(top, v - 0.86 - 0.12 * np.cos(u * 10.1)))


def _bear(u: Array, v: Array) -> Array:
    ears = np.minimum(circle(u, v, -0.66, -0.64, 0.44), circle(u, v, 0.66, -0.64, 0.44))
    return np.asarray(np.minimum(circle(u, v, 0, 0.1, 0.8), ears))


BODIES: dict[str, Callable[[Array, Array], Array]] = {
    "ball": _ball,
    "box": _box,
    "star": _star,
    "cone": _cone,
    "ghost": _ghost,
    "bear": _bear,
}
FACE_Y = {"ball": -0.12, "box": -0.16, "star": 0.0, "cone": 0.18, "ghost": -0.36, "bear": 0.0}
TOP_Y = {"ball": -0.84, "box": -0.8, "star": -0.92, "cone": -0.8, "ghost": -0.96, "bear": -0.68}
PATTERNS = ("plain", "striped", "spotted")
ACCESSORIES = ("none", "hat", "crown", "glasses", "scarf")


def pattern(name: str, u: Array, v: Array) -> Array | None:
    """Signed distance to the part of a body that has the light second colour; None for "plain"."""
    if name == "striped":
        return np.asarray(np.abs((u + 0.24) % 0.96 - 0.48) - 0.2)
    if name == "spotted":
        low = [(-0.5, 0.42, 0.2), (0.52, 0.34, 0.22), (0.02, 0.62, 0.2)]
        spots = [*low, (-0.52, -0.42, 0.17), (0.5, -0.42, 0.17)]
        return union([circle(u, v, x, y, r) for x, y, r in spots])
    return None


def accessory(name: str, u: Array, v: Array, top: float, face: float) -> list[tuple[Array, RGB]]:
    """Signed distances and colours of an accessory's parts, in drawing order."""
    if name == "hat":
        brim = rectangle(u, v, 0, top + 0.02, 0.66, 0.1, 0.05)
        crown = rectangle(u, v, 0, top - 0.34, 0.4, 0.34, 0.05)
        band = rectangle(u, v, 0, top - 0.14, 0.4, 0.09)
        return [(crown, (58, 50, 66)), (band, COLOURS["red"]), (brim, (58, 50, 66))]
    if name == "crown":
        teeth = top - 0.3 + 0.34 * np.abs((u + 0.25) % 0.5 - 0.25) / 0.25
        return [(np.maximum(np.abs(u) - 0.54, np.maximum(v - top - 0.1, teeth - 0.16 - v)), (255, 204, 28))]
    if name == "glasses":
        rims = np.minimum(circle(u, v, -0.33, face, 0.34), circle(u, v, 0.33, face, 0.34))
        return [(np.minimum(np.abs(rims) - 0.11, rectangle(u, v, 0, face, 0.9, 0.055)), (26, 24, 30))]
    if name == "scarf":
        wrap = rectangle(u, v, 0, face + 0.56, 0.9, 0.2, 0.1)
        tail = rectangle(u, v, 0.38, face + 0.9, 0.2, 0.36, 0.08)
        return [(tail, (240, 240, 236)), (wrap, (240, 240, 236))]
    return []
