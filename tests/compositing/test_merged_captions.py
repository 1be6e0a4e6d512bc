"""Captions of composites: places stay behind, mentions stay valid, clauses go from left to right."""

from __future__ import annotations

import pytest

from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import Caption, Clause, parse, validate
from toolkit.compositing.merged_captions import merge_captions, names_in, without_place


@pytest.mark.parametrize(
    ("action", "rest"),
    [
        ("waves in the snow by the fence", "waves"),
        ("shivers all over on the beach", "shivers all over"),
        ("hangs upside down in the room", "hangs upside down"),
        ("swings in circles", "swings in circles"),
        ("hands over a gift", "hands over a gift"),
        ("sits at a table, smiling", "sits, smiling"),
        ("stands in front of an old house and laughs", "stands and laughs"),
        ("walks along the street while it rains", "walks while it rains"),
        ("dances in the middle of the town square, and bows", "dances and bows"),
        ("is in the garden", "is there"),
        ("in the garden, waves", "waves"),
        ("in the garden", "in the garden"),  # nothing would be left
        ("jumps", "jumps"),
        ("walks through the door", "walks"),
        ("jumps over a fence and bows", "jumps and bows"),
        ("runs all over the room", "runs"),
        ("climbs onto the table", "climbs"),
        ("jumps into the water", "jumps"),
        ("walks past some trees", "walks"),
        ("hops from the rock, laughing", "hops, laughing"),
        ("slides down the hill", "slides"),
        ("climbs up the ladder while it snows", "climbs while it snows"),
        ("runs up and down the stairs", "runs"),
        ("jumps up and down in the snow", "jumps up and down"),
        ("runs in and out of the house", "runs"),
        ("dances around the fire", "dances"),
        ("sits between two trees", "sits"),
        ("rolls across the ice with a hat", "rolls with a hat"),
        ("waves inside the tent", "waves"),
        ("runs toward the house", "runs"),
        ("falls off a chair", "falls"),
        ("plays in snow", "plays"),
        ("shivers in deep snow and hops", "shivers and hops"),
        ("sings on stage", "sings"),
        ("sleeps at home on the sofa", "sleeps"),
        ("plays outdoors", "plays"),
        ("looks at the camera", "looks at the camera"),
        ("looks straight at the camera in the snow", "looks straight at the camera"),
        ("points a finger at a sign by the road", "points a finger at a sign"),
        ("looks around and stands at the door", "looks around and stands"),
        ("stares at a wall, waving at the crowd", "stares at a wall, waving at the crowd"),
        ("picks up a stick in the garden", "picks up a stick"),
        ("puts on the hat", "puts on the hat"),
        ("hands over the gift in the city", "hands over the gift"),
        ("turns into a frog", "turns into a frog"),
        ("tiptoes on the beach", "tiptoes"),
        ("jumps in the air in the meadow", "jumps in the air"),
        ("claps and bows at the same time", "claps and bows at the same time"),
    ],
)
def test_captions_of_foregrounds_lose_their_place(action: str, rest: str) -> None:
    assert without_place(action) == rest


def test_clauses_from_left_to_right_in_the_style_of_the_scene() -> None:
    cast = read_cast()
    text = "[Character: Pixo], chases [Character: Mimi] in the meadow. [Character: Mimi], runs away. "
    text += "[scene-style:cartoon]"
    there = parse(text, cast)
    assert names_in(there) == ["Pixo", "Mimi"]
    made = merge_captions("cartoon", there, {"Rufus": "walks"}, ["Rufus", "Pixo", "Mimi"])
    assert made == "[Character: Rufus], walks. " + text
    assert validate(made, cast) == []
    assert merge_captions("realistic", None, {"Mimi": "hops", "Pixo": "ducks"}, ["Pixo", "Mimi"]) == (
        "[Character: Pixo], ducks. [Character: Mimi], hops. [scene-style:realistic]"
    )


def test_mentioned_characters_count_as_present() -> None:
    assert names_in(Caption((Clause("Pixo", "looks at [Character: Mimi]"),), "cartoon")) == ["Pixo", "Mimi"]
