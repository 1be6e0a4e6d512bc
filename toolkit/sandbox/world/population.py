"""The base model's world: generic creatures, a cast of them known by name, and the clips it is pretrained on.

Kept apart from the shows of `character_data/`: no generic creature has two of (body, colour, accessory) in
common with a named character, signature actions and gaits are never seen, captions are prose without tags,
and every clip has one style for its scene and its creatures. A tenth of the generic looks is never drawn at
all (`held_out`): prompts about those measure what the base has understood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.sandbox.world import paint, scenery, world
from toolkit.sandbox.world.actions import BASE_ACTIONS, INTERACTIONS, interaction
from toolkit.sandbox.world.world import STILL, STYLES, Actor, Camera, Look


def generic_looks(named: Sequence[Look], *, held_out: bool = False) -> list[Look]:
    """Every look that shares no identifying pair with a named character: those are new to the base.

    held_out: the tenth of them that pretraining never draws, instead of the others; their bodies, colours and
        accessories it does draw together, with other patterns.
    """
    rng = np.random.default_rng(10)
    kept = [(look, bool(rng.random() < 0.1)) for look in _every_look() if not look.pairs & _taken(named)]
    return [look for look, out in kept if out == held_out]


def unseen_looks(named: Sequence[Look]) -> list[Look]:
    """Looks of nobody whose body, colour and accessory pretraining never draws together, in any pattern."""
    own = {look.pairs for look in named}
    return [look for look in _every_look() if look.pairs & _taken(named) and look.pairs not in own]


def _taken(named: Sequence[Look]) -> frozenset[tuple[str, str]]:
    return frozenset[tuple[str, str]]().union(*(look.pairs for look in named))


def _every_look() -> list[Look]:
    return [
        Look(body, colour, pattern, accessory)
        for body in paint.BODIES
        for colour in paint.COLOURS
        for pattern in paint.PATTERNS
        for accessory in paint.ACCESSORIES
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


def describe(look: Look, rng: np.random.Generator | None = None) -> str:
    """Prose for a generic look; with `rng`, it leaves out its pattern or accessory now and then."""

    def said() -> bool:
        return rng is None or rng.random() < 0.92

    words = [look.colour]
    if look.pattern != "plain" and said():
        words.insert(0, look.pattern)
    text = f"a {' '.join(words)} {look.body}"
    if look.accessory != "none" and said():
        text += f" with {'glasses' if look.accessory == 'glasses' else 'a ' + look.accessory}"
    return text


def prose(
    subjects: Sequence[str],
    actions: Sequence[str],
    scene: str,
    style: str,
    *,
    prop: str = "",
    camera: Camera = STILL,
) -> str:
    """A caption as the base model knows captions: "a red ball jumps in the room, cartoon style"."""
    text = " and ".join(f"{s} {a}" for s, a in zip(subjects, actions, strict=True))
    if scene:
        text += f" {'on' if scene == 'beach' else 'in'} the {scene}"
    text += f" by the {prop}" if prop else ""
    text += f", {style} style"
    return text + (", panning" if camera.pan else ", zooming in" if camera.zoom != 1 else "")


@dataclass(frozen=True)
class Scenario:
    """A clip before it is drawn: everything that `world.draw` needs, and its caption."""

    actors: tuple[Actor, ...]
    scene: str
    style: str
    caption: str
    camera: Camera = STILL
    prop: str = ""

    def draw(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Frames (F, H, W, 3) and visible masks (actors, F, H, W) of the clip."""
        return world.draw(self.actors, self.scene, self.style, camera=self.camera, prop=self.prop)


def camera_move(rng: np.random.Generator, share: float = 0.2) -> Camera:
    """A camera that pans or closes in, in a `share` of all clips; else one that stands still."""
    kind = rng.random()
    if kind < share / 2:
        return Camera(pan=float(rng.choice([-1, 1]) * rng.uniform(0.2, 0.3)))
    return Camera(zoom=float(rng.uniform(1.2, 1.3))) if kind < share else STILL


def cast_actions(count: int, rng: np.random.Generator) -> list[str]:
    """What `count` creatures do: each its own base action, or now and then an interaction."""
    solo = [str(a) for a in rng.choice(list(BASE_ACTIONS), count)]
    if count == 1 or rng.random() > 0.35:
        return solo
    name = str(rng.choice(list(INTERACTIONS)))
    roles = list(INTERACTIONS[name])
    if count == 3:
        return ["chases", *roles] if name == "chase" else [*roles, "stands still"]
    return roles


def generic_scenario(seed: int, looks: Sequence[Look], cast: Sequence[Member]) -> Scenario:
    """One pretraining clip: prose without tags, one style for scene and creatures, nothing held out."""
    rng = np.random.default_rng(seed)
    style = STYLES[int(rng.integers(2))]
    count = int(rng.choice([1, 2, 3], p=[0.35, 0.53, 0.12]))
    members = [m for m in cast if m.style == style]
    actors: list[Actor] = []
    subjects: list[str] = []
    for action in cast_actions(count, rng):
        while True:
            known = members[int(rng.integers(len(members)))] if rng.random() < 0.3 else None
            look = known.look if known else looks[int(rng.integers(len(looks)))]
            if not any(look.colour == a.look.colour or look.body == a.look.body for a in actors):
                break  # two alike would teach nothing about who is who
        actors.append(Actor(look, action, style, 0.0))
        subjects.append(known.name if known else describe(look, rng))
    names = tuple(a.action for a in actors)
    scene = str(rng.choice(scenery.SCENES))
    prop = str(rng.choice(scenery.PROPS)) if rng.random() < 0.15 else ""
    camera = STILL if interaction(names) else camera_move(rng)
    said = scene if rng.random() < 0.9 else ""
    text = prose(subjects, names, said, style, prop=prop, camera=camera)
    return Scenario(world.place(actors, rng), scene, style, text, camera, prop)
