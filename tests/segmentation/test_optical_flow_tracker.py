"""The backend without weights: it follows, it knows when nobody is there, and it finds again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from toolkit.captions.cast import read_cast
from toolkit.footage.clips import Clip
from toolkit.footage.video import write_video
from toolkit.segmentation.interfaces import Options, Prompt
from toolkit.segmentation.mask_iou import box_of, mean_j_and_f, region_iou
from toolkit.segmentation.motion_cues import colour_model, neighbour_frames, relative_motion
from toolkit.segmentation.optical_flow_tracker import optical_flow_tracker, track

H, W = 96, 144
Frames = NDArray[np.uint8]


def scene(path: list[tuple[float, float]], pan: float = 0.0) -> tuple[Frames, NDArray[np.bool_]]:
    """A red and white ball at the given places (x, y) on a mottled blue-green wall that moves by `pan`."""
    import cv2

    rng = np.random.default_rng(0)
    size = (H, W + 200)
    wall = np.stack([rng.normal(mean, 25, size) for mean in (50, 120, 130)], -1).astype(np.float32)
    wall = cv2.GaussianBlur(wall, (0, 0), 2) * 3 - 2 * np.array([50, 120, 130], np.float32)
    y, x = np.mgrid[:H, :W] + 0.5
    frames, masks = [], []
    for number, (px, py) in enumerate(path):
        mask = (x - px) ** 2 + (y - py) ** 2 < 15**2
        halves = np.where((x - px > y - py)[..., None], (210, 30, 40), (250, 240, 230))
        start = 50 + round(pan * number)
        frame = np.where(mask[..., None], halves, wall[:, start : start + W])
        frames.append(np.clip(frame, 0, 255).astype(np.uint8))
        masks.append(mask)
    return np.stack(frames), np.stack(masks)


def masks_of(frames: Frames, prompt: Prompt) -> NDArray[np.bool_]:
    got = dict(track(frames.__getitem__, len(frames), prompt))
    assert sorted(got) == list(range(len(frames)))
    return np.stack([got[number] > 0.5 for number in range(len(frames))])


@pytest.mark.parametrize("pan", [0, 3])
def test_a_ball_is_followed_both_ways(pan: float) -> None:
    frames, truth = scene([(30 + 6 * t, 48 + 10 * np.sin(t)) for t in range(10)], pan)
    got = masks_of(frames, Prompt(4, box_of(truth[4])))
    j, f = mean_j_and_f(list(got), list(truth))
    assert j > 0.85
    assert f > 0.85
    np.testing.assert_array_equal(got, masks_of(frames, Prompt(4, box_of(truth[4]))))


def test_a_still_character_is_segmented_by_colour() -> None:
    frames, truth = scene([(70, 48)] * 4)
    assert min(map(region_iou, masks_of(frames, Prompt(0, box_of(truth[0]))), truth)) > 0.9


def test_points_alone_are_a_prompt() -> None:
    frames, truth = scene([(60 + 5 * t, 48) for t in range(4)])
    points = ((60.0, 48.0, True), (56.0, 42.0, True), (100.0, 20.0, False))
    assert mean_j_and_f(list(masks_of(frames, Prompt(0, points=points))), list(truth))[0] > 0.6


def test_a_character_is_lost_on_leaving_and_found_on_returning() -> None:
    places = [80, 95, 110, 125, 140, 155, 175, 200, 200, 175, 155, 140, 125, 110, 95]
    frames, truth = scene([(x, 48) for x in places])
    got = masks_of(frames, Prompt(0, box_of(truth[0])))
    away = ~truth.any((1, 2))
    assert away.sum() == 4
    assert not got[away].any()
    assert min(map(region_iou, got[-2:], truth[-2:])) > 0.8
    assert min(map(region_iou, got[:4], truth[:4])) > 0.8


def test_a_ball_of_another_colour_is_not_taken_for_the_lost_one() -> None:
    frames, truth = scene([(x, 48) for x in (100, 125, 160, 200, 200)])
    other = np.zeros((H, W), bool)
    other[30:60, 30:60] = True
    frames[2:, other] = (40, 40, 160)
    got = masks_of(frames, Prompt(0, box_of(truth[0])))
    assert not got[3:].any()


def test_cues() -> None:
    assert neighbour_frames(0, 5) == [1, 2]
    assert neighbour_frames(2, 5) == [1, 3]
    assert neighbour_frames(4, 5) == [2, 3]
    assert neighbour_frames(0, 2) == [1]
    assert neighbour_frames(0, 1) == []
    y, x = np.mgrid[:40, :60].astype(np.float32)
    turning = np.stack([0.02 * y + 1, 0.01 * x - 2], -1)  # a camera's own movement is no movement
    turning[10:20, 10:20] += (3, 4)
    outside = np.ones((40, 60), bool)
    outside[8:22, 8:22] = False
    moves = relative_motion([turning], outside)
    assert moves[outside].max() < 0.01
    np.testing.assert_allclose(moves[10:20, 10:20], 5, atol=0.01)
    frames, truth = scene([(70, 48)])
    model = colour_model(frames[0], truth[0])
    assert model.fit > 0.9
    assert model.area == truth[0].sum()


def test_masks_have_the_clips_size(tmp_path: Path) -> None:
    frames, truth = scene([(60 + 4 * t, 48) for t in range(3)])
    write_video(tmp_path / "a.mp4", frames, 8)
    clip = Clip(tmp_path / "a.mp4", "", "a.mp4", 0, 0.25, 8.0, 3, W, H, 0)
    got: dict[tuple[int, str], NDArray[np.uint8]] = {}
    propagate = optical_flow_tracker(Options("", None, None, read_cast()))
    propagate(
        clip, {"Pixo": Prompt(1, box_of(truth[1]))}, lambda t, name, mask: got.update({(t, name): mask})
    )
    assert sorted(got) == [(0, "Pixo"), (1, "Pixo"), (2, "Pixo")]
    for number in range(3):
        mask = got[number, "Pixo"]
        assert (mask.shape, mask.dtype, set(np.unique(mask))) == ((H, W), np.uint8, {0, 255})
        assert region_iou(mask, truth[number]) > 0.85


def test_a_real_car_for_eight_frames(footage: Path) -> None:
    import cv2
    from PIL import Image

    folder = footage / "masks" / "car-shadow"
    if not folder.is_dir():
        pytest.skip(f"no masked footage at {folder}")
    pairs = zip(sorted((folder / "frames").iterdir()), sorted((folder / "masks").iterdir()), strict=True)
    shrunk = [
        [cv2.resize(np.asarray(Image.open(path)), (427, 240), interpolation=cv2.INTER_AREA) for path in pair]
        for pair in list(pairs)[:8]
    ]
    frames, truth = (np.stack(part) for part in zip(*shrunk, strict=True))
    got = masks_of(frames, Prompt(0, box_of(truth[0] >= 128)))
    assert mean_j_and_f(list(got), list(truth))[0] > 0.7
