"""Detects the shots of a video with PySceneDetect and divides them into windows of equal length.

`detect_shots` decodes a file once and returns its shots. `clip_windows` selects the source frames of each
clip within one shot.
"""

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
"""Frames are downscaled to this width for cut detection, as PySceneDetect does by default."""

SAME_FRAME_DIFFERENCE = 0.5
"""Two frames whose mean absolute difference (values 0 to 255) is below this are taken for the same frame."""

MAX_REPEATS = 3
"""Repeats of a frame that are skipped: animation holds a drawing for one to four frames ("on ones" to "on
fours"), and 24 fps film in 60 fps video repeats frames too."""

MAX_FRAME_SECONDS = 1.0
"""Seconds. A frame shown for longer ends its shot, because frames are missing or nothing moves."""

TIMESTAMP_TOLERANCE = 0.002
"""Seconds. A frame this late still counts as on time, because Matroska rounds timestamps to milliseconds."""


@dataclass(frozen=True)
class Shot:
    """Frames `first` to `stop` (exclusive), shown from `start` to `end` (seconds in the file)."""

    first: int
    stop: int
    start: float
    end: float


@dataclass(frozen=True)
class UndecodedSpan:
    """Number of `packets` that could not be decoded between two frames, at `start` and `end` (seconds)."""

    start: float
    end: float
    packets: int


@dataclass(frozen=True)
class ShotDetection:
    """The shots of a file and the damage found while it was decoded.

    Attributes:
        fps: The average frame rate.
        times: Timestamp of every decoded frame, seconds (n,).
        shots: The shots in order. Every frame belongs to one shot.
        undecoded: The spans in which packets could not be decoded.
        missing: Seconds that the file declares after its last frame; above 0 for a truncated file.
        failure: The error that ended the reading early, or None.
    """

    fps: float
    times: NDArray[np.float64]
    shots: list[Shot]
    undecoded: list[UndecodedSpan]
    missing: float
    failure: str | None


def detect_shots(path: Path, *, content_threshold: float, adaptive_threshold: float) -> ShotDetection:
    """Decode a file once and find its shots.

    A shot ends at a hard cut, where frames were lost, where one frame is shown for more than a second, and
    where timestamps decrease. Hard cuts are those that PySceneDetect's ContentDetector or AdaptiveDetector
    finds; each of the two misses cuts that the other finds. Memory grows by 16 bytes per frame only.

    Args:
        path: The video file.
        content_threshold: Threshold of the ContentDetector.
        adaptive_threshold: Threshold of the AdaptiveDetector.

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
        # Some files do not state the duration of the last frame: up to three missing frames are tolerated.
        missing = reader.missing_after(end)
        missing = missing if missing > max(0.25, 3 / reader.fps) else 0.0
        shots = split_shots(np.array(times), np.array(durations), cuts.finish(), breaks)
        return ShotDetection(reader.fps, np.array(times), shots, undecoded, missing, reader.failure)


def split_shots(
    times: NDArray[np.float64], durations: NDArray[np.float64], cuts: Collection[int], breaks: Collection[int]
) -> list[Shot]:
    """Split a file's frames into shots.

    Args:
        times: Timestamp of every frame, seconds (n,).
        durations: Duration of every frame by itself, seconds (n,).
        cuts: Indices of the first frames after hard cuts. The frame before a cut is shown up to the cut.
        breaks: Indices of the first frames after lost ones. The frame before a break is shown for its own
            duration.
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
    """Divide a shot into consecutive windows of `num_frames` frames, resampled to `fps`.

    Frame k of a window is the source frame that is shown at the window's start + k/fps. A window starts at a
    frame's timestamp, lies completely within the shot, and shares no frame with the next one. The remainder
    of the shot is not used.

    Args:
        times: Timestamp of every frame of the file, seconds (n,).
        shot: The shot to divide.
        fps: Frames per second to sample at.
        num_frames: Frames per window.

    Returns:
        For each window, the indices of its frames in the file.
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
    """Runs PySceneDetect's ContentDetector and AdaptiveDetector on frames that PyAV decoded.

    Cuts are reported as indices of decoded frames. The detectors' minimum scene length is 0, so that cuts
    close to each other are found. At most two downscaled frames are kept in memory.

    Repeats of a frame are skipped, up to `MAX_REPEATS`. The AdaptiveDetector compares the change at a frame
    with the changes just before and after it. In animation that holds each drawing for two to four frames, it
    would take every new drawing for a cut.
    """

    def __init__(self, content_threshold: float, adaptive_threshold: float) -> None:
        from scenedetect.detectors import AdaptiveDetector, ContentDetector

        content = ContentDetector(threshold=content_threshold, min_scene_len=0)
        adaptive = AdaptiveDetector(adaptive_threshold=adaptive_threshold, min_scene_len=0)
        self.detectors = (content, adaptive)
        # The AdaptiveDetector needs this many frames on each side of the frame that it judges. The first and
        # the last frame are repeated so often, so that frames near both ends of the file are judged too.
        self.margin = adaptive.window_width
        self.height = 0  # of the first frame: the detectors need frames of one size
        self.index = -1
        self.repeats = 0
        self.picture: Any = None
        self.cuts: set[int] = set()

    def add(self, image: av.VideoFrame) -> None:
        """Process the next frame of the file."""
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
        """Return the index of the first frame after each cut. Call it once, after the last frame."""
        for late in range(1, self.margin + 1 if self.index >= 0 else 1):
            self._feed(self.index + late, self.picture)
        return self.cuts

    def _feed(self, index: int, picture: Any) -> None:
        from scenedetect import FrameTimecode

        self.picture = picture
        timecode = FrameTimecode(index + self.margin, fps=25.0)  # any fps: only the frame number counts
        for detector in self.detectors:
            self.cuts |= {cut.frame_num - self.margin for cut in detector.process_frame(timecode, picture)}


def _difference(a: Any, b: Any) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())
