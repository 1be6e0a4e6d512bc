"""The recognisers' predictions for a clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Creature:
    """One creature tracked through a clip.

    Attributes:
        who: Name of the character, or "" if it is none of the named characters.
        body: Predicted body shape.
        colour: Predicted colour.
        pattern: Predicted pattern.
        accessory: Predicted accessory.
        style: Rendering style of this creature, independent of the scene's style.
        action: One of `actions.ACTIONS`, including the roles of interactions.
        confidence: Probability of the predicted value of each attribute: who, body, colour, pattern,
            accessory, style, action.
        boxes: Left, top, right, bottom in pixels, (F, 4); nan in frames where it is not seen.
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
    """The predictions for one clip.

    Attributes:
        creatures: The creatures, from left to right in the frame where each is first seen.
        scene: One of `scenery.SCENES`.
        scene_style: Rendering style of the scene.
        interaction: Key of `actions.INTERACTIONS`, or "".
    """

    creatures: tuple[Creature, ...]
    scene: str
    scene_style: str
    interaction: str
