"""Samples clips for training and testing the sandbox's SAM 2.

A case is the content of a clip. Its creatures move along paths: they cross, leave the picture and return. In
the base model's clips and in the shows' episodes, creatures act in place instead. The seed determines a case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from toolkit.sandbox.world import paint, population, scenery, world
from toolkit.sandbox.world.actions import ACTIONS, ROLES, find_interaction

Kind = Literal["alone", "together", "cross", "alike", "leave"]
KINDS: tuple[Kind, ...] = get_args(Kind)
KIND_SHARES = (0.2, 0.2, 0.25, 0.2, 0.15)  # shares of the kinds in training
ASPECT_RATIO = world.WIDTH / world.HEIGHT  # width of the picture in picture heights
SOLO_ACTIONS = tuple(action for action in ACTIONS if action not in ROLES)
OUT_OF_SIGHT = (0.35, 0.65)  # start and end of a leaving creature's absence, as fractions of the clip


@dataclass(frozen=True)
class Case:
    """The content of a clip.

    Attributes:
        actors: The actors of each frame: always the same creatures, the last one in front.
        seconds: Times of the frames.
        scene: One of `scenery.SCENES`.
        style: Rendering style of the scene.
        seed: Varies the scene's details.
        camera: Camera motion.
        prop: One of `scenery.PROPS`, or "".
    """

    actors: tuple[tuple[world.Actor, ...], ...]
    seconds: NDArray[np.float64]
    scene: str
    style: str
    seed: int
    camera: world.Camera = world.STATIC_CAMERA
    prop: str = ""

    def draw(
        self, height: int = world.HEIGHT, width: int = world.WIDTH
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Draw the case: frames (F, H, W, 3) and visible masks (actors, F, H, W)."""
        parts = [
            world.draw(
                actors, self.scene, self.style, seconds=self.seconds[k : k + 1], height=height, width=width,
                seed=self.seed, camera=self.camera, prop=self.prop,
            )
            for k, actors in enumerate(self.actors)
        ]  # fmt: skip
        return np.concatenate([frames for frames, _ in parts]), np.concatenate([m for _, m in parts], 1)


