"""The sandbox world: who lives in it, what they do, what one says about it, and how it looks.

Two populations are kept apart. *Generic* creatures, and a persistent cast of them known by name, feed the
base model's pretraining. The *named* characters of the shows in `character_data/` are never seen there: no
generic creature has two of (body, colour, accessory) in common with a named one, and the actions in
`HELD_OUT` belong to the shows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.sandbox import paint

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


# --- what they do: p is time in turns; the result moves the creature (in picture heights), turns it (in
# radians) and stretches it


def _wave(p: Array) -> Array:
    return np.asarray(np.sin(2 * np.pi * p))


def _triangle(p: Array) -> Array:
    return np.asarray(2 * np.abs(2 * ((p + 0.25) % 1) - 1) - 1, np.float32)


def _hop(p: Array) -> Array:
    return np.asarray(np.maximum(0, np.sin(2 * np.pi * p)))


def _turn(p: Array) -> Array:
    """One full turn while `_hop` is in the air."""
    return np.asarray(np.clip((p % 1) * 2, 0, 1) * 2 * np.pi, np.float32)


Motion = Callable[[Array], dict[str, Array]]
BASE_ACTIONS: dict[str, Motion] = {
    "stands still": lambda p: {"sy": 1 + 0.02 * _wave(p)},
    "walks": lambda p: {
        "dx": 0.2 * _triangle(p / 2),
        "dy": -0.035 * np.abs(_wave(2 * p)),
        "step": _wave(4 * p),
    },
    "jumps": lambda p: {"dy": -0.26 * _hop(p), "sy": 1 + 0.12 * _hop(p) - 0.16 * _hop(p + 0.5)},
    "spins": lambda p: {"rot": 2 * np.pi * p, "dy": -0.05 + 0 * p},
    "sways": lambda p: {"rot": 0.42 * _wave(p), "dx": 0.05 * _wave(p)},
    "puffs up": lambda p: {"sx": 1 + 0.26 * _wave(p), "sy": 1 + 0.26 * _wave(p)},
    "floats": lambda p: {"dy": -0.14 + 0.06 * _wave(p), "dx": 0.06 * np.cos(2 * np.pi * p)},
}
HELD_OUT: dict[str, Motion] = {
    "does a somersault": lambda p: {"dy": -0.24 * _hop(p), "rot": _turn(p)},
    "bounces twice": lambda p: {"dy": -0.17 * np.abs(_wave(p)), "sx": 1.12 - 0.24 * np.abs(_wave(p))},
    "bows deeply": lambda p: {"rot": 0.95 * _hop(p), "dx": 0.08 * _hop(p), "dy": 0.03 * _hop(p)},
    "shivers all over": lambda p: {"dx": 0.035 * _wave(4 * p), "sx": 1 - 0.08 * np.abs(_wave(4 * p))},
    "zigzags": lambda p: {"dx": 0.17 * _triangle(p), "dy": -0.1 - 0.1 * _triangle(2 * p)},
    "flattens": lambda p: {"sy": 1 - 0.5 * _hop(p), "sx": 1 + 0.34 * _hop(p)},
    "hangs upside down": lambda p: {"rot": np.pi + 0.2 * _wave(p), "dy": -0.08 + 0 * p},
}
ACTIONS = BASE_ACTIONS | HELD_OUT


def pose(actor: Actor, seconds: Array) -> dict[str, Array]:
    """Per-frame pose of an actor at the given times; standing on its ground unless the action lifts it."""
    p = (np.asarray(seconds, np.float32) / PERIOD + actor.phase).astype(np.float32)
    rest = {"dx": 0 * p, "dy": 0 * p, "rot": 0 * p, "sx": 1 + 0 * p, "sy": 1 + 0 * p, "step": 0 * p}
    move = rest | ACTIONS[actor.action](p)
    return {
        "x": actor.x + move["dx"],
        "y": actor.ground - actor.size * move["sy"] + move["dy"],
        "ground": actor.ground + 0 * p,
        "size": actor.size + 0 * p,
    } | {key: move[key] for key in ("rot", "sx", "sy", "step")}


def draw(
    actors: Sequence[Actor],
    scene: str,
    scene_style: str,
    *,
    seconds: Array | None = None,
    height: int = HEIGHT,
    width: int = WIDTH,
    seed: int = 0,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a clip: frames (F, H, W, 3) uint8 and visible masks (len(actors), F, H, W).

    Later actors stand in front.
    """
    times = np.arange(NUM_FRAMES, dtype=np.float32) / FPS if seconds is None else seconds
    rng = np.random.default_rng(seed)
    empty = paint.scene(scene, scene_style, height, width, rng)
    texture = 1 + 0.1 * paint.smooth_noise(rng, height, width, 7)
    image = np.repeat(empty[None], len(times), 0)
    masks = np.zeros((len(actors), *image.shape[:3]), np.bool_)
    for i, actor in enumerate(actors):
        look = {k: getattr(actor.look, k) for k in ("body", "colour", "pattern", "accessory")}
        for start in range(0, len(times), 8):  # a few frames at a time stay in the processor's cache
            part = slice(start, start + 8)
            mask = paint.creature(image[part], look, actor.style, pose(actor, times[part]), height, texture)
            masks[:i, part] &= ~mask
            masks[i, part] = mask
    return np.clip(image + 0.5, 0, 255).astype(np.uint8), masks


