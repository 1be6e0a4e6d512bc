"""The sandbox world: how creatures of certain looks, doing certain things in a scene, become a clip.

Who lives in it stands in `population` (the base model's) and `shows` (the named characters'), what they do in
`actions`, and how things look in `paint` and `shapes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.sandbox.world import paint, scenery
from toolkit.sandbox.world.actions import ACTIONS, GIFT_ARRIVES, GIFT_LEAVES, ROLES, interaction

HEIGHT, WIDTH, NUM_FRAMES, FPS = 64, 96, 17, 8.0
PERIOD = NUM_FRAMES / FPS  # seconds: one clip holds one turn of an action
STYLES = ("cartoon", "realistic")
Array = NDArray[Any]


@dataclass(frozen=True)
class Look:
    """What makes a creature recognisable: body, colour, pattern, accessory (values in `paint`)."""

    body: str
    colour: str
    pattern: str = "plain"
    accessory: str = "none"

    @property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """Every pair of the three attributes that identify a named character."""
        return frozenset(combinations((self.body, self.colour, self.accessory), 2))


@dataclass(frozen=True)
class Actor:
    """One creature in a clip.

    `x` and `ground` in picture heights, `size` its half height, `phase` in turns.
    """

    look: Look
    action: str
    style: str
    x: float
    name: str = ""
    ground: float = 0.86
    size: float = 0.25
    phase: float = 0.0


@dataclass(frozen=True)
class Camera:
    """How the view moves in one turn: `pan` to the right, in picture heights; `zoom`, how much closer."""

    pan: float = 0.0
    zoom: float = 1.0

    def view(self, seconds: Array) -> tuple[Array, Array]:
        """Where the view's middle has gone, in picture heights, and its scale, at the given times."""
        p = np.clip(np.asarray(seconds, np.float32) / PERIOD, 0, 1)
        return self.pan * (p - 0.5), 1 + (self.zoom - 1) * p


STILL = Camera()
AXIS = 0.62  # the height about which the camera zooms
GROWN = 0.27  # the half height of a creature alone; small ones take small steps


def pose(actor: Actor, seconds: Array) -> dict[str, Array]:
    """Per-frame pose of an actor at the given times; standing on its ground unless the action lifts it."""
    p = (np.asarray(seconds, np.float32) / PERIOD + actor.phase).astype(np.float32)
    rest = {"dx": 0 * p, "dy": 0 * p, "rot": 0 * p, "sx": 1 + 0 * p, "sy": 1 + 0 * p, "step": 0 * p}
    move = rest | ACTIONS[actor.action](p)
    reach = 1.0 if actor.action in ROLES else actor.size / GROWN
    return {
        "x": actor.x + reach * move["dx"],
        "y": actor.ground - actor.size * move["sy"] + reach * move["dy"],
        "ground": actor.ground + 0 * p,
        "size": actor.size + 0 * p,
    } | {key: move[key] for key in ("rot", "sx", "sy", "step")}


def _seen(pose: Mapping[str, Array], centre: float, moved: Array, scale: Array) -> dict[str, Array]:
    """A pose as the camera shows it."""
    x, y, ground = (
        (pose["x"] - centre - moved) * scale + centre,
        (pose["y"] - AXIS) * scale,
        pose["ground"] - AXIS,
    )
    return {**pose, "x": x, "y": y + AXIS, "ground": ground * scale + AXIS, "size": pose["size"] * scale}


def _gift(poses: Sequence[Mapping[str, Array]], roles: Sequence[str], seconds: Array) -> tuple[Array, Array]:
    """Where the gift is: beside the giver, then on its way, then with the taker."""
    giver, taker = (poses[roles.index(r)] for r in ("hands over a gift", "takes the gift"))
    t = np.clip((seconds / PERIOD - GIFT_LEAVES) / (GIFT_ARRIVES - GIFT_LEAVES), 0, 1)
    side = np.sign(taker["x"] - giver["x"]) * giver["size"] * 1.05
    x = (1 - t) * (giver["x"] + side) + t * (taker["x"] - side)
    return x, (1 - t) * giver["y"] + t * taker["y"] - 0.5 * giver["size"] * np.sin(np.pi * t)


