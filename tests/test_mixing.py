"""Style delusion and blending, as the studies count them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.mixing import confusions
from toolkit.cast import read_cast
from toolkit.sandbox.recognise import Creature, Verdict
from toolkit.sandbox.score import asked
from toolkit.sandbox.shows import named_looks
from toolkit.sandbox.world import Look

CAST, LOOKS = read_cast(), named_looks()
PROMPT = "[Character: Mimi], jumps. [Character: Otto], walks. [scene-style:cartoon]"
MIMI, OTTO = LOOKS["Mimi"], LOOKS["Otto"]


def seen(look: Look, who: str, style: str) -> Creature:
    return Creature(
        who=who,
        body=look.body,
        colour=look.colour,
        pattern=look.pattern,
        accessory=look.accessory,
        style=style,
        action="jumps",
        confidence={},
        boxes=np.zeros((17, 4), np.float32),
    )


def told(*creatures: Creature, prompt: str = PROMPT) -> dict[str, float | None]:
    return confusions(Verdict(creatures, "meadow", "cartoon", ""), asked(prompt, CAST), LOOKS)


def test_who_is_drawn_in_the_other_style_is_deluded() -> None:
    mimi, otto = seen(MIMI, "Mimi", "cartoon"), seen(OTTO, "Otto", "realistic")
    assert told(mimi, otto) == {"delusion": 0.0, "blending": 0.0}
    assert told(mimi, seen(OTTO, "Otto", "cartoon"))["delusion"] == 0.5
    assert told(seen(MIMI, "Mimi", "realistic"))["delusion"] == 1.0


def test_who_is_not_seen_has_no_style() -> None:
    assert told() == {"delusion": None, "blending": None}
    assert told(seen(LOOKS["Bruno"], "Bruno", "cartoon"))["delusion"] is None


@pytest.mark.parametrize(
    ("look", "blend"),
    [
        (Look(MIMI.body, OTTO.colour, "plain", "none"), 1.0),
        (Look(MIMI.body, MIMI.colour, MIMI.pattern, OTTO.accessory), 1.0),
        (Look(MIMI.body, "green", MIMI.pattern, "none"), 0.0),  # a poor Mimi, with nothing of Otto
        (Look("star", "green", "plain", "none"), 0.0),
    ],
)
def test_something_of_both_is_a_blend(look: Look, blend: float) -> None:
    assert told(seen(look, "", "cartoon"))["blending"] == blend
    assert told(seen(MIMI, "Mimi", "cartoon"), seen(look, "", "cartoon"))["blending"] == blend / 2


def test_what_two_share_tells_nothing() -> None:
    pair = "[Character: Mimi], jumps. [Character: Greta], walks. [scene-style:cartoon]"  # pink bears both
    assert (
        told(seen(Look(MIMI.body, MIMI.colour, "plain", "none"), "", "cartoon"), prompt=pair)["blending"]
        == 0.0
    )


def test_who_is_asked_for_and_seen_is_no_blend() -> None:
    alone = "[Character: Mimi], jumps. [scene-style:cartoon]"
    assert told(seen(MIMI, "Mimi", "cartoon"), prompt=alone) == {"delusion": 0.0, "blending": None}