def sample_case(
    seed: int, looks: Sequence[world.Look], kind: Kind, frames: int, fps: float = world.FPS
) -> Case:
    """Sample the case of a seed.

    Args:
        seed: Determines the case.
        looks: Looks to choose from.
        kind: "alone": one creature; "together": two or three at fixed distances; "cross": two pass each
            other; "alike": the same with equal or nearly equal looks; "leave": one leaves the picture and may
            return.
        frames: Number of frames.
        fps: Frames per second.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    count = {"alone": 1, "together": int(rng.integers(2, 4)), "leave": int(rng.integers(1, 3))}.get(kind, 2)
    chosen = [looks[int(i)] for i in rng.choice(len(looks), count, replace=False)]
    if kind == "alike":
        chosen[1] = chosen[0] if rng.random() < 0.3 else near_miss(chosen[0], rng)
    styles = [str(style) for style in rng.choice(world.STYLES, count)]
    if kind == "alike" or rng.random() < 0.5:
        styles = styles[:1] * count
    actions = population.sample_actions(count, rng) if kind == "together" else []
    actions = actions or [str(action) for action in rng.choice(SOLO_ACTIONS, count)]
    actors = [world.Actor(*row, 0.0) for row in zip(chosen, actions, styles, strict=True)]
    played = find_interaction(tuple(actions))
    if kind == "together":
        actors = list(world.arrange(actors, rng))
    paths = [_sample_path(kind, k, actor, frames, rng) for k, actor in enumerate(actors)]
    if played:  # partners of an interaction share one path
        paths = [paths[0]] * count
    order = np.arange(count) if played else rng.permutation(count)
    going = [tuple(_at(actors[i], paths[i], k, kind) for i in order) for k in range(frames)]
    return Case(
        tuple(going),
        np.arange(frames) / fps,
        str(rng.choice(scenery.SCENES)),
        str(rng.choice(world.STYLES)),
        seed,
        _sample_camera(rng),
        str(rng.choice(scenery.PROPS)) if rng.random() < 0.3 else "",
    )


def near_miss(look: world.Look, rng: np.random.Generator) -> world.Look:
    """Return a look that differs in colour, pattern or accessory."""
    pools = {"colour": paint.COLOURS, "pattern": paint.PATTERNS, "accessory": paint.ACCESSORIES}
    key = str(rng.choice(list(pools)))
    return replace(look, **{key: str(rng.choice([v for v in pools[key] if v != getattr(look, key)]))})


@dataclass(frozen=True)
class _Path:
    """Position of a creature per frame: x and ground in picture heights, and size (half its height)."""

    x: NDArray[np.float64]
    ground: NDArray[np.float64]
    size: NDArray[np.float64]


def _sample_path(kind: Kind, number: int, actor: world.Actor, frames: int, rng: np.random.Generator) -> _Path:
    """Sample the path of the creature with index `number`."""
    times = np.linspace(0, 1, frames)
    ground, grown, size = rng.uniform(0.78, 0.98), rng.uniform(0.85, 1.2), rng.uniform(0.15, 0.32)
    keys, xs = [0.0, 1.0], [rng.uniform(0.2, ASPECT_RATIO - 0.2)] * 2
    if kind == "together":
        drift = rng.uniform(-0.12, 0.12)
        xs, ground, size = [0.0, drift], rng.uniform(-0.08, 0.08), 0.0
    elif kind in ("cross", "alike"):
        size, ground = rng.uniform(0.15, 0.26), rng.uniform(0.82, 0.95)
        keys = [0.0, rng.uniform(0.0, 0.2), rng.uniform(0.7, 1.0), 1.0]
        ends = [rng.uniform(0.12, 0.45), ASPECT_RATIO - rng.uniform(0.12, 0.45)]
        if number and rng.random() < 0.25:  # it stays, and the other one passes
            ends = [ASPECT_RATIO / 2 + rng.uniform(-0.15, 0.15)] * 2
        ends = ends[::-1] if number else ends
        xs = [ends[0], ends[0], ends[1], ends[1]]
    elif kind == "leave" and number == 0:
        out = size * 1.9 + 0.25
        outside = -out if rng.random() < 0.5 else ASPECT_RATIO + out
        back = rng.uniform(0.25, ASPECT_RATIO - 0.25) if rng.random() < 0.5 else xs[0]
        keys, xs = [0.0, 0.1, *OUT_OF_SIGHT, 0.9, 1.0], [xs[0], xs[0], outside, outside, back, back]
    elif rng.random() < 0.5:
        xs = [xs[0], float(np.clip(xs[0] + rng.uniform(-0.5, 0.5), 0.1, ASPECT_RATIO - 0.1))]
    if rng.random() < 0.5:
        grown = 1.0
    along = np.interp(times, keys, xs)
    return _Path(along, np.full(frames, ground), size * (1 + (grown - 1) * times))


def _at(actor: world.Actor, path: _Path, k: int, kind: Kind) -> world.Actor:
    """Return the actor in frame k of its path. For "together", the path is an offset to its position."""
    x, ground, size = float(path.x[k]), float(path.ground[k]), float(path.size[k])
    if kind == "together":
        return replace(actor, x=actor.x + x, ground=actor.ground + ground)
    return replace(actor, x=x, ground=ground, size=size)


def _sample_camera(rng: np.random.Generator) -> world.Camera:
    """Sample a camera: it pans or zooms in a third of all clips."""
    kind = rng.random()
    if kind < 0.2:
        return world.Camera(pan=float(rng.uniform(-0.35, 0.35)))
    return world.Camera(zoom=float(rng.uniform(0.85, 1.35))) if kind < 0.33 else world.STATIC_CAMERA
