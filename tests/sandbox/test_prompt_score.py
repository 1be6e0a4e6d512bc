"""Scores of the sandbox: what prompts ask for, and verdicts made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from creatures import LOOKS, named, seen, verdict

from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import Caption, Clause, format
from toolkit.core.errors import CastmixError
from toolkit.sandbox import prompt_score
from toolkit.sandbox.prompt_score import (
    COLUMNS,
    AskedContent,
    AskedCreature,
    assign_creatures,
    parse_prompt,
    score_verdict,
)
from toolkit.sandbox.recogniser.verdict import Creature
from toolkit.sandbox.world import actions, population, world

CAST = read_cast()


def judged(prompt: str, *creatures: Creature, **scene: str) -> dict[str, float | None]:
    return score_verdict(verdict(*creatures, **scene), parse_prompt(prompt, CAST))


CHASE = "[Character: Mimi], chases in the meadow. [Character: Rufus], runs away. [scene-style:cartoon]"
MIMI, RUFUS = named("Mimi", "chases"), named("Rufus", "runs away")


# What is asked


def test_captions_ask_for_names_actions_and_scene() -> None:
    assert parse_prompt(CHASE, CAST) == AskedContent(
        (
            AskedCreature("Mimi", {}, "chases", "cartoon"),
            AskedCreature("Rufus", {}, "runs away", "realistic"),
        ),
        "meadow",
        "cartoon",
    )
    assert parse_prompt(CHASE, CAST).interaction == "chase"


def test_words_that_the_world_does_not_know_are_not_asked() -> None:
    text = "[Character: Mimi], waddles to the door. [Character: Otto], ponders at the crowd. "
    found = parse_prompt(text + "[scene-style:realistic]", CAST)
    assert [part.action for part in found.creatures] == ["waddles", ""]
    assert (found.scene, found.scene_style, found.interaction) == ("", "realistic", "")


def test_mentioned_characters_are_asked_for() -> None:
    found = parse_prompt(
        "[Character: Mimi], chases [Character: Otto] on the beach. [scene-style:cartoon]", CAST
    )
    assert found.creatures == (
        AskedCreature("Mimi", {}, "chases", "cartoon"),
        AskedCreature("Otto", {}, "", "realistic"),
    )
    assert found.scene == "beach"


def test_prose_is_parsed_into_requests() -> None:
    text = "a striped red star with a hat trembles and jumps and a ball ducks by the lamp, realistic style"
    look = {"body": "star", "colour": "red", "pattern": "striped", "accessory": "hat"}
    assert parse_prompt(f"{text}, panning", CAST) == AskedContent(
        (
            AskedCreature("", look, "trembles and jumps", "realistic"),
            AskedCreature("", {"body": "ball"}, "ducks", "realistic"),
        ),
        "",
        "realistic",
    )


def test_prose_may_name_the_cast_and_those_whom_the_base_knows() -> None:
    duko = world.Look("cone", "blue", "spotted", "glasses")
    found = parse_prompt("Duko walks and Mimi sways on the beach", CAST, {"Duko": duko})
    assert found.creatures == (
        AskedCreature("", vars(duko), "walks", ""),
        AskedCreature("Mimi", {}, "sways", "cartoon"),
    )
    assert (found.scene, found.scene_style) == ("beach", "")


def test_tags_may_be_left_out_in_part() -> None:
    whole = parse_prompt(CHASE, CAST)
    no_style = parse_prompt(CHASE.removesuffix(" [scene-style:cartoon]"), CAST)
    assert no_style == replace(whole, scene_style="")
    assert parse_prompt("Mimi chases in the meadow. Rufus runs away. [scene-style:cartoon]", CAST) == whole


def test_every_caption_of_the_base_can_be_read() -> None:
    generic = population.generic_looks(list(LOOKS.values()))
    base = population.pretraining_cast(generic)
    members = {member.name: member.look for member in base}
    for seed in range(120):
        scenario = population.sample_scenario(seed, generic, base)
        found = parse_prompt(scenario.caption, CAST, members)
        assert [part.action for part in found.creatures] == [actor.action for actor in scenario.actors]
        assert found.scene in (scenario.scene, "")
        assert found.scene_style == scenario.style
        for part, actor in zip(found.creatures, scenario.actors, strict=True):
            assert part.look.items() <= vars(actor.look).items()
            assert {"body", "colour"} <= part.look.keys()


def test_every_action_of_the_world_can_be_asked() -> None:
    for action in actions.ACTIONS:
        text = format(Caption((Clause("Luma", f"{action} in the city"),), "cartoon"))
        assert parse_prompt(text, CAST) == AskedContent(
            (AskedCreature("Luma", {}, action, "cartoon"),), "city", "cartoon"
        )
        assert parse_prompt(f"Luma {action} in the city, cartoon style", CAST) == parse_prompt(text, CAST)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a red dragon flies", "'a red dragon flies'"),
        ("a red star jumps and a blue dragon ducks", "'a blue dragon ducks'"),
        ("in the meadow, cartoon style", "it asks for no creature"),
        ("", "it asks for no creature"),
        (
            "[Character: Mimmi], walks. [scene-style:cartoon]",
            "no character 'Mimmi' in the cast: did you mean",
        ),
        ("[Character: Tom], walks. [scene-style:cartoon]", "Tom is not a character of the sandbox's shows"),
    ],
)
def test_prompts_that_cannot_be_scored(prompt: str, message: str) -> None:
    with pytest.raises(CastmixError, match="prompt") as caught:
        parse_prompt(prompt, CAST)
    assert message in str(caught.value)


# What is scored


def test_a_video_that_shows_everything() -> None:
    scores = judged(CHASE, MIMI, RUFUS, interaction="chase")
    assert scores == dict.fromkeys(COLUMNS, 1.0)


def test_scores_not_asked_for_are_none() -> None:
    scores = judged("Otto walks", named("Otto", "walks"))
    assert scores == {
        "identity": 1.0,
        "motion": 1.0,
        "style": 1.0,
        "scene_style": None,
        "interaction": None,
        "binding": 1.0,
        "prompt": 1.0,
    }


def test_an_empty_scene_scores_zero() -> None:
    scores = judged(CHASE, scene="city")
    assert (scores["identity"], scores["motion"], scores["style"], scores["binding"]) == (0, 0, 0, 0)
    assert scores["prompt"] == pytest.approx(1 / 7)  # the scene's style is right


def test_roles_on_the_wrong_characters() -> None:
    scores = judged(CHASE, named("Rufus", "chases"), named("Mimi", "runs away"), interaction="chase")
    assert scores["identity"] == scores["style"] == scores["binding"] == 1
    assert scores["motion"] == scores["interaction"] == 0
    assert scores["prompt"] == pytest.approx(4 / 7)


def test_right_roles_that_never_meet() -> None:
    assert judged(CHASE, MIMI, RUFUS)["interaction"] == 0


def test_style_delusion_is_seen_on_the_character() -> None:
    scores = judged(CHASE, MIMI, replace(RUFUS, style="cartoon"), interaction="chase")
    assert (scores["style"], scores["identity"], scores["prompt"]) == (0.5, 1, 1)


def test_one_of_two_characters_scores_half() -> None:
    scores = judged(CHASE, MIMI)
    assert (scores["identity"], scores["motion"], scores["style"], scores["binding"]) == (0.5, 0.5, 0.5, 0)


def test_an_extra_creature_lowers_binding_only() -> None:
    scores = judged(CHASE, MIMI, seen(), RUFUS, interaction="chase")
    assert scores == dict.fromkeys(COLUMNS, 1.0) | {"binding": 0.0}


def test_the_same_character_twice_is_one_character() -> None:
    scores = judged(CHASE, MIMI, MIMI, interaction="chase")
    assert (scores["identity"], scores["binding"]) == (0.5, 0)


def test_swapped_attributes_are_not_bound() -> None:
    text = "a red star jumps and a blue ball walks, cartoon style"
    right = (seen(action="jumps"), seen(body="ball", colour="blue", action="walks"))
    swapped = (seen(colour="blue", action="jumps"), seen(body="ball", colour="red", action="walks"))
    assert judged(text, *right)["binding"] == 1
    assert judged(text, *right[::-1])["binding"] == 1
    scores = judged(text, *swapped)
    assert (scores["binding"], scores["identity"], scores["motion"]) == (0, 0, 0)


def test_similar_creatures_are_matched_to_their_parts() -> None:
    text = "a star jumps and a red star walks, cartoon style"
    scores = judged(text, seen(action="walks"), seen(action="jumps"))
    assert scores["motion"] == scores["binding"] == 1
    # the first part could take either, the second only the red one
    assert judged(text, seen(action="walks"), seen(colour="blue", action="walks"))["identity"] == 1


def test_three_characters_with_two_chasers() -> None:
    text = (
        "[Character: Mimi], chases in the room. [Character: Otto], chases. [Character: Rufus], runs away. "
        "[scene-style:realistic]"
    )
    otto = named("Otto", "chases")
    room = {"scene": "room", "scene_style": "realistic", "interaction": "chase"}
    assert judged(text, RUFUS, otto, MIMI, **room) == dict.fromkeys(COLUMNS, 1.0)
    scores = judged(text, RUFUS, replace(otto, action="walks"), MIMI, **room)
    assert scores["interaction"] == 0
    assert scores["motion"] == pytest.approx(2 / 3)
    assert scores["binding"] == 1


def test_matching_fills_as_many_parts_as_possible() -> None:
    rng = np.random.default_rng(0)
    parts = (
        AskedCreature(look={"body": "star"}),
        AskedCreature(look={"colour": "red"}),
        AskedCreature(look={"body": "star", "colour": "red"}),
    )
    stars: list[Creature] = [seen(), seen(colour="blue"), seen(body="ball")]
    for _ in range(6):
        rng.shuffle(stars)
        found = assign_creatures(stars, parts)
        assert [(one.body, one.colour) for one in found if one] == [
            ("star", "blue"),
            ("ball", "red"),
            ("star", "red"),
        ]


# How cached scores are recognised


def test_the_judges_fingerprint_depends_on_weights_and_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "recogniser.safetensors"
    weights.write_bytes(b"one")
    first = prompt_score.judge_fingerprint(weights)
    assert prompt_score.judge_fingerprint(weights) == first
    monkeypatch.setattr(prompt_score, "JUDGE_VERSION", prompt_score.JUDGE_VERSION + 1)
    second = prompt_score.judge_fingerprint(weights)
    weights.write_bytes(b"two")
    assert len({first, second, prompt_score.judge_fingerprint(weights)}) == 3
