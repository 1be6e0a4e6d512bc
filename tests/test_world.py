"""The drawn world: who is kept apart from whom, and that truth and pictures agree."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from toolkit.captions import validate
from toolkit.cast import read_cast
from toolkit.sandbox import paint, shows, world
from toolkit.sandbox.shows import named_looks
from toolkit.video import read_video

NAMED = named_looks()
LOOKS = world.generic_looks(list(NAMED.values()))
CAST = world.base_cast(LOOKS)
SCENARIOS = [world.generic_scenario(seed, LOOKS, CAST) for seed in range(300)]


def test_no_stranger_shares_two_identifying_attributes_with_a_named_character() -> None:
    for look in LOOKS:
        for name, other in NAMED.items():
            same = [getattr(look, k) == getattr(other, k) for k in ("body", "colour", "accessory")]
            assert sum(same) < 2, (look, name)


def test_the_separation_test_notices_a_planted_near_twin() -> None:
    pixo = NAMED["Pixo"]
    twin = world.Look(pixo.body, pixo.colour, "plain", "none")
    assert twin.pairs & pixo.pairs
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
        assert not any(action in scenario.caption for action in world.HELD_OUT)
        assert {actor.action for actor in scenario.actors} <= set(world.BASE_ACTIONS)
        assert {actor.style for actor in scenario.actors} == {scenario.style}
        assert scenario.caption.endswith(f", {scenario.style} style")


def test_at_least_three_motions_beside_the_signatures_are_held_out() -> None:
    signatures = {c.signature for s in read_cast().shows if s.source == "sandbox" for c in s.characters}
    assert signatures <= set(world.HELD_OUT)
    assert len(set(world.HELD_OUT) - signatures) >= 3


def test_the_pretraining_cast_has_distinct_names_and_looks() -> None:
    assert len({m.name for m in CAST}) == len({m.look for m in CAST}) == len(CAST) == 48


def test_the_same_seed_draws_the_same_pixels_and_another_does_not() -> None:
    one, two = (world.generic_scenario(7, LOOKS, CAST).draw() for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, world.generic_scenario(8, LOOKS, CAST).draw())


@pytest.mark.parametrize("body", paint.BODIES)
def test_a_character_changes_pixels_only_near_its_mask(body: str) -> None:
    actor = world.Actor(world.Look(body, "red", "spotted", "crown"), "spins", "cartoon", 0.75)
    drawn, masks = world.draw([actor], "room", "cartoon")
    empty, _ = world.draw([], "room", "cartoon")
    changed = (drawn.astype(int) - empty).any(-1)
    assert not (changed & ~masks[0]).mean() > 0.02
    assert (changed & masks[0]).sum() > 0.9 * masks[0].sum()


def test_style_decides_the_outline() -> None:
    actor = world.Actor(world.Look("ball", "red"), "stands still", "cartoon", 0.75)
    flat = world.draw([actor], "snow", "cartoon")[0][0]
    shaded = world.draw([replace(actor, style="realistic")], "snow", "cartoon")[0][0]
    dark = [(picture.max(-1) < 60).sum() for picture in (flat, shaded)]
    assert dark[0] > 1.5 * dark[1]


@pytest.mark.parametrize("action", world.ACTIONS)
def test_every_action_goes_round_in_time(action: str) -> None:
    actor = world.Actor(world.Look("box", "blue"), action, "cartoon", 0.75)
    turn = 2 * world.PERIOD  # walking there and back takes two turns
    early = world.pose(actor, np.asarray([0.3], np.float32))
    late = world.pose(actor, np.asarray([0.3 + turn], np.float32))
    for key in early:
        gap = late[key] - early[key]
        if key == "rot":  # to the nearest whole turn
            gap -= 2 * np.pi * np.round(gap / (2 * np.pi))
        np.testing.assert_allclose(gap, 0, atol=2e-2)


def test_actions_differ_from_one_another() -> None:
    times = np.arange(world.NUM_FRAMES, dtype=np.float32) / world.FPS  # those of a clip
    paths = {
        name: np.concatenate(
            [*world.pose(world.Actor(world.Look("box", "blue"), name, "cartoon", 0.75), times).values()]
        )
        for name in world.ACTIONS
    }
    for (a, one), (b, two) in combinations(paths.items(), 2):
        assert np.abs(one - two).max() > 0.02, (a, b)


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("episode") / "e.mp4"
    shows.draw_episode(read_cast().show("inkwell-bay"), path, shots=2, seed=5)
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
