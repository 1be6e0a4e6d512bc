"""Style delusion and blending, as the studies count them."""

from __future__ import annotations

import pytest
from creatures import LOOKS, named, seen, verdict

from benchmarks.mixing import confusions
from toolkit.captions.cast import read_cast
from toolkit.sandbox.prompt_score import parse_prompt
from toolkit.sandbox.recogniser.verdict import Creature

CAST = read_cast()
PROMPT = "[Character: Mimi], jumps. [Character: Otto], walks. [scene-style:cartoon]"
MIMI, OTTO = named("Mimi", "jumps"), named("Otto", "walks")  # a striped pink bear, a plain red ball


def told(*creatures: Creature, prompt: str = PROMPT) -> dict[str, float | None]:
    return confusions(verdict(*creatures), parse_prompt(prompt, CAST), LOOKS)


def test_a_character_in_the_other_style_counts_as_delusion() -> None:
    assert told(MIMI, OTTO) == {"delusion": 0.0, "blending": 0.0, "native": 1.0, "foreign": 1.0}
    assert told(MIMI, named("Otto", "walks", style="cartoon"))["delusion"] == 0.5
    assert told(named("Mimi", "jumps", style="realistic"))["delusion"] == 1.0


def test_an_unseen_character_has_no_style_scores() -> None:
    assert told() == {"delusion": None, "blending": None, "native": 0.0, "foreign": 0.0}
    assert told(named("Bruno", "walks"))["delusion"] is None


@pytest.mark.parametrize(
    ("creature", "blend"),
    [
        (seen("bear", "red"), 1.0),
        (seen("bear", "pink", pattern="striped", accessory="glasses"), 1.0),
        (seen("bear", "green", pattern="striped"), 0.0),  # a poor Mimi, with nothing of Otto
        (seen("star", "green", accessory="crown", pattern="spotted"), 0.0),
    ],
)
def test_mixed_attributes_of_two_characters_count_as_blending(creature: Creature, blend: float) -> None:
    assert told(creature)["blending"] == blend
    assert told(MIMI, creature)["blending"] == blend / 2


def test_shared_attributes_do_not_count_as_blending() -> None:
    pair = "[Character: Mimi], jumps. [Character: Greta], walks. [scene-style:cartoon]"  # pink bears both
    assert told(seen("bear", "pink"), prompt=pair)["blending"] == 0.0


def test_a_requested_character_is_not_a_blend() -> None:
    alone = "[Character: Mimi], jumps. [scene-style:cartoon]"
    assert told(MIMI, prompt=alone) == {
        "delusion": 0.0,
        "blending": None,
        "native": 1.0,
        "foreign": None,
    }


def test_foreign_characters_keep_their_own_style() -> None:
    realistic = PROMPT.replace("cartoon", "realistic")
    both = (MIMI, named("Otto", "walks", style="cartoon"))
    assert (told(*both)["native"], told(*both)["foreign"]) == (1.0, 0.0)
    there = told(*both, prompt=realistic)
    assert (there["native"], there["foreign"]) == (0.0, 1.0)
    untold = told(MIMI, prompt="Mimi jumps and Otto walks in the room")
    assert (untold["native"], untold["foreign"]) == (None, None)
