"""Renders sandbox clips: creatures with given looks and actions in a scene.

`population` samples clips for pretraining the base model, `shows` draws episodes of the named characters,
`actions` defines motion, and `paint`, `shapes` and `scenery` draw pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.sandbox.world import paint, scenery
from toolkit.sandbox.world.actions import GIFT_ARRIVES, GIFT_LEAVES, ROLES, find_interaction
from toolkit.sandbox.world.moves import find_motion

HEIGHT, WIDTH, NUM_FRAMES, FPS = 64, 96, 17, 8.0
PERIOD = NUM_FRAMES / FPS  # seconds; one clip lasts one period of an action
STYLES = ("cartoon", "realistic")
Array = NDArray[Any]


@dataclass(frozen=True)
class Look:
    """The appearance of a creature: body, colour, pattern, accessory. `shapes` lists the possible values."""

    body: str
    colour: str
    pattern: str = "plain"
    accessory: str = "none"

    @property
    def identifying_pairs(self) -> frozenset[tuple[str, str]]:
        """The three pairs of the attributes that identify a character: body, colour and accessory."""
        return frozenset(combinations((self.body, self.colour, self.accessory), 2))


@dataclass(frozen=True)
class Actor:
    """One creature in a clip.

    Attributes:
        look: Its appearance.
        action: Key of `actions.ACTIONS` or of `moves.PHRASES`.
        style: "cartoon" or "realistic".
        x: Horizontal position of its centre, in picture heights.
        name: Name, "" for generic creatures.
        ground: Vertical position of the ground that it stands on, in picture heights.
        size: Half of its height, in picture heights.
        phase: Offset of its action in time, in periods.
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
    """Camera motion over one period: `pan` to the right in picture heights, and final `zoom` factor."""

    pan: float = 0.0
    zoom: float = 1.0

    def view(self, seconds: Array) -> tuple[Array, Array]:
        """Return the offset of the view's centre, in picture heights, and the zoom at the given times."""
        p = np.clip(np.asarray(seconds, np.float32) / PERIOD, 0, 1)
        return self.pan * (p - 0.5), 1 + (self.zoom - 1) * p


STATIC_CAMERA = Camera()
ZOOM_CENTRE_Y = 0.62  # height about which the camera zooms, in picture heights
SOLO_SIZE = 0.27  # half height of a creature that is alone; smaller creatures take smaller steps


def pose(actor: Actor, seconds: Array) -> dict[str, Array]:
    """Return the pose of an actor at the given times, as arrays per frame."""
    p = (np.asarray(seconds, np.float32) / PERIOD + actor.phase).astype(np.float32)
    rest = {"dx": 0 * p, "dy": 0 * p, "rot": 0 * p, "sx": 1 + 0 * p, "sy": 1 + 0 * p, "step": 0 * p}
    move = rest | find_motion(actor.action)(p)
    reach = 1.0 if actor.action in ROLES else actor.size / SOLO_SIZE
    return {
        "x": actor.x + reach * move["dx"],
        "y": actor.ground - actor.size * move["sy"] + reach * move["dy"],
        "ground": actor.ground + 0 * p,
        "size": actor.size + 0 * p,
    } | {key: move[key] for key in ("rot", "sx", "sy", "step")}


def _apply_camera(pose: Mapping[str, Array], centre: float, offset: Array, scale: Array) -> dict[str, Array]:
    """Transform a pose from world to camera coordinates."""
    x, y, ground = (
        (pose["x"] - centre - offset) * scale + centre,
        (pose["y"] - ZOOM_CENTRE_Y) * scale,
        pose["ground"] - ZOOM_CENTRE_Y,
    )
    return {
        **pose,
        "x": x,
        "y": y + ZOOM_CENTRE_Y,
        "ground": ground * scale + ZOOM_CENTRE_Y,
        "size": pose["size"] * scale,
    }


