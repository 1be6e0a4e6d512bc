"""The drawn world: who is kept apart from whom, and that truth and pictures agree."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import validate
from toolkit.core.errors import CastmixError
from toolkit.footage.video import read_video
from toolkit.sandbox.world import actions, paint, population, scenery, shows, world
from toolkit.sandbox.world.shows import named_looks

NAMED = named_looks()
LOOKS = population.generic_looks(list(NAMED.values()))
CAST = population.pretraining_cast(LOOKS)
SCENARIOS = [population.sample_scenario(seed, LOOKS, CAST) for seed in range(300)]


def test_no_stranger_shares_two_identifying_attributes_with_a_named_character() -> None:
    for look in LOOKS:
        for name, other in NAMED.items():
            same = [getattr(look, k) == getattr(other, k) for k in ("body", "colour", "accessory")]
            assert sum(same) < 2, (look, name)


def test_the_separation_test_notices_a_planted_near_twin() -> None:
    pixo = NAMED["Pixo"]
    twin = world.Look(pixo.body, pixo.colour, "plain", "none")
    assert twin.identifying_pairs & pixo.identifying_pairs
    assert twin not in LOOKS


def test_every_attribute_is_still_seen_in_pretraining() -> None:
    assert {look.body for look in LOOKS} == set(paint.BODIES)
    assert {look.colour for look in LOOKS} == set(paint.COLOURS)
    assert {look.accessory for look in LOOKS} == set(paint.ACCESSORIES)


def test_pretraining_captions_are_prose_about_the_base_actions_only() -> None:
    names = {name.lower() for name in read_cast().spellings}
    for scenario in SCENARIOS:
        assert "[" not in scenario.caption
        assert not names & set(scenario.caption.lower().replace(",", "").split())
        assert not any(action in scenario.caption for action in actions.HELD_OUT_ACTIONS)
        assert {actor.action for actor in scenario.actors} <= set(actions.BASE_ACTIONS | actions.ROLES)
        assert {actor.style for actor in scenario.actors} == {scenario.style}
        assert f", {scenario.style} style" in scenario.caption


def test_ten_characters_of_four_shows_have_a_signature_and_a_gait_of_their_own() -> None:
    own = [s for s in read_cast().shows if s.source == "sandbox"]
    people = [c for s in own for c in s.characters]
    assert [sum(len(s.characters) for s in own if s.style == style) for style in world.STYLES] == [5, 5]
    assert min(sum(s.style == style for s in own) for style in world.STYLES) >= 2
    assert {c.signature for c in people} == set(actions.SIGNATURES)
    assert {c.gait for c in people} == set(actions.GAITS)
    assert len(actions.EXTRA_ACTIONS) >= 3
    assert all(len(c.references) >= 3 for c in people)


def test_some_characters_look_alike_and_some_share_a_colour() -> None:
    alike = [
        (a, b)
        for (a, one), (b, two) in combinations(NAMED.items(), 2)
        if one.body == two.body and one.colour == two.colour
    ]
    assert len(alike) >= 2
    assert len({look.colour for look in NAMED.values()}) < len(NAMED)


def test_looks_for_held_out_prompts_are_never_drawn_in_pretraining() -> None:
    kept_back = population.generic_looks(list(NAMED.values()), held_out=True)
    assert len(kept_back) > 15
    assert not set(kept_back) & set(LOOKS)
    drawn = {actor.look for scenario in SCENARIOS for actor in scenario.actors}
    assert not drawn & set(kept_back)


def test_the_pretraining_cast_has_distinct_names_and_looks() -> None:
    assert len({m.name for m in CAST}) == len({m.look for m in CAST}) == len(CAST) == 48


def test_the_same_seed_draws_the_same_pixels_and_another_does_not() -> None:
    one, two = (population.sample_scenario(7, LOOKS, CAST).draw()[0] for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, population.sample_scenario(8, LOOKS, CAST).draw()[0])


@pytest.mark.parametrize("body", paint.BODIES)
def test_a_character_changes_pixels_only_near_its_mask(body: str) -> None:
    actor = world.Actor(world.Look(body, "red", "spotted", "crown"), "spins around", "cartoon", 0.75)
    drawn, masks = world.draw([actor], "room", "cartoon")
    empty, _ = world.draw([], "room", "cartoon")
    changed = (drawn.astype(int) - empty).any(-1)
    assert not (changed & ~masks[0]).mean() > 0.03
    assert (changed & masks[0]).sum() > 0.9 * masks[0].sum()


def test_style_decides_the_outline() -> None:
    actor = world.Actor(world.Look("ball", "red"), "stands still", "cartoon", 0.75)
    flat = world.draw([actor], "snow", "cartoon")[0][0]
    shaded = world.draw([replace(actor, style="realistic")], "snow", "cartoon")[0][0]
    dark = [(picture.max(-1) < 60).sum() for picture in (flat, shaded)]
    assert dark[0] > 1.5 * dark[1]


@pytest.mark.parametrize("action", actions.BASE_ACTIONS | actions.HELD_OUT_ACTIONS)
def test_every_solo_action_is_periodic(action: str) -> None:
    actor = world.Actor(world.Look("box", "blue"), action, "cartoon", 0.75)
    early = world.pose(actor, np.asarray([0.3], np.float32))
    late = world.pose(actor, np.asarray([0.3 + world.PERIOD], np.float32))
    for key in early:
        gap = late[key] - early[key]
        if key == "rot":  # to the nearest whole turn
            gap -= 2 * np.pi * np.round(gap / (2 * np.pi))
        np.testing.assert_allclose(gap, 0, atol=2e-2)


def test_actions_differ_from_one_another() -> None:
    times = np.arange(world.NUM_FRAMES, dtype=np.float32) / world.FPS  # those of a clip
    solo = actions.BASE_ACTIONS | actions.HELD_OUT_ACTIONS  # who carries walks, with somebody on top
    paths = {
        name: np.concatenate(
            [*world.pose(world.Actor(world.Look("box", "blue"), name, "cartoon", 0.75), times).values()]
        )
        for name in solo
    }
    for (a, one), (b, two) in combinations(paths.items(), 2):
        assert np.abs(one - two).max() > 0.02, (a, b)


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("episode") / "e.mp4"
    show = read_cast().show("inkwell-bay")
    shows.draw_episode(show, show.characters, path, shots=2, seed=5)
    return path


def test_an_episode_has_a_title_hard_cuts_and_a_subtitle_band(episode: Path) -> None:
    frames, fps = read_video(episode)
    truth = json.loads(episode.with_suffix(".truth.json").read_text())
    assert fps == truth["fps"] == shows.FPS
    assert frames.shape == (truth["shots"][-1]["last_frame"] + 1, shows.HEIGHT + shows.BAND, shows.WIDTH, 3)
    assert truth["shots"][0]["kind"] == "title"
    coarse = frames[:, : shows.HEIGHT : 4, ::4].astype(np.int16)
    steps = np.abs(np.diff(coarse, axis=0)).mean((1, 2, 3))
    cuts = [shot["first_frame"] - 1 for shot in truth["shots"][1:]]
    assert set(np.argsort(steps)[-len(cuts) :]) == set(cuts)
    band = frames[:, shows.HEIGHT + 1 :]
    assert np.median(band) < 20
    spoken = [s for s in truth["shots"][1:] if s["subtitle"]]
    assert all(band[s["first_frame"] + 5].max() > 150 for s in spoken)


def test_an_episodes_captions_follow_the_grammar_and_its_boxes_the_masks(episode: Path) -> None:
    cast = read_cast()
    truth = json.loads(episode.with_suffix(".truth.json").read_text())
    rows = [json.loads(line) for line in episode.with_suffix(".captions.jsonl").read_text().splitlines()]
    masks = np.load(episode.with_suffix(".masks.npz"))
    assert len(rows) == 2
    for row, shot in zip(rows, truth["shots"][1:], strict=True):
        assert validate(row["text"], cast) == []
        assert row["start"] == pytest.approx(shot["first_frame"] / shows.FPS, abs=1e-3)
        for actor in shot["actors"]:
            mask = np.unpackbits(
                masks[f"{shot['first_frame']:05d} {actor['name']}"], axis=-1, count=shows.WIDTH
            )
            left, top, right, bottom = actor["boxes"][0]
            assert mask[0, top:bottom, left:right].sum() == mask[0].sum() > 0


def test_an_unknown_attribute_is_named() -> None:
    with pytest.raises(ValueError, match=r"look\.body is 'cube'"):
        world.look_of({"body": "cube", "colour": "red"})


def test_subtitles_are_written_beside_the_episode_too(episode: Path) -> None:
    truth = json.loads(episode.with_suffix(".truth.json").read_text())
    spoken = [s["subtitle"] for s in truth["shots"][1:] if s["subtitle"]]
    blocks = episode.with_suffix(".srt").read_text().split("\n\n")
    assert [block.splitlines()[2] for block in blocks if block] == spoken


@pytest.mark.parametrize("name", actions.INTERACTIONS)
@pytest.mark.parametrize("count", [2, 3])
def test_an_interaction_shows_all_its_characters(name: str, count: int) -> None:
    doing = list(actions.INTERACTIONS[name])
    if count == 3:
        doing = ["chases", *doing] if name == "chase" else [*doing, "stands still"]
    assert actions.find_interaction(tuple(doing)) == name
    cast = [world.Actor(look, a, "cartoon", 0.0) for look, a in zip(NAMED.values(), doing, strict=False)]
    placed = world.arrange(cast, np.random.default_rng(0))
    frames, masks = world.draw(placed, "room", "cartoon")
    assert frames.shape == (world.NUM_FRAMES, world.HEIGHT, world.WIDTH, 3)
    assert masks.any((2, 3)).mean(1).min() > 0.25  # who hides is out of sight for most of the time
    assert masks.sum(0).max() == 1  # a pixel shows one creature
    if name != "ride":
        seen = [mask[mask.any((1, 2))][0] for mask in masks]
        middles = [np.flatnonzero(mask.any(0)).mean() for mask in seen]
        assert middles == sorted(middles)  # who is named first stands on the left


def test_a_gift_moves_from_one_character_to_the_other() -> None:
    cast = [
        world.Actor(look, a, "cartoon", 0.0)
        for look, a in zip(LOOKS, actions.INTERACTIONS["gift"], strict=False)
    ]
    placed = world.arrange(cast, np.random.default_rng(0))
    masks = world.draw(placed, "city", "cartoon")[1]
    alone = [world.draw([actor], "city", "cartoon")[1][0] for actor in placed]
    hidden = [(whole & ~seen).sum((1, 2)) for whole, seen in zip(alone, masks, strict=True)]
    assert hidden[0][0] > hidden[0][-1]  # the gift covers some of who holds it: the giver first,
    assert hidden[1][0] < hidden[1][-1]  # the taker in the end


def test_the_camera_pans_and_zooms() -> None:
    actor = world.Actor(world.Look("ball", "red"), "stands still", "cartoon", 0.75)
    still = world.draw([actor], "snow", "cartoon")[1][0]
    panned = world.draw([actor], "snow", "cartoon", camera=world.Camera(pan=0.25))[1][0]
    zoomed = world.draw([actor], "snow", "cartoon", camera=world.Camera(zoom=1.3))[1][0]

    def middle(mask: np.ndarray) -> float:
        return float(np.flatnonzero(mask.any(0)).mean())

    assert abs(middle(still[0]) - middle(still[-1])) < 1
    assert middle(panned[0]) - middle(panned[-1]) > 0.2 * world.HEIGHT  # the view goes right, the ball left
    assert zoomed[-1].sum() > 1.4 * zoomed[0].sum()


def test_a_prop_stands_in_the_scene() -> None:
    plain = world.draw([], "room", "cartoon")[0]
    for prop in scenery.PROPS:
        assert (world.draw([], "room", "cartoon", prop=prop)[0] != plain).any(-1).mean() > 0.005


def test_only_the_chosen_characters_play(tmp_path: Path) -> None:
    (path,) = shows.draw(tmp_path, shows=["clay-street"], characters=["Olga"], episodes=1, shots=2)
    truth = json.loads(path.with_suffix(".truth.json").read_text())
    assert {a["name"] for s in truth["shots"][1:] for a in s["actors"]} == {"Olga"}


def test_the_sandbox_refuses_shows_that_it_cannot_draw(tmp_path: Path) -> None:
    for wrong in ({"seed": -5}, {"episodes": 0}, {"shots": 0}):
        with pytest.raises(CastmixError, match=f"{next(iter(wrong))} must be"):
            shows.draw(tmp_path, **wrong)
    with pytest.raises(CastmixError, match="the sandbox cannot draw mr-bean: choose"):
        shows.draw(tmp_path, shows=["mr-bean"])


def test_reference_pictures_are_what_the_sandbox_draws() -> None:
    for show in (s for s in read_cast().shows if s.source == "sandbox"):
        for character in show.characters:
            for number, picture in enumerate(character.references):
                drawn = shows.reference_image(show, character, number)
                shipped = np.asarray(Image.open(picture)).astype(int)
                assert np.abs(shipped - drawn).max() <= 2  # another processor rounds differently
