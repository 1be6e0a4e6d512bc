"""Frames and videos are the same pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toolkit.models.pixels import frames_to_video, from_bytes, to_bytes, video_to_frames


def test_every_byte_comes_back() -> None:
    pixels = torch.arange(256).byte()
    values = from_bytes(pixels)
    assert (values[0], values[-1]) == (-1, 1)
    assert torch.equal(to_bytes(values), pixels)


def test_values_outside_are_clamped() -> None:
    assert to_bytes(torch.tensor([-7.0, 0.0, 7.0])).tolist() == [0, 128, 255]


@pytest.mark.parametrize("batch", [(), (2,)])
def test_channels_move_and_come_back(batch: tuple[int, ...]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (*batch, 5, 4, 6, 3), np.uint8)
    video = frames_to_video(frames)
    assert video.shape == (*batch, 3, 5, 4, 6)
    assert torch.equal(video[..., 1, 2, 3, 4], from_bytes(torch.from_numpy(frames[..., 2, 3, 4, 1])))
    assert np.array_equal(video_to_frames(video), frames)