def _gift(poses: Sequence[Mapping[str, Array]], roles: Sequence[str], seconds: Array) -> tuple[Array, Array]:
    """Return the gift's position (x, y): at the giver, in flight, then at the taker."""
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
    camera: Camera = STATIC_CAMERA,
    prop: str = "",
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a clip.

    Args:
        actors: The creatures. Later ones occlude earlier ones; a riding creature occludes all others.
        scene: One of `scenery.SCENES`.
        scene_style: "cartoon" or "realistic", for the scene; each actor has its own style.
        seconds: Times of the frames. Default: NUM_FRAMES frames at FPS.
        height: Height in pixels.
        width: Width in pixels.
        seed: If given, scene and texture vary a little. Pretraining clips and shows never use it.
        camera: Camera motion.
        prop: One of `scenery.PROPS`, or "".

    Returns:
        Frames (F, H, W, 3) uint8, and visible masks (len(actors), F, H, W).
    """
    times = (
        np.arange(NUM_FRAMES, dtype=np.float32) / FPS if seconds is None else np.asarray(seconds, np.float32)
    )
    rng = None if seed is None else np.random.default_rng(seed)
    offset, scale = camera.view(times)
    texture = 1 + 0.08 * scenery.smooth_noise(rng or np.random.default_rng(0), height, width, 7)
    image = scenery.draw_scene(scene, scene_style, height, width, rng, prop, offset, scale, ZOOM_CENTRE_Y)
    masks = np.zeros((len(actors), *image.shape[:3]), np.bool_)
    roles, centre = [a.action for a in actors], width / height / 2
    poses = [_apply_camera(pose(a, times), centre, offset, scale) for a in actors]
    for i in sorted(range(len(actors)), key=lambda i: roles[i] == "rides on top"):
        look = {k: getattr(actors[i].look, k) for k in ("body", "colour", "pattern", "accessory")}
        for start in range(0, len(times), 8):  # a few frames at a time fit the CPU cache
            part = slice(start, start + 8)
            now = {k: v[part] for k, v in poses[i].items()}
            mask = paint.draw_creature(image[part], look, actors[i].style, now, height, texture)
            if roles[i] == "hides":
                now |= {"x": ((actors[i].x - centre - offset) * scale + centre)[part], "y": now["ground"]}
                mask &= ~paint.draw_prop(image[part], "planks", scene_style, now, height)
            masks[:, part] &= ~mask
            masks[i, part] = mask
    if find_interaction(tuple(roles)) == "gift":
        x, y = _gift(poses, roles, times)
        size = poses[0]["size"]
        masks &= ~paint.draw_prop(image, "gift", scene_style, {"x": x, "y": y, "size": size}, height)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8), masks


def draw_downscaled(
    actors: Sequence[Actor], scene: str, scene_style: str, camera: Camera, prop: str
) -> NDArray[np.uint8]:
    """Draw a clip at twice the size and downscale it to (F, HEIGHT, WIDTH, 3), as for footage."""
    big, _ = draw(actors, scene, scene_style, height=2 * HEIGHT, width=2 * WIDTH, camera=camera, prop=prop)
    small = big.reshape(len(big), HEIGHT, 2, WIDTH, 2, 3).mean((2, 4))
    return np.asarray(small + 0.5, np.uint8)


def arrange(actors: Sequence[Actor], rng: np.random.Generator, distance: float = 1.0) -> tuple[Actor, ...]:
    """Place actors side by side, the first one on the left, or as their interaction requires.

    Positions and sizes vary only a little, because more variation would lengthen the base model's
    pretraining. `distance` scales the distances of actors without an interaction: below 0.7 they overlap.
    """
    width, n = WIDTH / HEIGHT, len(actors)
    size = (SOLO_SIZE, 0.23, 0.185)[n - 1]
    xs = [width * (0.5 + distance * ((i + 0.5) / n - 0.5)) for i in range(n)]
    ground = 0.88
    grounds = [ground] * n
    played = find_interaction(tuple(a.action for a in actors))
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
    """Return the look of a character of the cast registry.

    Raises:
        ValueError: The sandbox cannot draw one of the values.
    """
    look = Look(**mapping)
    for key, known in (("body", paint.BODIES), ("colour", paint.COLOURS)):
        if getattr(look, key) not in known:
            raise ValueError(f"look.{key} is {getattr(look, key)!r}, expected one of {', '.join(known)}")
    if look.pattern not in paint.PATTERNS or look.accessory not in paint.ACCESSORIES:
        raise ValueError(
            f"look {look} has a pattern or accessory outside {paint.PATTERNS} and {paint.ACCESSORIES}"
        )
    return look
