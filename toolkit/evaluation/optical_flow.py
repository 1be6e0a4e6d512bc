"""Motion smoothness and dynamic degree by optical flow (OpenCV's DIS).

VBench has metrics of the same names, which use learned models (AMT, RAFT). The numbers here are comparable
with each other, but not with VBench's.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.core.errors import CastmixError
from toolkit.evaluation.videos import Measurement, ReadFrames, Video
from toolkit.footage.decoding import Frames
from toolkit.footage.video import resize_and_crop

Floats = NDArray[np.float32]

HEIGHT = 256
"""Taller videos are downscaled to this height in pixels before flow is computed."""
MIN_SIDE = 16
"""Smallest height and width in pixels."""
FAST_SHARE = 0.05
"""The speed of a pair of frames is the mean over this share of the pixels, the fastest ones."""
MOVING = 0.2
"""Above this speed a pair of frames counts as moving, in picture heights per second. VBench's
limit, 6 of 256 pixels in 1/8 s, is about the same."""

COLUMNS = {
    "motion_smoothness": "1 - mean absolute pixel difference between each frame and the interpolation of its "
    "two neighbours along their optical flow; a still video has 1",
    "dynamic_degree": "share of pairs of neighbouring frames in which the fastest 5 % of the pixels move "
    "faster than 0.2 picture heights per second on average; camera motion counts, too",
}


def measure(video: Video, read_frames: ReadFrames) -> Measurement:
    """Measure `COLUMNS` of a video."""
    frames, fps = read_frames()
    return Measurement(motion_scores(frames, fps))


def motion_scores(frames: Frames, fps: float) -> dict[str, float | None]:
    """`COLUMNS` of frames (F, H, W, 3) at `fps` frames per second.

    Raises:
        CastmixError: There are fewer than 3 frames, or they are smaller than `MIN_SIDE`.
    """
    import cv2

    count, height, width = frames.shape[:3]
    if count < 3 or min(height, width) < MIN_SIDE:
        raise CastmixError(
            f"motion needs at least 3 frames with at least {MIN_SIDE} pixels on each side; got {count} "
            f"frames of {height}x{width}"
        )
    if height > HEIGHT:
        frames = resize_and_crop(frames, HEIGHT, round(width * HEIGHT / height))
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    speeds = []
    for before, after in pairwise(grey):
        lengths = np.sort(np.linalg.norm(dis.calc(before, after, None), axis=-1), axis=None)
        fastest = lengths[-max(1, round(FAST_SHARE * lengths.size)) :].mean()
        speeds.append(float(fastest) * fps / len(before))
    errors = []
    for number in range(1, len(grey) - 1):
        flow = dis.calc(grey[number - 1], grey[number + 1], None)
        middle = _halfway(frames[number - 1], frames[number + 1], flow)
        errors.append(float(np.abs(middle - frames[number]).mean()) / 255)
    return {
        "motion_smoothness": 1 - sum(errors) / len(errors),
        "dynamic_degree": sum(speed > MOVING for speed in speeds) / len(speeds),
    }


def _halfway(before: Frames, after: Frames, flow: Floats) -> Floats:
    """Interpolate between two frames (H, W, 3): warp both half-way along the flow (H, W, 2) and average."""
    import cv2

    y, x = np.indices(flow.shape[:2], np.float32)
    half = flow.astype(np.float32) / 2

    def warped(picture: Frames, sign: int) -> Floats:
        return np.asarray(
            cv2.remap(
                picture.astype(np.float32),
                x + sign * half[..., 0],
                y + sign * half[..., 1],
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
        )

    return np.asarray((warped(before, -1) + warped(after, 1)) / 2, np.float32)
