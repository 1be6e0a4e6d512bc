"""Samples the base model's pretraining clips: generic creatures, some of them with names, and their captions.

The pretraining data is disjoint from the shows in `character_data/`:

- No generic creature shares two of (body, colour, accessory) with a named character of the shows.
- Signature actions and gaits never occur.
- Captions are prose without tags.
- Every clip has one style for its scene and its creatures.

A tenth of the generic looks is held out from pretraining. Prompts about these measure how well the base model
generalises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.sandbox.world import paint, scenery, world
from toolkit.sandbox.world.actions import BASE_ACTIONS, INTERACTIONS, find_interaction
from toolkit.sandbox.world.world import STATIC_CAMERA, STYLES, Actor, Camera, Look


def generic_looks(named: Sequence[Look], *, held_out: bool = False) -> list[Look]:
    """Return the looks that share no two identifying attributes with a named character.

    Args:
        named: Looks of the shows' named characters.
        held_out: False returns the looks used in pretraining. True returns the tenth that pretraining never
            uses; pretraining has their combinations of body, colour and accessory, with other patterns.
    """
    rng = np.random.default_rng(10)
    kept = [
        (look, bool(rng.random() < 0.1))
        for look in _every_look()
        if not look.identifying_pairs & _taken(named)
    ]
    return [look for look, out in kept if out == held_out]


def unseen_looks(named: Sequence[Look]) -> list[Look]:
    """Return looks, of no named character, whose (body, colour, accessory) never occurs in pretraining."""
    own = {look.identifying_pairs for look in named}
    return [
        look
        for look in _every_look()
        if look.identifying_pairs & _taken(named) and look.identifying_pairs not in own
    ]


def _taken(named: Sequence[Look]) -> frozenset[tuple[str, str]]:
    return frozenset[tuple[str, str]]().union(*(look.identifying_pairs for look in named))


def _every_look() -> list[Look]:
    return [
        Look(body, colour, pattern, accessory)
        for body in paint.BODIES
        for colour in paint.COLOURS
        for pattern in paint.PATTERNS
        for accessory in paint.ACCESSORIES
    ]


@dataclass(frozen=True)
class NamedCreature:
    """A recurring generic creature. Captions use only its name, so that the base model learns names."""

    name: str
    look: Look
    style: str


def pretraining_cast(looks: Sequence[Look], count: int = 48) -> list[NamedCreature]:
    """Sample the named creatures of pretraining: a name of two syllables, a generic look and a style each."""
    rng = np.random.default_rng(48)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    sampled = ["".join(rng.choice(syllables, 2)).capitalize() for _ in range(4 * count)]
    names = list(dict.fromkeys(sampled))[:count]
    picks = rng.choice(len(looks), count, replace=False)
    rows = enumerate(zip(names, picks, strict=True))
    return [NamedCreature(name, looks[int(k)], STYLES[i % 2]) for i, (name, k) in rows]


def describe(look: Look, rng: np.random.Generator | None = None) -> str:
    """Describe a look in words. With `rng`, pattern and accessory are left out with probability 0.08 each."""

    def said() -> bool:
        return rng is None or rng.random() < 0.92

    words = [look.colour]
    if look.pattern != "plain" and said():
        words.insert(0, look.pattern)
    text = f"a {' '.join(words)} {look.body}"
    if look.accessory != "none" and said():
        text += f" with {'glasses' if look.accessory == 'glasses' else 'a ' + look.accessory}"
    return text


def prose_caption(
    subjects: Sequence[str],
    actions: Sequence[str],
    scene: str,
    style: str,
    *,
    prop: str = "",
    camera: Camera = STATIC_CAMERA,
) -> str:
    """Return a caption in the form of pretraining: "a red ball jumps in the room, cartoon style"."""
    text = " and ".join(f"{s} {a}" for s, a in zip(subjects, actions, strict=True))
    if scene:
        text += f" {'on' if scene == 'beach' else 'in'} the {scene}"
    text += f" by the {prop}" if prop else ""
    text += f", {style} style"
    return text + (", panning" if camera.pan else ", zooming in" if camera.zoom != 1 else "")


@dataclass(frozen=True)
class Scenario:
    """The content of a clip: the arguments of `world.draw`, and its caption."""

    actors: tuple[Actor, ...]
    scene: str
    style: str
    caption: str
    camera: Camera = STATIC_CAMERA
    prop: str = ""

    def draw(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Draw the clip: frames (F, H, W, 3) and visible masks (actors, F, H, W)."""
        return world.draw(self.actors, self.scene, self.style, camera=self.camera, prop=self.prop)


def sample_camera(rng: np.random.Generator, share: float = 0.2) -> Camera:
    """Sample a camera: panning or zooming in with probability `share`, otherwise static."""
    kind = rng.random()
    if kind < share / 2:
        return Camera(pan=float(rng.choice([-1, 1]) * rng.uniform(0.2, 0.3)))
    return Camera(zoom=float(rng.uniform(1.2, 1.3))) if kind < share else STATIC_CAMERA


def sample_actions(count: int, rng: np.random.Generator) -> list[str]:
    """Sample the actions of `count` creatures: independent base actions, or an interaction (35 %)."""
    solo = [str(a) for a in rng.choice(list(BASE_ACTIONS), count)]
    if count == 1 or rng.random() > 0.35:
        return solo
    name = str(rng.choice(list(INTERACTIONS)))
    roles = list(INTERACTIONS[name])
    if count == 3:
        return ["chases", *roles] if name == "chase" else [*roles, "stands still"]
    return roles


def sample_scenario(seed: int, looks: Sequence[Look], cast: Sequence[NamedCreature]) -> Scenario:
    """Sample one pretraining clip. Scene and creatures share one style; nothing held out occurs."""
    rng = np.random.default_rng(seed)
    style = STYLES[int(rng.integers(2))]
    count = int(rng.choice([1, 2, 3], p=[0.35, 0.53, 0.12]))
    members = [m for m in cast if m.style == style]
    actors: list[Actor] = []
    subjects: list[str] = []
    for action in sample_actions(count, rng):
        while True:
            known = members[int(rng.integers(len(members)))] if rng.random() < 0.3 else None
            look = known.look if known else looks[int(rng.integers(len(looks)))]
            if not any(look.colour == a.look.colour or look.body == a.look.body for a in actors):
                break  # creatures of one body or colour would be hard to tell apart
        actors.append(Actor(look, action, style, 0.0))
        subjects.append(known.name if known else describe(look, rng))
    names = tuple(a.action for a in actors)
    scene = str(rng.choice(scenery.SCENES))
    prop = str(rng.choice(scenery.PROPS)) if rng.random() < 0.15 else ""
    camera = STATIC_CAMERA if find_interaction(names) else sample_camera(rng)
    said = scene if rng.random() < 0.9 else ""
    text = prose_caption(subjects, names, said, style, prop=prop, camera=camera)
    return Scenario(world.arrange(actors, rng), scene, style, text, camera, prop)
