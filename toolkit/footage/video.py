"""Reads and writes whole videos as uint8 RGB arrays (F, H, W, 3), upright and with square pixels. Uses PyAV.

`toolkit.footage.decoding` reads long files frame by frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.core.errors import CastmixError
from toolkit.core.files import partial_file
from toolkit.footage.decoding import Frames, VideoReader, resize_and_crop_image

if TYPE_CHECKING:
    import av
    from av.video.reformatter import VideoReformatter

MUXER_OPTIONS = {"movflags": "+faststart+use_metadata_tags", "fflags": "+bitexact"}
"""bitexact omits the muxer's version and the date."""

X264_OPTIONS = {"preset": "veryfast", "tune": "fastdecode", "threads": "1", "bf": "0", "mbtree": "0"}
"""Options for reproducible files that decode fast.

Clips are read more often than written: `fastdecode` halves the decoding time for 10 % larger files. One
thread gives the same bytes on any number of cores. Without B-frames (`bf`) the first timestamp is 0, for
readers that ignore edit lists. x264's macroblock tree (`mbtree`) is not deterministic: 1 of 100 clips
differed here, none of 480 without it.
"""


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video file.

    `width` and `height` are those of the upright picture with square pixels. `fps` is the average rate.
    `num_frames` is 0 and `duration` (seconds) is None if the file does not state them.
    """

    width: int
    height: int
    fps: float
    num_frames: int
    duration: float | None
    metadata: dict[str, str]


def probe(path: Path) -> VideoInfo:
    """Return the properties of a video file. Decodes one frame only.

    Raises:
        CastmixError: The file has no video that can be decoded.
    """
    with VideoReader(path) as reader:
        first = next(iter(reader), None)
        if first is None:
            raise CastmixError(f"{path} has no frame that can be decoded")
        height, width, _ = first.rgb().shape
        missing = reader.missing_after(first.time)
        metadata = dict(reader.container.metadata)
        return VideoInfo(width, height, reader.fps, reader.stream.frames, missing or None, metadata)


def read_video(path: Path) -> tuple[Frames, float]:
    """Read a whole (short) video: its frames (F, H, W, 3) and its average frame rate.

    Raises:
        CastmixError: The video cannot be read completely.
    """
    with VideoReader(path) as reader:
        frames = [frame.rgb() for frame in reader]
        if reader.lost or reader.failure or not frames:
            lost = f"{reader.lost} packets were lost" if frames else "no frame can be decoded"
            raise CastmixError(f"{path} is damaged: {reader.failure or lost}")
        return np.stack(frames), reader.fps


def write_video(
    path: Path,
    frames: Iterable[Frames],
    fps: float,
    metadata: Mapping[str, str] | None = None,
    *,
    crf: int = 12,
) -> None:
    """Write an H.264 yuv420p mp4, completely or not at all. Equal input gives equal bytes.

    Args:
        path: The file to write.
        frames: Frames (H, W, 3) uint8, one by one or as one array (F, H, W, 3). H and W are even.
        fps: Frames per second, stored exactly.
        metadata: Keys and texts to store. `probe(path).metadata` returns them.
        crf: Constant rate factor of x264. At 12, the result is hard to tell from the original.

    Raises:
        CastmixError: There are no frames, or their size is odd or changes.
    """
    import av
    from av.video.reformatter import VideoReformatter

    path = Path(path)
    reformatter = VideoReformatter()
    rate = Fraction(fps).limit_denominator(1001)
    with (
        partial_file(path) as partial,
        av.open(f"file:{partial}", "w", format="mp4", options=MUXER_OPTIONS) as container,
    ):
        container.metadata.update(metadata or {})
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), **X264_OPTIONS})
        number = -1
        for number, frame in enumerate(frames):
            if number == 0:
                _set_size(path, stream, frame)
            if frame.shape != (stream.height, stream.width, 3) or frame.dtype != np.uint8:
                raise CastmixError(
                    f"{path}: frame {number} is {frame.dtype} {frame.shape}, "
                    f"expected uint8 ({stream.height}, {stream.width}, 3)"
                )
            image = _to_yuv420p(frame, reformatter)
            image.pts, image.time_base = number, 1 / rate
            container.mux(stream.encode(image))
        if number < 0:
            raise CastmixError(f"{path}: there are no frames to write, expected at least one")
        container.mux(stream.encode())


def resize_and_crop(frames: Frames, height: int, width: int) -> Frames:
    """Resize frames (F, H, W, 3) to cover (height, width), aspect ratio kept, and center-crop them."""
    import av
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    images = (av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24") for frame in frames)
    return np.stack(
        [resize_and_crop_image(image, 1.0, height, width, reformatter=reformatter) for image in images]
    )


def contact_sheet(videos: Sequence[Frames], path: Path, columns: int = 8) -> None:
    """Write a PNG with one row per video, (F, H, W, 3) each: `columns` of its frames, evenly spaced."""
    import av

    height, width = videos[0].shape[1:3]
    picked = [video[np.linspace(0, len(video) - 1, columns).round().astype(int)] for video in videos]
    rows = [np.concatenate(list(resize_and_crop(frames, height, width)), axis=1) for frames in picked]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    av.VideoFrame.from_ndarray(np.concatenate(rows, axis=0), "rgb24").save(path)


def _to_yuv420p(frame: Frames, reformatter: VideoReformatter) -> av.VideoFrame:
    """Convert an RGB frame (H, W, 3) to BT.601 yuv420p with limited range."""
    import av
    from av.video.reformatter import Colorspace, Interpolation

    return reformatter.reformat(
        av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24"),
        format="yuv420p",
        dst_colorspace=Colorspace.SMPTE170M,
        dst_color_range="MPEG",
        interpolation=Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
    )


def _set_size(path: Path, stream: av.VideoStream, frame: Frames) -> None:
    """Set the stream's size to that of its first frame, and its pixel format and colour tags."""
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        raise CastmixError(
            f"{path}: H.264 with yuv420p needs an even height and width, got {height}x{width}: "
            f"use {height + height % 2}x{width + width % 2}"
        )
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    # BT.601 at every size, because readers that ignore the tag assume it.
    smpte170m = 6
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = smpte170m
    context.color_range = 1
