"""Find the shots of a video and the windows of equal length in them. Uses PySceneDetect."""

from __future__ import annotations

from array import array
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolkit.core.progress import track
from toolkit.footage.decoding import VideoReader

if TYPE_CHECKING:
    import av

DETECTION_WIDTH = 256
"""Pictures are shrunk to this width to look for cuts, as PySceneDetect does on its own."""

SAME_FRAME_DIFFERENCE = 0.5
"""A picture that differs by less than this (mean over its values, 0 to 255) shows the same drawing."""

MAX_REPEATS = 3
"""Repeats of a drawing in animation on ones to fours, and in 24 fps film on 60 fps video."""

MAX_FRAME_SECONDS = 1.0
"""Seconds. A frame that would be shown for longer ends its shot: frames are missing, or nothing moves."""

TIMESTAMP_TOLERANCE = 0.002
"""Seconds. Matroska rounds timestamps to a millisecond: a frame this late still counts as being on time."""


@dataclass(frozen=True)
class Shot:
    """Frames `first` up to, not including, `stop`, shown from `start` to `end` (seconds in the file)."""

    first: int
    stop: int
    start: float
    end: float


@dataclass(frozen=True)
class UndecodedSpan:
    """`packets` that could not be decoded between the frames at `start` and `end` (seconds in the file)."""

    start: float
    end: float
    packets: int


@dataclass(frozen=True)
class ShotDetection:
    """One look at every frame of a file.

    Attributes:
        fps: The average frame rate.
        times: The timestamp of every decoded frame, seconds (n,).
        shots: The shots, in order. Every frame is in one.
        losses: Where packets could not be decoded.
        missing: Seconds that the file declares after its last frame (a truncated file), at least 0.
        failure: What ended the reading early, or None.
    """

    fps: float
    times: NDArray[np.float64]
    shots: list[Shot]
    undecoded: list[UndecodedSpan]
    missing: float
    failure: str | None


def detect_shots(path: Path, *, content_threshold: float, adaptive_threshold: float) -> ShotDetection:
    """Decode a file once and find its shots.

    A shot ends at a hard cut, which is what PySceneDetect's ContentDetector or AdaptiveDetector finds (each
    misses some that the other sees), where frames were lost, where one is held for more than a second, and
    where time runs backwards.

    Memory does not grow with the file's length but for 16 bytes a frame.

    Raises:
        CastmixError: The file has no video.
    """
    times, durations = array("d"), array("d")
    undecoded: list[UndecodedSpan] = []
    breaks: list[int] = []
    cuts = _CutDetector(content_threshold, adaptive_threshold)
    with VideoReader(path) as reader:
        expected = reader.stream.frames or round(reader.missing_after(0.0) * reader.fps)
        for frame in track(reader, f"{path.name}: finding shots", total=max(expected, 0) or None):
            if frame.lost_before:
                breaks.append(frame.index)
                undecoded.append(
                    UndecodedSpan(times[-1] if times else frame.time, frame.time, frame.lost_before)
                )
            times.append(frame.time)
            durations.append(frame.duration)
            cuts.add(frame.image)
        end = times[-1] + min(durations[-1], MAX_FRAME_SECONDS) if times else 0.0
        if at_end := reader.lost - sum(span.packets for span in undecoded):
            undecoded.append(UndecodedSpan(times[-1] if times else 0.0, end, at_end))
        # the length of the last frame is a guess in some files: three frames too few are no truncation
        missing = reader.missing_after(end)
        missing = missing if missing > max(0.25, 3 / reader.fps) else 0.0
        shots = split_shots(np.array(times), np.array(durations), cuts.finish(), breaks)
        return ShotDetection(reader.fps, np.array(times), shots, undecoded, missing, reader.failure)


