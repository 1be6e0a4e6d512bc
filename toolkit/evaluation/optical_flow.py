"""Motion by optical flow (OpenCV's DIS): how smooth, and how much.

In the spirit of VBench's motion smoothness and dynamic degree, which use learned models (AMT, RAFT): numbers
from here are comparable with each other, not with VBench's.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.core.errors import CastmixError
from toolkit.evaluation.videos import Footage, Measured, Video
from toolkit.footage.decoding import Frames
from toolkit.footage.video import resize_and_crop

Floats = NDArray[np.float32]

HEIGHT = 256
"""Larger pictures are made so small, in pixels, before flow is looked for."""
SMALLEST = 16
FASTEST = 0.05
"""The share of a picture's pixels, those that move most, whose speed counts."""
MOVING = 0.2
"""Picture heights a second: what is faster, moves. VBench's limit is 6 of 256 pixels in 1/8 s, about this."""

COLUMNS = {
    "motion_smoothness": "how well each frame is the middle of its two neighbours, moved half-way towards "
    "each other along their optical flow: 1 - mean absolute difference of pixels; a still video has 1",
    "dynamic_degree": "share of the steps from frame to frame in which the fastest 5 % of the pixels move by "
    "more than 0.2 picture heights a second on average; the camera's movement counts, too",
}


def measure(video: Video, footage: Footage) -> Measured:
    """Both numbers of a video of three frames or more."""
    frames, fps = footage()
    return Measured(motion(frames, fps))


def motion(frames: Frames, fps: float) -> dict[str, float | None]:
    """Both numbers (see `COLUMNS`) of frames (F, H, W, 3) at a rate.

    Raises:
        CastmixError: Too few frames, or too small ones.
    """
    import cv2

    count, height, width = frames.shape[:3]
    if count < 3 or min(height, width) < SMALLEST:
        raise CastmixError(
            f"motion needs 3 frames or more, {SMALLEST} pixels or more on each side; got {count} frames of "
            f"{height}x{width}"
        )
    if height > HEIGHT:
        frames = resize_and_crop(frames, HEIGHT, round(width * HEIGHT / height))
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    speeds = []
    for before, after in pairwise(grey):
        lengths = np.sort(np.linalg.norm(dis.calc(before, after, None), axis=-1), axis=None)
        fastest = lengths[-max(1, round(FASTEST * lengths.size)) :].mean()
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
    """The picture between two (H, W, 3), float32: both moved half along the flow (H, W, 2), and averaged."""
    import cv2

    y, x = np.indices(flow.shape[:2], np.float32)
    half = flow.astype(np.float32) / 2

    def moved(picture: Frames, sign: int) -> Floats:
        return np.asarray(
            cv2.remap(
                picture.astype(np.float32),
                x + sign * half[..., 0],
                y + sign * half[..., 1],
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
        )

    return np.asarray((moved(before, -1) + moved(after, 1)) / 2, np.float32)