# --- the generic population


def generic_looks(named: Sequence[Look]) -> list[Look]:
    """Every look that shares no identifying pair with a named character: those are new to the base."""
    taken = frozenset[tuple[str, str]]().union(*(look.pairs for look in named))
    return [
        look
        for body in paint.BODIES
        for colour in paint.COLOURS
        for pattern in paint.PATTERNS
        for accessory in paint.ACCESSORIES
        if not (look := Look(body, colour, pattern, accessory)).pairs & taken
    ]


@dataclass(frozen=True)
class Member:
    """A persistent generic creature: captions call it by name only, so that names learn to carry a look."""

    name: str
    look: Look
    style: str


def base_cast(looks: Sequence[Look], count: int = 48) -> list[Member]:
    """The pretraining cast: names of two syllables, generic looks, one style each."""
    rng = np.random.default_rng(48)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    drawn = ["".join(rng.choice(syllables, 2)).capitalize() for _ in range(4 * count)]
    names = list(dict.fromkeys(drawn))[:count]
    picks = rng.choice(len(looks), count, replace=False)
    rows = enumerate(zip(names, picks, strict=True))
    return [Member(name, looks[int(k)], STYLES[i % 2]) for i, (name, k) in rows]


def describe(look: Look, rng: np.random.Generator) -> str:
    """Prose for a generic look, now and then leaving out its pattern or accessory."""
    words = [look.colour]
    if look.pattern != "plain" and rng.random() < 0.9:
        words.insert(0, look.pattern)
    text = f"a {' '.join(words)} {look.body}"
    if look.accessory != "none" and rng.random() < 0.9:
        text += f" with {'glasses' if look.accessory == 'glasses' else 'a ' + look.accessory}"
    return text


@dataclass(frozen=True)
class Scenario:
    """A clip before it is drawn: everything that `draw` needs, and its caption."""

    actors: tuple[Actor, ...]
    scene: str
    style: str
    seed: int
    caption: str

    def draw(self) -> NDArray[np.uint8]:
        """Frames (F, H, W, 3) of the clip."""
        return draw(self.actors, self.scene, self.style, seed=self.seed)[0]


def place(actors: Sequence[Actor], rng: np.random.Generator) -> tuple[Actor, ...]:
    """Stand actors side by side, the first one on the left; actions begin when the shot begins.

    Places and sizes vary little: every pixel of freedom costs the tiny base model training time.
    """
    width, n = WIDTH / HEIGHT, len(actors)
    spread = width / n
    return tuple(
        replace(
            a,
            x=float(spread * (i + 0.5) + rng.uniform(-0.09, 0.09) / n),
            ground=float(rng.uniform(0.86, 0.89)),
            size=float(rng.uniform(0.26, 0.28) - 0.015 * (n > 1)) * (0.8 if n > 2 else 1.0),
        )
        for i, a in enumerate(actors)
    )


def generic_scenario(seed: int, looks: Sequence[Look], cast: Sequence[Member]) -> Scenario:
    """One pretraining clip: prose without tags, one style for scene and creatures, nothing held out."""
    rng = np.random.default_rng(seed)
    style = STYLES[int(rng.integers(2))]
    count = 1 + int(rng.random() < 0.5)
    members = [m for m in cast if m.style == style]
    actors: list[Actor] = []
    subjects: list[str] = []
    while len(actors) < count:
        known = members[int(rng.integers(len(members)))] if rng.random() < 0.4 else None
        look = known.look if known else looks[int(rng.integers(len(looks)))]
        if any(look.colour == a.look.colour or look.body == a.look.body for a in actors):
            continue  # two alike would teach nothing about who is who
        action = str(rng.choice(list(BASE_ACTIONS)))
        actors.append(Actor(look, action, style, 0.0))
        subjects.append(known.name if known else describe(look, rng))
    scene = str(rng.choice(paint.SCENES))
    text = " and ".join(f"{s} {a.action}" for s, a in zip(subjects, actors, strict=True))
    if rng.random() < 0.8:
        text += f" in the {scene}" if scene in ("meadow", "room", "city", "snow") else f" on the {scene}"
    return Scenario(place(actors, rng), scene, style, seed, f"{text}, {style} style")


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
