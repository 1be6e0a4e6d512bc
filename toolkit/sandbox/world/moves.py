"""Simple moves and their combinations, for captions that tell a motion in words.

The base model knows these moves, so that a prompt can describe a motion that has no name: "a red ball rises
then tilts right". A phrase is one move, one move "twice", two moves one after the other ("rises then sinks")
or two at once ("rises and tilts right"). Each move starts and ends at rest.

No phrase is a motion that pretraining holds out (`actions.HELD_OUT_ACTIONS`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np

from toolkit.sandbox.world.actions import ACTIONS, Array, Motion

_FARTHEST: Mapping[str, Mapping[str, float]] = {
    "slides left": {"dx": -0.22},
    "slides right": {"dx": 0.22},
    "rises": {"dy": -0.24},
    "sinks": {"dy": 0.14},
    "tilts left": {"rot": -0.4},
    "tilts right": {"rot": 0.4},
    "shrinks": {"sx": -0.3, "sy": -0.3},
    "widens": {"sx": 0.36},
    "narrows": {"sx": -0.36},
}
"""Pose offset of each move at its farthest point. Stretches are relative to 1."""

_TOO_CLOSE = (
    "rises twice",
    "widens then rises",
    "narrows then rises",
    "tilts left",
    "tilts left then rises",
    "tilts right then rises",
)
"""Phrases that nearly are a held-out motion: "bounces twice", "trembles and jumps" or "leans back"."""


def _phrases() -> dict[str, tuple[str, str, str]]:
    """Return (first move, "then" or "and" or "", second move) of every phrase."""
    names = tuple(_FARTHEST)
    found = {move: (move, "", "") for move in names}
    found |= {f"{move} twice": (move, "then", move) for move in names}
    for index, one in enumerate(names):
        for other in names:
            if one != other:
                found[f"{one} then {other}"] = (one, "then", other)
        for other in names[index + 1 :]:
            if not _FARTHEST[one].keys() & _FARTHEST[other].keys():
                found[f"{one} and {other}"] = (one, "and", other)
    return {phrase: parts for phrase, parts in found.items() if phrase not in _TOO_CLOSE}


PHRASES = _phrases()
"""All phrases, with their first move, what joins the moves, and their second move."""
MOVES = tuple(move for move in _FARTHEST if move in PHRASES)
"""The moves that are phrases by themselves."""


@cache
def find_motion(action: str) -> Motion:
    """Return the motion of an action (key of `actions.ACTIONS`) or of a phrase (key of `PHRASES`).

    Raises:
        KeyError: It is neither.
    """
    if action in ACTIONS:
        return ACTIONS[action]
    first, joined, second = PHRASES[action]

    def motion(p: Array) -> dict[str, Array]:
        p = p % 1
        if joined == "then":
            return _sum(_offset(first, 2 * p), _offset(second, 2 * p - 1))
        return _sum(_offset(first, p), _offset(second, p) if joined else {})

    return motion


def _offset(move: str, p: Array) -> dict[str, Array]:
    """Return the pose offset of a move that is played once, from p = 0 to p = 1."""
    t = np.minimum(np.clip(p / 0.3, 0, 1), np.clip((1 - p) / 0.4, 0, 1))
    amount = t * t * (3 - 2 * t)
    return {key: (key in ("sx", "sy")) + most * amount for key, most in _FARTHEST[move].items()}


def _sum(one: Mapping[str, Array], other: Mapping[str, Array]) -> dict[str, Array]:
    """Add two pose offsets. Stretches are added relative to 1."""
    total = dict(one)
    for key, value in other.items():
        total[key] = total[key] + value - (key in ("sx", "sy")) if key in total else value
    return total
