"""What the recognisers say of a clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Creature:
    """One creature followed through a clip.

    Attributes:
        who: A named character, or "" for nobody that is known.
        style: How this creature is drawn, whatever the scene.
        action: One of `actions.ACTIONS`, roles of interactions included.
        confidence: Probability of the chosen value by attribute: who, body, colour, pattern, accessory,
            style, action.
        boxes: Left, top, right, bottom in pixels, (F, 4), nan in frames where it is unseen.
    """

    who: str
    body: str
    colour: str
    pattern: str
    accessory: str
    style: str
    action: str
    confidence: Mapping[str, float]
    boxes: NDArray[np.float32]


@dataclass(frozen=True)
class Verdict:
    """What a clip shows.

    Attributes:
        creatures: From the left to the right, by where each begins.
        interaction: Key of `actions.INTERACTIONS`, or "".
    """

    creatures: tuple[Creature, ...]
    scene: str
    scene_style: str
    interaction: str
