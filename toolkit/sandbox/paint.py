"""Pixels of the sandbox world: signed distances, two drawing styles, scenes and creatures.

Every shape is a signed distance (negative inside) in the creature's own coordinates: u to the right, v down, the body
about two units tall. The style decides only how a distance becomes colour: `cartoon` is a flat fill under a thick dark
outline, `realistic` is shaded, textured, has no outline and throws a soft shadow.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
RGB = tuple[float, float, float]

INK: RGB = (24, 22, 34)
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


def _circle(u: Array, v: Array, x: float, y: float, r: float) -> Array:
    return np.hypot(u - x, v - y) - r


def _rectangle(u: Array, v: Array, x: float, y: float, half_w: float, half_h: float, r: float = 0.0) -> Array:
    a, b = np.abs(u - x) - (half_w - r), np.abs(v - y) - (half_h - r)
    return np.hypot(np.maximum(a, 0), np.maximum(b, 0)) + np.minimum(np.maximum(a, b), 0) - r


def _ball(u: Array, v: Array) -> Array:
    return _circle(u, v, 0, 0, 0.88)


def _box(u: Array, v: Array) -> Array:
    return _rectangle(u, v, 0, 0, 0.84, 0.84, 0.14)


def _star(u: Array, v: Array) -> Array:
    radius, angle = np.hypot(u, v), np.arctan2(u, -v)
    angle = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)  # folded onto half a ray
    a, b = radius * np.cos(angle), radius * np.sin(angle)
    tip, inner = 1.16, 0.6
    dx, dy = inner * np.cos(np.pi / 5) - tip, inner * np.sin(np.pi / 5)
    return ((a - tip) * dy - b * dx) / np.hypot(dx, dy)


def _cone(u: Array, v: Array) -> Array:
    return np.maximum(v - 0.82, (np.abs(u) * 1.9 - (v + 1.05) * 0.95) / 2.12)


def _ghost(u: Array, v: Array) -> Array:
    top = np.where(v < -0.4, _circle(u, v, 0, -0.4, 0.62), np.abs(u) - 0.62)
    return np.maximum(top, v - 0.86 - 0.12 * np.cos(u * 10.1))


def _bear(u: Array, v: Array) -> Array:
    ears = np.minimum(_circle(u, v, -0.62, -0.66, 0.4), _circle(u, v, 0.62, -0.66, 0.4))
    return np.minimum(_circle(u, v, 0, 0.1, 0.8), ears)


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


def _pattern(name: str, u: Array, v: Array) -> Array | None:
    """The part of a body that is painted in the light second colour, as a distance."""
    if name == "striped":
        return np.abs((u + 0.24) % 0.96 - 0.48) - 0.2
    if name == "spotted":
        spots = [
            (-0.5, 0.42, 0.2),
            (0.52, 0.34, 0.22),
            (0.02, 0.62, 0.2),
            (-0.52, -0.42, 0.17),
            (0.5, -0.42, 0.17),
        ]
        return np.minimum.reduce([_circle(u, v, x, y, r) for x, y, r in spots])
    return None


def _accessory(name: str, u: Array, v: Array, top: float, face: float) -> list[tuple[Array, RGB]]:
    """Distances and colours of what a creature wears, drawn in order."""
    if name == "hat":
        brim = _rectangle(u, v, 0, top + 0.02, 0.66, 0.1, 0.05)
        crown = _rectangle(u, v, 0, top - 0.34, 0.4, 0.34, 0.05)
        band = _rectangle(u, v, 0, top - 0.14, 0.4, 0.09)
        return [(crown, (58, 50, 66)), (band, COLOURS["red"]), (brim, (58, 50, 66))]
    if name == "crown":
        teeth = top - 0.3 + 0.34 * np.abs((u + 0.25) % 0.5 - 0.25) / 0.25
        return [(np.maximum(np.abs(u) - 0.54, np.maximum(v - top - 0.1, teeth - 0.16 - v)), (255, 204, 28))]
    if name == "glasses":
        rims = np.minimum(_circle(u, v, -0.33, face, 0.34), _circle(u, v, 0.33, face, 0.34))
        return [(np.minimum(np.abs(rims) - 0.075, _rectangle(u, v, 0, face, 0.9, 0.055)), (26, 24, 30))]
    if name == "scarf":
        wrap = _rectangle(u, v, 0, face + 0.54, 0.86, 0.16, 0.08)
        tail = _rectangle(u, v, 0.36, face + 0.84, 0.15, 0.32, 0.06)
        return [(tail, (240, 240, 236)), (wrap, (240, 240, 236))]
    return []


def _over(image: Array, alpha: Array, colour: Array | RGB) -> None:
    image += alpha[..., None] * (np.asarray(colour, np.float32) - image)


def _fill(
    image: Array, distance: Array, colour: RGB, style: str, light: Array, px: Array, inked: bool = True
) -> None:
    """Paint one shape. `px` is how many pixels one unit measures, `light` the shading of the realistic style."""
    if style == "cartoon":
        if inked:
            _over(image, np.clip(0.5 - (distance - 0.1) * px, 0, 1), INK)
        _over(image, np.clip(0.5 - distance * px, 0, 1), colour)
    else:
        muted = np.asarray(colour, np.float32) * 0.86 + 16.0
        _over(image, np.clip(0.5 - distance * px, 0, 1), muted * light[..., None])


def creature(
    image: Array, look: dict[str, str], style: str, pose: dict[str, Array], height: int, texture: Array
) -> NDArray[np.bool_]:
    """Draw one creature over `image` (F, H, W, 3) and return its mask (F, H, W).

    `pose` holds per-frame arrays: x, y (centre), size (half height), all in units of the picture's height, rot
    (radians), sx, sy (stretch), step (foot swing, -1..1) and ground (where the shadow lies).
    """
    frames, h, w = image.shape[:3]
    whole = np.zeros((frames, h, w), np.bool_)
    get = {k: np.asarray(a, np.float32).reshape(frames, 1, 1) for k, a in pose.items()}
    reach = float((get["size"] * np.maximum(get["sx"], get["sy"])).max()) * 1.9  # nothing is drawn outside it
    left, right = (int(np.clip(e * height, 0, w)) for e in (get["x"].min() - reach, get["x"].max() + reach))
    up, down = (int(np.clip(e * height, 0, h)) for e in (get["y"].min() - reach, get["y"].max() + reach))
    image, texture = image[:, up:down, left:right], texture[up:down, left:right]
    yy = ((np.arange(up, down, dtype=np.float32) + 0.5) / height).reshape(1, -1, 1)
    xx = ((np.arange(left, right, dtype=np.float32) + 0.5) / height).reshape(1, 1, -1)
    dx, dy = (xx - get["x"]) / get["size"], (yy - get["y"]) / get["size"]
    cos, sin = np.cos(get["rot"]), np.sin(get["rot"])
    u, v = (cos * dx + sin * dy) / get["sx"], (cos * dy - sin * dx) / get["sy"]
    px = get["size"] * height * np.ones_like(u)
    body = BODIES[look["body"]](u, v)
    depth = np.sqrt(np.clip(-body / 0.7, 0, 1))
    light = np.clip(0.5 + 0.34 * depth - 0.2 * (dx + 1.2 * dy) * (0.4 + 0.6 * depth), 0.3, 1.32) * texture
    light = light.astype(np.float32)
    flat = np.clip(0.92 - 0.12 * (dx + dy), 0.55, 1.15).astype(np.float32)
    if style == "realistic":
        shade = ((xx - get["x"] - 0.03) / (0.9 * get["size"])) ** 2 + (
            (yy - get["ground"]) / (0.2 * get["size"])
        ) ** 2
        _over(image, 0.5 * np.clip(1.25 - shade, 0, 1), (18, 16, 20))
    swing = 0.16 * get["step"]
    feet = np.minimum(_circle(u, v + swing, -0.36, 0.86, 0.24), _circle(u, v - swing, 0.36, 0.86, 0.24))
    colour = COLOURS[look["colour"]]
    dark: RGB = (colour[0] * 0.62, colour[1] * 0.62, colour[2] * 0.62)
    _fill(image, feet, dark, style, flat, px)
    _fill(image, body, colour, style, light, px)
    second = _pattern(look["pattern"], u, v)
    if second is not None:
        pale: RGB = (colour[0] * 0.25 + 190, colour[1] * 0.25 + 190, colour[2] * 0.25 + 190)
        _fill(image, np.maximum(second, body + 0.02), pale, style, light, px, inked=False)
    face, top = FACE_Y[look["body"]], TOP_Y[look["body"]]
    eyes = np.minimum(_circle(u, v, -0.33, face, 0.24), _circle(u, v, 0.33, face, 0.24))
    pupils = np.minimum(_circle(u, v, -0.29, face + 0.03, 0.125), _circle(u, v, 0.37, face + 0.03, 0.125))
    _fill(image, eyes, WHITE, style, flat, px, inked=False)
    _fill(image, pupils, INK, style, flat, px, inked=False)
    solid = np.minimum(body, feet)
    for distance, tint in _accessory(look["accessory"], u, v, top, face):
        _fill(image, distance, tint, style, flat, px, inked=look["accessory"] != "glasses")
        solid = np.minimum(solid, distance)
    whole[:, up:down, left:right] = solid < (0.1 if style == "cartoon" else 0.0)
    return whole


SCENES = ("meadow", "beach", "room", "city", "snow")
_SKY: dict[str, tuple[RGB, RGB]] = {  # sky or wall, ground
    "meadow": ((150, 212, 250), (112, 190, 84)),
    "beach": ((178, 228, 250), (240, 218, 150)),
    "room": ((238, 206, 170), (158, 108, 74)),
    "city": ((44, 46, 96), (96, 96, 112)),
    "snow": ((196, 214, 236), (240, 244, 250)),
}
GROUND_Y = 0.72


def _things(name: str, x: Array, y: Array, w: float, shift: float) -> list[tuple[Array, RGB]]:
    """What stands in a scene, far to near; x, y in picture heights, `shift` moves things sideways."""
    if name == "meadow":
        hills = np.minimum(_circle(x, y, 0.3 + shift, 1.05, 0.52), _circle(x, y, 1.2 + shift, 1.1, 0.58))
        return [(_circle(x, y, w - 0.2 - shift, 0.16, 0.1), (255, 226, 92)), (hills, (84, 158, 84))]
    if name == "beach":
        return [
            (_circle(x, y, 0.25 + shift, 0.2, 0.12), (255, 214, 80)),
            (np.maximum(0.5 - y, y - 0.8), (46, 132, 206)),
        ]
    if name == "room":
        window = _rectangle(x, y, w * 0.72 + shift, 0.3, 0.24, 0.18)
        picture = _rectangle(x, y, 0.3 + shift, 0.3, 0.13, 0.12)
        return [(window, (168, 220, 246)), (picture, (186, 70, 62))]
    if name == "city":
        towers = [(0.14, 0.5, 0.2), (0.52, 0.34, 0.15), (0.92, 0.48, 0.18), (1.34, 0.3, 0.17)]
        blocks = np.minimum.reduce(
            [_rectangle(x, y, a + shift, top + 0.4, half, 0.42) for a, top, half in towers]
        )
        return [(_circle(x, y, w - 0.24 - shift, 0.16, 0.09), (246, 240, 196)), (blocks, (76, 70, 118))]
    trees = [(0.2, 0.3), (0.72, 0.36), (1.3, 0.28)]
    pines = np.minimum.reduce(
        [np.maximum(y - 0.74, (np.abs(x - a - shift) * 2.4 - (y - top)) / 2.6) for a, top in trees]
    )
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


def scene(name: str, style: str, height: int, width: int, rng: np.random.Generator) -> Array:
    """An empty scene (H, W, 3), 0..255."""
    y = np.broadcast_to(
        ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None], (height, width)
    ).copy()
    x = np.broadcast_to(((np.arange(width, dtype=np.float32) + 0.5) / height)[None], (height, width)).copy()
    sky, ground = _SKY[name]
    shift = float(rng.uniform(-0.06, 0.06))
    edge = float(height)
    soft = height / 2.5 if style == "realistic" else edge
    image = np.ones((height, width, 3), np.float32) * np.asarray(sky, np.float32)
    floor = GROUND_Y - y
    layers = [*_things(name, x, y, width / height, shift), (floor, ground)]
    for distance, colour in layers:
        if style == "cartoon":
            _over(image, np.clip(0.5 - (distance - 0.018) * edge, 0, 1), INK)
        _over(image, np.clip(0.5 - distance * soft, 0, 1), colour)
    if style == "realistic":
        grey = image.mean(-1, keepdims=True)
        image = (0.6 * image + 0.4 * grey) * (0.92 - 0.3 * (y[..., None] - 0.45))
        image *= 1 + 0.055 * smooth_noise(rng, height, width, 6)[..., None]
        image *= 1.04 - 0.16 * ((x / (width / height) - 0.5) ** 2 + (y - 0.5) ** 2)[..., None] * 2
    return image