def draw(
    actors: Sequence[Actor],
    scene: str,
    scene_style: str,
    *,
    seconds: Array | None = None,
    height: int = HEIGHT,
    width: int = WIDTH,
    seed: int | None = None,
    camera: Camera = STILL,
    prop: str = "",
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a clip: frames (F, H, W, 3) uint8 and visible masks (len(actors), F, H, W).

    Later actors stand in front; who rides, in front of everybody. A `seed` varies sets and textures a little,
    as no clip of the base model or of the shows does.
    """
    times = (
        np.arange(NUM_FRAMES, dtype=np.float32) / FPS if seconds is None else np.asarray(seconds, np.float32)
    )
    rng = None if seed is None else np.random.default_rng(seed)
    moved, scale = camera.view(times)
    texture = 1 + 0.08 * scenery.smooth_noise(rng or np.random.default_rng(0), height, width, 7)
    image = scenery.scene(scene, scene_style, height, width, rng, prop, moved, scale, AXIS)
    masks = np.zeros((len(actors), *image.shape[:3]), np.bool_)
    roles, centre = [a.action for a in actors], width / height / 2
    poses = [_seen(pose(a, times), centre, moved, scale) for a in actors]
    for i in sorted(range(len(actors)), key=lambda i: roles[i] == "rides on top"):
        look = {k: getattr(actors[i].look, k) for k in ("body", "colour", "pattern", "accessory")}
        for start in range(0, len(times), 8):  # a few frames at a time stay in the processor's cache
            part = slice(start, start + 8)
            now = {k: v[part] for k, v in poses[i].items()}
            mask = paint.creature(image[part], look, actors[i].style, now, height, texture)
            if roles[i] == "hides":
                now |= {"x": ((actors[i].x - centre - moved) * scale + centre)[part], "y": now["ground"]}
                mask &= ~paint.thing(image[part], "planks", scene_style, now, height)
            masks[:, part] &= ~mask
            masks[i, part] = mask
    if interaction(tuple(roles)) == "gift":
        x, y = _gift(poses, roles, times)
        size = poses[0]["size"]
        masks &= ~paint.thing(image, "gift", scene_style, {"x": x, "y": y, "size": size}, height)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8), masks


def place(actors: Sequence[Actor], rng: np.random.Generator) -> tuple[Actor, ...]:
    """Stand actors side by side, the first one on the left, or as their interaction wants it.

    Places and sizes vary little: every pixel of freedom costs the tiny base model training time.
    """
    width, n = WIDTH / HEIGHT, len(actors)
    size = (GROWN, 0.23, 0.185)[n - 1]
    xs = [width * (i + 0.5) / n for i in range(n)]
    ground = 0.88
    grounds = [ground] * n
    played = interaction(tuple(a.action for a in actors))
    if played == "chase":
        size, xs = (0.2, [0.28, 0.8]) if n == 2 else (0.17, [0.2, 0.55, 0.92])
    elif played == "bump":
        xs[:2] = [0.36, 0.98] if n == 2 else [0.3, 0.8]
    elif played == "ride":
        size = 0.19 if n == 2 else 0.18
        xs = [0.75, 0.75] if n == 2 else [0.5, 0.5, 1.22]
        grounds[0] = ground - 1.75 * size
    size, shift = size * float(rng.uniform(0.98, 1.02)), float(rng.uniform(-0.03, 0.03) / n)
    rows = zip(actors, xs, grounds, strict=True)
    return tuple(replace(a, x=x + shift, ground=g, size=size) for a, x, g in rows)


def look_of(mapping: Mapping[str, str]) -> Look:
    """The look of a registry character. Raises ValueError on a value that the world cannot draw."""
    look = Look(**mapping)
    for key, known in (("body", paint.BODIES), ("colour", paint.COLOURS)):
        if getattr(look, key) not in known:
            raise ValueError(f"look.{key} is {getattr(look, key)!r}, expected one of {', '.join(known)}")
    if look.pattern not in paint.PATTERNS or look.accessory not in paint.ACCESSORIES:
        raise ValueError(
            f"look {look} has a pattern or accessory outside {paint.PATTERNS} and {paint.ACCESSORIES}"
        )
    return look
