"""Samples the clips on which `sandbox-2` is pretrained.

What is held out is the same as in `population`, which has the clips of `sandbox-1`. The differences:

| | sandbox-1 | here |
|---|---|---|
| creatures in a clip: one, two, three | 35, 53, 12 % | 25, 50, 25 % |
| pattern and accessory | left out of 8 % of the captions each | always told, like the body |
| looks | equally often | patterns and accessories equally often |
| order | random | half of the clips with several creatures have a twin with the reverse order |
| distance | side by side | in a fifth of these clips close: one hides a part of another |
| motion | 7 actions, 5 interactions | a quarter of the solo actions: moves and combinations (`moves`) |
| names | name only | also with a noun ("Duko the bear") or the whole look; also names that occur once |

Clips with three creatures have single moves, names without a noun and no prop, to fit the text length.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from toolkit.captions.cast import read_cast
from toolkit.sandbox.world import paint, population, scenery, world
from toolkit.sandbox.world.actions import BASE_ACTIONS, INTERACTIONS, find_interaction
from toolkit.sandbox.world.moves import MOVES, PHRASES
from toolkit.sandbox.world.population import NamedCreature, Scenario
from toolkit.sandbox.world.world import STYLES, Actor, Look

_STREAM = 2  # keeps these random numbers apart from those of other clips
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
Creature = tuple[Look, str]  # a look, and how the caption calls it


def sample_scenario(index: int, looks: Sequence[Look], cast: Sequence[NamedCreature]) -> Scenario:
    """Sample a clip. Clips 2k and 2k + 1 are twins or independent.

    Args:
        index: Number of the clip. It determines the clip.
        looks: `population.generic_looks`.
        cast: `population.pretraining_cast`.
    """
    pair, second = divmod(index, 2)
    rng = np.random.default_rng([_STREAM, pair])
    twins, count = rng.random() < 0.5, _sample_count(rng)
    if second and (count == 1 or not twins):
        rng = np.random.default_rng([_STREAM, pair, second])
        twins, count = False, _sample_count(rng)
    style = STYLES[int(rng.integers(2))]
    doing = _sample_actions(count, rng)
    creatures: list[Creature] = []
    while len(creatures) < len(doing):
        look, called = _sample_creature(style, looks, cast, rng, count < 3)
        if not any(look.colour == other.colour or look.body == other.body for other, _ in creatures):
            creatures.append((look, called))
    if second and twins:
        creatures.reverse()
        if not find_interaction(tuple(doing)):  # in an interaction, the two change roles
            doing.reverse()
    return _stage(creatures, doing, style, rng)


def _stage(
    creatures: Sequence[Creature], doing: Sequence[str], style: str, rng: np.random.Generator
) -> Scenario:
    """Choose scene, prop, camera and positions."""
    plays = bool(find_interaction(tuple(doing)))
    scene = str(rng.choice(scenery.SCENES))
    prop = str(rng.choice(scenery.PROPS)) if rng.random() < 0.15 and len(doing) < 3 else ""
    camera = world.STATIC_CAMERA if plays else population.sample_camera(rng)
    said = scene if rng.random() < 0.9 else ""
    close = len(doing) > 1 and not plays and rng.random() < 0.2
    distance = float(rng.uniform(0.45, 0.75)) if close else 1.0
    names = [called for _, called in creatures]
    text = population.prose_caption(names, doing, said, style, prop=prop, camera=camera)
    actors = [Actor(look, action, style, 0.0) for (look, _), action in zip(creatures, doing, strict=True)]
    return Scenario(world.arrange(actors, rng, distance), scene, style, text, camera, prop)


def _sample_count(rng: np.random.Generator) -> int:
    return int(rng.choice([1, 2, 3], p=[0.25, 0.5, 0.25]))


def _sample_actions(count: int, rng: np.random.Generator) -> list[str]:
    """Sample the actions of `count` creatures: independent ones, or an interaction (30 %)."""
    if count > 1 and rng.random() < 0.3:
        roles = list(INTERACTIONS[str(rng.choice(list(INTERACTIONS)))])
        extra = {"chases": ["chases", *roles]}.get(roles[0], [*roles, "stands still"])
        return extra if count == 3 else roles
    phrases, base = MOVES if count == 3 else list(PHRASES), list(BASE_ACTIONS)
    return [str(rng.choice(phrases if rng.random() < 0.25 else base)) for _ in range(count)]


def _sample_creature(
    style: str, looks: Sequence[Look], cast: Sequence[NamedCreature], rng: np.random.Generator, nouns: bool
) -> Creature:
    """Sample a named creature of the cast (a quarter) or a generic one. `nouns`: names may have a noun."""
    if rng.random() < 0.25:
        members = [member for member in cast if member.style == style]
        known = members[int(rng.integers(len(members)))]
        noun = ["", known.look.body, _noun(known.look)][int(rng.choice(3, p=[0.5, 0.3, 0.2]))]
        return known.look, f"{known.name} the {noun}" if noun and nouns else known.name
    look = _sample_look(looks, rng)
    if nouns and rng.random() < 0.08:
        return look, f"{_new_name(rng)} the {_noun(look)}"
    return look, population.describe(look)


def _noun(look: Look) -> str:
    return population.describe(look).removeprefix("a ")


def _sample_look(looks: Sequence[Look], rng: np.random.Generator) -> Look:
    """Sample pattern and accessory uniformly, then a body that has a look with them, then its colour."""
    pattern, accessory = str(rng.choice(paint.PATTERNS)), str(rng.choice(paint.ACCESSORIES))
    fits = [look for look in looks if (look.pattern, look.accessory) == (pattern, accessory)]
    body = str(rng.choice(sorted({look.body for look in fits})))
    fits = [look for look in fits if look.body == body]
    return fits[int(rng.integers(len(fits)))]


def _new_name(rng: np.random.Generator) -> str:
    """Return a name of two syllables and a consonant that no character has, and no member of the cast."""
    while True:
        letters = [str(rng.choice(list(kind))) for kind in (_CONSONANTS, _VOWELS) * 2 + (_CONSONANTS,)]
        name = "".join(letters).capitalize()
        if name.lower() not in _names_of_shows():
            return name


@cache
def _names_of_shows() -> frozenset[str]:
    return frozenset(name.lower() for name in read_cast().spellings)


WORDS = tuple(dict.fromkeys(word for phrase in PHRASES for word in phrase.split()))
"""Words of the moves, for the tokenizer."""
