"""Verdicts made by hand, for the tests of what is counted from them."""

from __future__ import annotations

import numpy as np

from toolkit.captions.cast import read_cast
from toolkit.sandbox.recogniser.verdict import Creature, Verdict
from toolkit.sandbox.world.shows import named_looks

LOOKS = named_looks()
STYLES = {c.name: s.style for s in read_cast().shows for c in s.characters}
BOX = np.tile(np.array([10, 10, 30, 30], np.float32), (17, 1))


def seen(body: str = "star", colour: str = "red", **other: str) -> Creature:
    """A creature; plain, with nothing on, of a cartoon, standing still unless said otherwise."""
    usual = {"pattern": "plain", "accessory": "none", "style": "cartoon", "action": "stands still", "who": ""}
    return Creature(body=body, colour=colour, **{**usual, **other}, confidence={}, boxes=BOX)


def named(name: str, action: str, **other: str) -> Creature:
    """A character as it should be, with changes."""
    traits = {**vars(LOOKS[name]), "style": STYLES[name], "action": action, "who": name}
    return seen(**{**traits, **other})


def verdict(
    *creatures: Creature, scene: str = "meadow", scene_style: str = "cartoon", interaction: str = ""
) -> Verdict:
    """What a clip shows: these creatures in a cartoon meadow unless said otherwise."""
    return Verdict(creatures, scene, scene_style, interaction)
