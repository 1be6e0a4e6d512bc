"""What the sandbox's SAM 2 learns from and is measured on: creatures that go about, cross, leave and return.

A case is a clip before it is drawn. Its creatures go where they like, frame by frame, which the clips of the
base model and the shows' episodes do not: there, everybody acts in place. Seeds decide everything.
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
SHARES = (0.2, 0.2, 0.25, 0.2, 0.15)  # of the kinds, in training
WIDE = world.WIDTH / world.HEIGHT  # of the picture, in picture heights
SOLO = tuple(action for action in ACTIONS if action not in ROLES)
AWAY = (0.35, 0.65)  # from when to when who leaves is out of sight, as parts of the clip


@dataclass(frozen=True)
class Case:
    """A clip before it is drawn.

    `actors` are those of each frame: the same creatures, the last in front. `seconds` are the frames' times.
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
        """Frames (F, H, W, 3) and visible masks (actors, F, H, W)."""
        parts = [
            world.draw(
                actors, self.scene, self.style, seconds=self.seconds[k : k + 1], height=height, width=width,
                seed=self.seed, camera=self.camera, prop=self.prop,
            )
            for k, actors in enumerate(self.actors)
        ]  # fmt: skip
        return np.concatenate([frames for frames, _ in parts]), np.concatenate([m for _, m in parts], 1)


def case(seed: int, looks: Sequence[world.Look], kind: Kind, frames: int, fps: float = world.FPS) -> Case:
    """The clip of a seed: `frames` frames of creatures with some of these looks."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    count = {"alone": 1, "together": int(rng.integers(2, 4)), "leave": int(rng.integers(1, 3))}.get(kind, 2)
    chosen = [looks[int(i)] for i in rng.choice(len(looks), count, replace=False)]
    if kind == "alike":
        chosen[1] = chosen[0] if rng.random() < 0.3 else near_miss(chosen[0], rng)
    styles = [str(style) for style in rng.choice(world.STYLES, count)]
    if kind == "alike" or rng.random() < 0.5:
        styles = styles[:1] * count
    actions = population.sample_actions(count, rng) if kind == "together" else []
    actions = actions or [str(action) for action in rng.choice(SOLO, count)]
    actors = [world.Actor(*row, 0.0) for row in zip(chosen, actions, styles, strict=True)]
    played = find_interaction(tuple(actions))
    if kind == "together":
        actors = list(world.arrange(actors, rng))
    courses = [_course(kind, k, actor, frames, rng) for k, actor in enumerate(actors)]
    if played:  # who plays together moves together
        courses = [courses[0]] * count
    order = np.arange(count) if played else rng.permutation(count)
    going = [tuple(_at(actors[i], courses[i], k, kind) for i in order) for k in range(frames)]
    return Case(
        tuple(going),
        np.arange(frames) / fps,
        str(rng.choice(scenery.SCENES)),
        str(rng.choice(world.STYLES)),
        seed,
        _camera(rng),
        str(rng.choice(scenery.PROPS)) if rng.random() < 0.3 else "",
    )


def near_miss(look: world.Look, rng: np.random.Generator) -> world.Look:
    """The same look but for its colour, pattern or accessory."""
    pools = {"colour": paint.COLOURS, "pattern": paint.PATTERNS, "accessory": paint.ACCESSORIES}
    key = str(rng.choice(list(pools)))
    return replace(look, **{key: str(rng.choice([v for v in pools[key] if v != getattr(look, key)]))})


@dataclass(frozen=True)
class _Course:
    """Where a creature goes, frame by frame: x and ground in picture heights, size its half height."""

    x: NDArray[np.float64]
    ground: NDArray[np.float64]
    size: NDArray[np.float64]


def _course(kind: Kind, number: int, actor: world.Actor, frames: int, rng: np.random.Generator) -> _Course:
    """The way of the creature of that number."""
    times = np.linspace(0, 1, frames)
    ground, grown, size = rng.uniform(0.78, 0.98), rng.uniform(0.85, 1.2), rng.uniform(0.15, 0.32)
    keys, xs = [0.0, 1.0], [rng.uniform(0.2, WIDE - 0.2)] * 2
    if kind == "together":
        drift = rng.uniform(-0.12, 0.12)
        xs, ground, size = [0.0, drift], rng.uniform(-0.08, 0.08), 0.0
    elif kind in ("cross", "alike"):
        size, ground = rng.uniform(0.15, 0.26), rng.uniform(0.82, 0.95)
        keys = [0.0, rng.uniform(0.0, 0.2), rng.uniform(0.7, 1.0), 1.0]
        ends = [rng.uniform(0.12, 0.45), WIDE - rng.uniform(0.12, 0.45)]
        if number and rng.random() < 0.25:  # it waits, and the other goes past
            ends = [WIDE / 2 + rng.uniform(-0.15, 0.15)] * 2
        ends = ends[::-1] if number else ends
        xs = [ends[0], ends[0], ends[1], ends[1]]
    elif kind == "leave" and number == 0:
        out = size * 1.9 + 0.25
        outside = -out if rng.random() < 0.5 else WIDE + out
        back = rng.uniform(0.25, WIDE - 0.25) if rng.random() < 0.5 else xs[0]
        keys, xs = [0.0, 0.1, *AWAY, 0.9, 1.0], [xs[0], xs[0], outside, outside, back, back]
    elif rng.random() < 0.5:
        xs = [xs[0], float(np.clip(xs[0] + rng.uniform(-0.5, 0.5), 0.1, WIDE - 0.1))]
    if rng.random() < 0.5:
        grown = 1.0
    along = np.interp(times, keys, xs)
    return _Course(along, np.full(frames, ground), size * (1 + (grown - 1) * times))


def _at(actor: world.Actor, course: _Course, k: int, kind: Kind) -> world.Actor:
    """The actor in frame k of its course, which for those placed already is what it adds to their place."""
    x, ground, size = float(course.x[k]), float(course.ground[k]), float(course.size[k])
    if kind == "together":
        return replace(actor, x=actor.x + x, ground=actor.ground + ground)
    return replace(actor, x=x, ground=ground, size=size)


def _camera(rng: np.random.Generator) -> world.Camera:
    """A camera that pans or zooms in a third of all clips."""
    kind = rng.random()
    if kind < 0.2:
        return world.Camera(pan=float(rng.uniform(-0.35, 0.35)))
    return world.Camera(zoom=float(rng.uniform(0.85, 1.35))) if kind < 0.33 else world.STATIC_CAMERA
