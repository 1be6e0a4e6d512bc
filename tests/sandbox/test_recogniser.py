"""The recognisers: creatures found and followed, the camera measured, and what ships reads pixels right."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.sandbox.recogniser import train as pretrain_recogniser
from toolkit.sandbox.recogniser import truth as data
from toolkit.sandbox.recogniser.accuracy import accuracy, judge_clips, sample_test_clips
from toolkit.sandbox.recogniser.interactions import positions_fit
from toolkit.sandbox.recogniser.networks import (
    GEOMETRY_SIZE,
    LOOK,
    OFFSET_SCALE,
    CreatureDetector,
    Recognisers,
    Vocabulary,
)
from toolkit.sandbox.recogniser.recognise import WEIGHTS, load_recognisers, recognise, recognise_many
from toolkit.sandbox.recogniser.tracking import (
    Track,
    crop_track,
    estimate_camera,
    geometry_features,
    mask_boxes,
    track_creatures,
)
from toolkit.sandbox.world import world
from toolkit.sandbox.world.actions import INTERACTIONS
from toolkit.sandbox.world.shows import named_looks

NAMED = named_looks()


@pytest.fixture(scope="module")
def model() -> Recognisers:
    return load_recognisers()


class Oracle(CreatureDetector):
    """A finder that knows the masks (A, F, H, W)."""

    def __init__(self, masks: np.ndarray) -> None:
        super().__init__()
        self.masks = torch.from_numpy(masks).float()

    def forward(self, frames: Tensor) -> Tensor:
        own, (h, w) = self.masks, self.masks.shape[2:]
        x, y = torch.arange(w) + 0.5, torch.arange(h)[:, None] + 0.5
        area = own.sum((2, 3), keepdim=True).clamp(min=1)
        to = [((own * a).sum((2, 3), keepdim=True) / area - a) * own for a in (x, y)]
        return torch.stack(
            [own.amax(0) * 20 - 10, to[0].sum(0) / OFFSET_SCALE, to[1].sum(0) / OFFSET_SCALE], 1
        )


def actors(*looks: world.Look, action: str = "sways", style: str = "cartoon") -> tuple[world.Actor, ...]:
    return world.arrange([world.Actor(k, action, style, 0.0) for k in looks], np.random.default_rng(0))


def followed(drawn: tuple[np.ndarray, np.ndarray]) -> list[Track]:
    frames, masks = drawn
    return track_creatures(Oracle(masks), data.to_tensor(frames)[None])[0]


# --- finding and following


@pytest.mark.parametrize(
    "roles", [("rides on top", "carries"), ("bumps", "falls over"), ("chases", "runs away")]
)
def test_creatures_that_touch_are_told_apart_and_followed(roles: tuple[str, str]) -> None:
    pair = [world.Actor(NAMED[n], r, "cartoon", 0.0) for n, r in zip(("Mimi", "Bruno"), roles, strict=True)]
    drawn = world.draw(world.arrange(pair, np.random.default_rng(0)), "snow", "cartoon")
    tracks = followed(drawn)
    assert len(tracks) == 2
    for track in tracks:
        share = [(track.masks & torch.from_numpy(m)).sum() / track.masks.sum() for m in drawn[1]]
        assert max(share) > 0.95


def test_a_creature_that_disappears_and_returns_is_one_track() -> None:
    frames, masks = world.draw(actors(NAMED["Otto"], NAMED["Luma"]), "meadow", "cartoon")
    masks[1, 6:9] = False
    assert len(followed((frames, masks))) == 2


def test_an_empty_scene_has_no_creatures(model: Recognisers) -> None:
    verdict = recognise(model, world.draw((), "city", "realistic")[0])
    assert verdict.creatures == ()
    assert (verdict.scene, verdict.scene_style) == ("city", "realistic")


def test_boxes_and_crops_hold_the_creature_and_nothing_else() -> None:
    frames, masks = world.draw(actors(NAMED["Pixo"]), "beach", "cartoon")
    mask = torch.from_numpy(masks[0])
    left, top, right, bottom = mask_boxes(mask)[0].int().tolist()
    assert mask[0, top:bottom, left:right].sum() == mask[0].sum()
    assert mask_boxes(torch.zeros(2, 4, 4, dtype=torch.bool)).isnan().all()
    track = Track(mask, mask.sum((1, 2)).float())
    one = crop_track(data.to_tensor(frames), track)
    other = crop_track(data.to_tensor(world.draw(actors(NAMED["Pixo"]), "city", "realistic")[0]), track)
    assert one.shape == (17, 4, 40, 40)
    inside = one[:, 3:] == 1
    assert (one[:, :3] * ~(one[:, 3:] > 0)).abs().max() == 0
    assert ((one - other)[:, :3] * inside).abs().mean() < 0.02  # the scene shows at the very rim alone


@pytest.mark.parametrize("move", [world.Camera(pan=0.3), world.Camera(pan=-0.25), world.Camera(zoom=1.25)])
@pytest.mark.parametrize("scene", ["room", "city", "meadow"])
def test_the_camera_is_measured_on_the_background(move: world.Camera, scene: str) -> None:
    frames, _ = world.draw((), scene, "cartoon", camera=move)
    right, _, closer = estimate_camera(
        data.to_tensor(frames)[None], torch.ones(1, 17, 64, 96, dtype=torch.bool)
    )[0].tolist()
    assert right == pytest.approx(-move.pan * 64 / 17, abs=0.3)
    assert closer == pytest.approx((move.zoom - 1) / 17 / (1 + (move.zoom - 1) / 2), abs=0.005)


def test_geometry_is_independent_of_the_camera() -> None:
    frames, masks = world.draw(actors(NAMED["Pixo"], NAMED["Otto"], action="stands still"), "room", "cartoon")
    panned, moved = world.draw(
        actors(NAMED["Pixo"], NAMED["Otto"], action="stands still"),
        "room",
        "cartoon",
        camera=world.Camera(pan=0.2),
    )
    still = geometry_features(followed((frames, masks)), torch.zeros(3))
    pan = geometry_features(followed((panned, moved)), torch.tensor([-0.2 * 64 / 17, 0.0, 0.0]))
    assert still.shape == (2, 17, GEOMETRY_SIZE)
    assert (still[..., :9] - pan[..., :9]).abs().mean() < 0.05


# --- who it is


def test_a_vocabulary_is_what_it_was_saved_as_and_knows_nobody_but_the_named() -> None:
    known = data.vocabulary(NAMED)
    assert Vocabulary.from_json(known.to_json()) == known
    rng = np.random.default_rng(0)
    for name, look in NAMED.items():
        assert known.who([getattr(look, key) for key in LOOK]) == name
        other = data.near_miss(look, rng)
        assert sum(getattr(other, key) != getattr(look, key) for key in LOOK) == 1
        assert known.who([getattr(other, key) for key in LOOK]) == ""


def test_the_shipped_recogniser_is_small_and_knows_the_cast(model: Recognisers) -> None:
    assert WEIGHTS.stat().st_size <= 4_000_000
    assert model.vocabulary == data.vocabulary(NAMED)


def test_the_shipped_recogniser_reads_unseen_clips(model: Recognisers) -> None:
    right = accuracy(judge_clips(model, sample_test_clips(model, 32, seed=1)))
    assert min(right.values()) > 0.9, right


def test_the_recogniser_handles_places_sizes_and_cameras_outside_training(model: Recognisers) -> None:
    right = accuracy(judge_clips(model, sample_test_clips(model, 24, seed=2, varied=True)))
    assert np.mean(list(right.values())) > 0.9, right


@pytest.mark.parametrize("key", ["colour", "accessory"])
def test_characters_with_swapped_attributes_are_unknown(model: Recognisers, key: str) -> None:
    pair = [NAMED["Pixo"], NAMED["Rufus"]]
    swapped = data.swapped(pair, key)
    clips = [world.draw(actors(*looks), "room", "cartoon")[0] for looks in (pair, swapped)]
    true, false = recognise_many(model, clips)
    assert [c.who for c in true.creatures] == ["Pixo", "Rufus"]
    assert [c.who for c in false.creatures] == ["", ""]
    assert [getattr(c, key) for c in false.creatures] == [getattr(c, key) for c in swapped]


@pytest.mark.parametrize("own", world.STYLES)
@pytest.mark.parametrize("scene", world.STYLES)
def test_a_creatures_style_is_read_in_any_scene(model: Recognisers, own: str, scene: str) -> None:
    verdict = recognise(model, world.draw(actors(NAMED["Mimi"], style=own), "snow", scene)[0])
    assert [c.style for c in verdict.creatures] == [own]
    assert verdict.scene_style == scene


def test_roles_make_an_interaction(model: Recognisers) -> None:
    pair = [
        world.Actor(NAMED["Olga"], "chases", "realistic", 0.0),
        world.Actor(NAMED["Tiko"], "runs away", "cartoon", 0.0),
    ]
    drawn = world.draw(world.arrange(pair, np.random.default_rng(0)), "meadow", "realistic")[0]
    verdict = recognise(model, drawn)
    assert [(c.who, c.action) for c in verdict.creatures] == [("Olga", "chases"), ("Tiko", "runs away")]
    assert verdict.interaction == "chase"
    assert verdict.creatures[0].boxes.shape == (17, 4)
    assert set(verdict.creatures[0].confidence) == {"who", *LOOK, "style", "action"}


@pytest.mark.parametrize(
    ("kind", "xs"),
    [("bump", (0.2, 1.15)), ("bump", (0.9, 0.3)), ("chase", (0.7, 0.25))],
    ids=["a bump that does not touch", "a bump away from who falls", "a chase in front of who runs"],
)
def test_roles_in_wrong_places_are_no_interaction(
    model: Recognisers, kind: str, xs: tuple[float, float]
) -> None:
    roles = INTERACTIONS[kind]
    pair = [world.Actor(NAMED[n], r, "cartoon", 0.0) for n, r in zip(("Olga", "Rufus"), roles, strict=True)]
    placed = world.arrange(pair, np.random.default_rng(0))
    real = recognise(model, world.draw(placed, "meadow", "cartoon")[0])
    assert real.interaction == kind
    moved = [replace(actor, x=x) for actor, x in zip(placed, xs, strict=True)]
    false = recognise(model, world.draw(moved, "meadow", "cartoon")[0])
    assert {c.action for c in false.creatures} == {*roles}  # each does its part, but not to the other
    assert false.interaction == ""


def test_a_rider_is_above_its_carrier() -> None:
    carrier = np.tile(np.array([40.0, 30, 60, 60], np.float32), (17, 1))
    assert positions_fit("ride", carrier - [0, 20, 0, 20], carrier)
    assert not positions_fit("ride", carrier - [25, 0, 25, 0], carrier)
    assert not positions_fit("ride", np.full((17, 4), np.nan), carrier)


def test_a_batch_of_clips_is_recognised_like_each_alone(model: Recognisers) -> None:
    clips = [t.draw()[0] for t in sample_test_clips(model, 3, seed=3)]
    for one, alone in zip(recognise_many(model, clips), [recognise(model, c) for c in clips], strict=True):
        assert one.scene == alone.scene
        assert [(c.who, c.action) for c in one.creatures] == [(c.who, c.action) for c in alone.creatures]


def test_other_sizes_are_refused(model: Recognisers) -> None:
    with pytest.raises(CastmixError, match="64x96"):
        recognise(model, np.zeros((17, 32, 48, 3), np.uint8))


def test_missing_weights_say_how_to_make_them() -> None:
    with pytest.raises(CastmixError, match="sandbox pretrain --part recogniser"):
        load_recognisers(WEIGHTS.with_name("nowhere.safetensors"))


# --- how they are trained, and the truth that they are held against


def test_stopped_training_continues_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain_recogniser, "SHARD", 4)
    monkeypatch.setattr(pretrain_recogniser, "REDRAWN", 1)
    monkeypatch.setattr(pretrain_recogniser, "SAVE_EVERY", 1)

    def run(name: str) -> Iterator[tuple[str, int, int, float]]:
        return pretrain_recogniser.train_recognisers(
            tmp_path / name, NAMED, clips=4, steps=(1, 1, 1, 2), redraw=lambda clip: clip
        )

    whole = []
    for row in run("whole"):
        whole.append(row)
        if row[:2] == ("place", 1):  # as another training would leave it that is stopped here
            shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    parts = ["drawing", "redrawing", "finder", "following", "reader", "mover", "place", "place"]
    assert [part for part, *_ in whole] == parts
    assert [row for row in run("stopped") if row[3]] == whole[-1:]  # what is there is not learnt again
    again = load_recognisers(tmp_path / "stopped" / "recogniser.safetensors").state_dict()
    for key, value in load_recognisers(tmp_path / "whole" / "recogniser.safetensors").state_dict().items():
        assert torch.equal(again[key], value), key


def test_a_seed_repeats_its_clip_and_swapping_twice_restores_it() -> None:
    assert data.sample_clip(data.TEST_SEEDS, NAMED) == data.sample_clip(data.TEST_SEEDS, NAMED)
    assert data.sample_clip(data.TEST_SEEDS, NAMED) != data.sample_clip(data.TEST_SEEDS + 1, NAMED)
    pair = [NAMED["Pixo"], NAMED["Otto"]]
    assert data.swapped(data.swapped(pair, "colour"), "colour") == pair


def test_corruption_keeps_shapes_and_most_of_the_masks() -> None:
    frames, masks = world.draw(actors(NAMED["Pixo"]), "beach", "cartoon")
    clips = data.to_tensor(frames)[None].repeat(6, 1, 1, 1, 1)
    spoiled, moved = data.corrupt(
        clips, torch.from_numpy(masks)[None].repeat(6, 1, 1, 1, 1), torch.Generator().manual_seed(0)
    )
    assert spoiled.shape == clips.shape
    assert moved.shape == (6, *masks.shape)
    same = (moved & torch.from_numpy(masks)).sum((1, 2, 3, 4)) / (moved | torch.from_numpy(masks)).sum(
        (1, 2, 3, 4)
    )
    assert same.min() > 0.7
    assert (spoiled - clips).abs().mean() > 0.01