def split_shots(
    times: NDArray[np.float64], durations: NDArray[np.float64], cuts: Collection[int], breaks: Collection[int]
) -> list[Shot]:
    """Split a file's frames into shots.

    Args:
        times: The timestamp of every frame, seconds (n,).
        durations: How long each is shown by itself, seconds (n,).
        cuts: Indices of the first frames after hard cuts: there, the frame before is shown up to the cut.
        breaks: Indices of the first frames after lost ones: there, it is shown for its own duration.
    """
    if not len(times):
        return []
    steps = np.diff(times)
    jumps = set(breaks) | {int(i) + 1 for i in np.flatnonzero((steps < 0) | (steps > MAX_FRAME_SECONDS))}
    starts = sorted({0, *cuts, *jumps})
    shots = []
    for first, stop in zip(starts, [*starts[1:], len(times)], strict=True):
        if stop in jumps or stop == len(times):
            end = float(times[stop - 1] + min(durations[stop - 1], MAX_FRAME_SECONDS))
        else:
            end = float(times[stop])
        shots.append(Shot(first, stop, float(times[first]), end))
    return shots


def clip_windows(times: NDArray[np.float64], shot: Shot, fps: float, num_frames: int) -> list[list[int]]:
    """Consecutive windows of a shot: for each, the indices of the frames shown at its start + k/fps.

    A window starts at a frame's timestamp, lies in the shot as a whole, and shares no frame with the next.
    The rest of a shot that is shorter than a window is left over.

    Args:
        times: The timestamp of every frame of the file, seconds (n,).
        shot: The shot to cut up.
        fps: Frames a second to sample at.
        num_frames: Frames in a window.
    """
    inside = times[shot.first : shot.stop]
    found = []
    first = 0
    while first < len(inside):
        moments = inside[first] + np.arange(num_frames) / fps
        if moments[-1] >= shot.end:
            break
        shown = np.searchsorted(inside, moments + TIMESTAMP_TOLERANCE, side="right") - 1
        found.append([shot.first + int(index) for index in shown])
        first = int(
            np.searchsorted(inside, inside[first] + num_frames / fps - TIMESTAMP_TOLERANCE, side="left")
        )
    return found


class _CutDetector:
    """PySceneDetect's two detectors of hard cuts, fed with frames that PyAV decoded.

    Their own readers count frames; here a frame's number is its index in the file by construction. The
    detectors' shortest scene is 0: a cut soon after another is a cut. Two pictures are kept at most.

    A drawing held for two to four frames is fed once. The adaptive detector compares a change with those just
    before and after it, and would take every new drawing of such animation for a cut.
    """

    def __init__(self, content_threshold: float, adaptive_threshold: float) -> None:
        from scenedetect.detectors import AdaptiveDetector, ContentDetector

        content = ContentDetector(threshold=content_threshold, min_scene_len=0)
        adaptive = AdaptiveDetector(adaptive_threshold=adaptive_threshold, min_scene_len=0)
        self.detectors = (content, adaptive)
        # The adaptive one judges a frame by this many on each side: the first and the last picture are
        # repeated so often, so that it judges those near the ends, too.
        self.margin = adaptive.window_width
        self.height = 0  # that of the first picture: the detectors cannot follow a change of size
        self.index = -1
        self.repeats = 0
        self.picture: Any = None
        self.cuts: set[int] = set()

    def add(self, image: av.VideoFrame) -> None:
        """Take the next frame of the file."""
        self.height = self.height or max(2, round(DETECTION_WIDTH * image.height / image.width))
        picture = image.reformat(DETECTION_WIDTH, self.height, "bgr24", interpolation="AREA").to_ndarray()
        self.index += 1
        if self.index == 0:
            for early in range(-self.margin, 0):
                self._feed(early, picture)
        elif _difference(picture, self.picture) < SAME_FRAME_DIFFERENCE:
            self.repeats += 1
            if self.repeats <= MAX_REPEATS:
                return
        else:
            self.repeats = 0
        self._feed(self.index, picture)

    def finish(self) -> set[int]:
        """All cuts, each as the index of the first frame after it. Call it once, after the last frame."""
        for late in range(1, self.margin + 1 if self.index >= 0 else 1):
            self._feed(self.index + late, self.picture)
        return self.cuts

    def _feed(self, index: int, picture: Any) -> None:
        from scenedetect import FrameTimecode

        self.picture = picture
        timecode = FrameTimecode(index + self.margin, fps=25.0)  # any rate: only its number is used
        for detector in self.detectors:
            self.cuts |= {cut.frame_num - self.margin for cut in detector.process_frame(timecode, picture)}


def _difference(a: Any, b: Any) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())
