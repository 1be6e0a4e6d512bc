"""Motion by optical flow, on textures that move as they are told."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from toolkit.core.errors import CastmixError
from toolkit.evaluation.optical_flow import MOVING, motion_scores
from toolkit.footage.decoding import Frames

HEIGHT, WIDTH, FPS = 64, 96, 8.0


def texture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Frames:
    soft = cv2.GaussianBlur(np.random.default_rng(seed).random((height, width, 3)), (0, 0), height / 20)
    return cv2.normalize(soft, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def panning(pixels: int, count: int = 9, scale: int = 1) -> Frames:
    """A texture that moves so many pixels a frame."""
    picture = texture(HEIGHT * scale, WIDTH * scale)
    return np.stack([np.roll(picture, pixels * scale * t, 1) for t in range(count)])


def test_a_still_video_is_smooth_and_not_dynamic() -> None:
    assert motion_scores(panning(0), FPS) == {"motion_smoothness": 1, "dynamic_degree": 0}


def test_steady_motion_is_smoother_than_jerky_motion() -> None:
    steady = panning(3)
    jerks = steady[[0, 1, 4, 3, 2, 5, 6, 8, 7]]
    smooth, rough = motion_scores(steady, FPS), motion_scores(jerks, FPS)
    assert smooth["dynamic_degree"] == rough["dynamic_degree"] == 1
    assert smooth["motion_smoothness"] > 0.97
    assert rough["motion_smoothness"] < smooth["motion_smoothness"] - 0.02


def test_flicker_is_not_smooth() -> None:
    frames = panning(0)
    frames[::2] = 255 - frames[::2]
    assert motion_scores(frames, FPS)["motion_smoothness"] < 0.9


@pytest.mark.parametrize(("pixels", "moves"), [(1, 0.0), (3, 1.0)])
def test_speed_is_in_picture_heights_per_second(pixels: int, moves: float) -> None:
    assert (pixels / HEIGHT * FPS > MOVING) is bool(moves)
    assert motion_scores(panning(pixels), FPS)["dynamic_degree"] == moves
    assert motion_scores(panning(pixels, count=4, scale=8), FPS)["dynamic_degree"] == moves  # downscaled
    assert motion_scores(panning(pixels), FPS * 4)["dynamic_degree"] == 1


def test_a_small_moving_object_makes_a_video_dynamic() -> None:
    frames = np.repeat(texture()[None], 9, 0)
    ball = texture(20, 20, seed=1)
    for t, frame in enumerate(frames):
        frame[20:40, 10 + 4 * t : 30 + 4 * t] = ball
    assert motion_scores(frames, FPS)["dynamic_degree"] == 1


@pytest.mark.parametrize("shape", [(2, 64, 96, 3), (9, 8, 96, 3)])
def test_too_few_frames_or_pixels_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(CastmixError, match="motion needs at least 3 frames with at least 16 pixels"):
        motion_scores(np.zeros(shape, np.uint8), FPS)
