"""The clips of sandbox-2: what they add, and that what is held out stays held out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from toolkit.captions.cast import read_cast
from toolkit.sandbox.base_model.architecture import TEXT_LENGTH
from toolkit.sandbox.base_model.previews import tokenizer
from toolkit.sandbox.world import actions, diet, moves, paint, population, world
from toolkit.sandbox.world.shows import named_looks

NAMED = named_looks()
LOOKS = population.generic_looks(list(NAMED.values()))
CAST = population.pretraining_cast(LOOKS)
SCENARIOS = [diet.sample_scenario(index, LOOKS, CAST) for index in range(3000)]
ACTORS = [actor for scenario in SCENARIOS for actor in scenario.actors]


def path(action: str) -> np.ndarray:
    """The motion of a creature's rim relative to rest, in picture heights, (kinds of movement, F)."""
    times = np.arange(world.NUM_FRAMES, dtype=np.float32) / world.FPS
    look, size = world.Look("box", "blue"), world.SOLO_SIZE
    moving, resting = (
        world.pose(world.Actor(look, name, "cartoon", 0.75, size=size), times)
        for name in (action, "stands still")
    )
    rim = {"x": 1.0, "y": 1.0, "rot": size, "sx": size, "sy": size}
    return np.stack([(moving[key] - resting[key]) * scale for key, scale in rim.items()])


def distance(one: str, other: str) -> float:
    """Root mean square distance of two motions in picture heights."""
    return float(np.sqrt(((path(one) - path(other)) ** 2).sum(0).mean()))


def likeness(one: str, other: str) -> float:
    """Cosine of two motions: 1 for the same motion, however far it goes."""
    a, b = path(one), path(other)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def test_no_look_of_a_show_and_no_held_out_look_is_drawn() -> None:
    drawn = {actor.look for actor in ACTORS}
    assert drawn <= set(LOOKS)
    assert not drawn & set(NAMED.values())
    assert not drawn & set(population.generic_looks(list(NAMED.values()), held_out=True))
    taken = set().union(*(look.identifying_pairs for look in NAMED.values()))
    assert not any(look.identifying_pairs & taken for look in drawn)


def test_no_signature_gait_or_extra_motion_is_drawn() -> None:
    known = set(actions.BASE_ACTIONS | actions.ROLES) | set(moves.PHRASES)
    assert not known & set(actions.HELD_OUT_ACTIONS)
    assert {actor.action for actor in ACTORS} <= known
    assert not any(name in scenario.caption for scenario in SCENARIOS for name in actions.HELD_OUT_ACTIONS)


def test_no_phrase_is_more_like_a_held_out_motion_than_an_action_of_sandbox_1_is() -> None:
    moving = [name for name in actions.BASE_ACTIONS if name != "stands still"]
    known = max(likeness(name, held_out) for name in moving for held_out in actions.HELD_OUT_ACTIONS)
    assert likeness("jumps", "jumps") == pytest.approx(1)
    for phrase in moves.PHRASES:
        for held_out in actions.HELD_OUT_ACTIONS:
            assert likeness(phrase, held_out) <= known, (phrase, held_out)
            assert distance(phrase, held_out) > 0.055, (phrase, held_out)


def test_a_new_name_is_never_that_of_a_character() -> None:
    seed = 66497  # the letters that these random numbers give first are those of a character
    assert diet._new_name(np.random.default_rng(seed)) != "Rufus"
    names = {diet._new_name(np.random.default_rng(seed)).lower() for seed in range(66400, 66600)}
    assert not names & {name.lower() for name in read_cast().spellings}


def test_captions_have_no_tags_and_no_name_of_a_show() -> None:
    names = {name.lower() for name in read_cast().spellings}
    for scenario in SCENARIOS:
        assert "[" not in scenario.caption
        assert not names & set(scenario.caption.lower().replace(",", "").split())
        assert {actor.style for actor in scenario.actors} == {scenario.style}


def test_pattern_and_accessory_are_told_whenever_the_body_is() -> None:
    for scenario in SCENARIOS:
        for actor in scenario.actors:
            noun = population.describe(actor.look).removeprefix("a ")
            if f"{actor.look.colour} {actor.look.body}" in scenario.caption:
                assert noun in scenario.caption
    assert any(actor.look.pattern != "plain" for actor in ACTORS)


@pytest.mark.parametrize(
    ("kind", "values"),
    [("body", paint.BODIES), ("pattern", paint.PATTERNS), ("accessory", paint.ACCESSORIES)],
)
def test_the_values_of_an_attribute_are_about_equally_frequent(kind: str, values: tuple[str, ...]) -> None:
    count = Counter(getattr(actor.look, kind) for actor in ACTORS)
    assert set(count) == set(values)
    assert max(count.values()) < 2 * min(count.values())


def test_three_quarters_of_the_clips_have_several_creatures() -> None:
    count = Counter(len(scenario.actors) for scenario in SCENARIOS)
    assert count[1] < count[3] * 1.3 < count[2]
    assert count[3] > 0.2 * len(SCENARIOS)


def test_half_of_the_clips_with_several_creatures_have_a_twin_in_the_other_order() -> None:
    twins = 0
    pairs = [SCENARIOS[i : i + 2] for i in range(0, len(SCENARIOS), 2)]
    for one, other in pairs:
        looks, reverse = [a.look for a in one.actors], [a.look for a in other.actors][::-1]
        if looks != reverse or len(looks) == 1:
            continue
        twins += 1
        assert (one.scene, one.style, one.camera, one.prop) == (
            other.scene,
            other.style,
            other.camera,
            other.prop,
        )
        doing, swapped = ([a.action for a in s.actors] for s in (one, other))
        roles = bool(actions.find_interaction(tuple(doing)))
        assert doing == (swapped if roles else swapped[::-1])
        assert one.caption != other.caption
    several = sum(len(one.actors) > 1 for one, _ in pairs)
    assert 0.4 < twins / several < 0.6


def test_close_creatures_hide_a_part_of_each_other() -> None:
    close = next(
        s
        for s in SCENARIOS
        if len(s.actors) == 2
        and not actions.find_interaction(tuple(a.action for a in s.actors))
        and s.actors[1].x - s.actors[0].x < 0.4
    )
    masks = close.draw()[1]
    alone = world.draw(close.actors[:1], close.scene, close.style, camera=close.camera)[1]
    assert masks[0].sum() < 0.97 * alone[0].sum()
    assert masks[0].sum() > 0.4 * alone[0].sum()


def test_names_come_alone_and_with_nouns() -> None:
    members = {member.name: member.look for member in CAST}
    text = " ".join(scenario.caption for scenario in SCENARIOS)
    said = [word for word in text.replace(",", "").split() if word in members]
    assert sum(f"{name} the " in text for name in members) / len(members) > 0.2
    assert len(said) > 0.15 * len(ACTORS)
    for name, look in members.items():
        for noun in (look.body, population.describe(look).removeprefix("a ")):
            text = text.replace(f"{name} the {noun}", "")
        assert f"{name} the " not in text  # no name gets the noun of another


def test_every_caption_fits_the_text_length_and_every_word_of_a_move_is_one_token() -> None:
    words = tokenizer()
    assert max(len(ids) for ids in words([s.caption for s in SCENARIOS]).input_ids) <= TEXT_LENGTH
    for word in diet.WORDS:
        assert [piece for piece in words.tokenize(word) if piece != "▁"] in ([word], [f"▁{word}"])


@pytest.mark.parametrize("phrase", moves.PHRASES)
def test_a_phrase_starts_at_rest_and_repeats_every_period(phrase: str) -> None:
    motion = moves.find_motion(phrase)
    rest = {"sx": 1.0, "sy": 1.0}
    for key, value in motion(np.asarray([0.0, 1.0])).items():
        np.testing.assert_allclose(value, rest.get(key, 0.0), atol=1e-6)
    early, late = motion(np.asarray([0.3])), motion(np.asarray([1.3]))
    for key in early:
        np.testing.assert_allclose(early[key], late[key], atol=1e-6)


def test_then_is_one_move_after_the_other_and_and_is_both_at_once() -> None:
    p = np.asarray([0.22, 0.72])
    first = moves.find_motion("rises then slides left")(p)
    assert first["dy"][0] < -0.2
    assert first["dy"][1] == first["dx"][0] == 0
    assert first["dx"][1] < -0.2
    both = moves.find_motion("rises and tilts left")(p)
    assert both["dy"][0] < -0.1
    assert both["rot"][0] < -0.2


def test_an_unknown_action_is_an_error() -> None:
    with pytest.raises(KeyError):
        moves.find_motion("rises twice")  # held out: too close to "bounces twice"
