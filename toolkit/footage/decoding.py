"""Decode video with PyAV: one frame at a time, true timestamps, upright, square pixels, damage counted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from toolkit.core.errors import CastmixError

if TYPE_CHECKING:
    import av
    from av.video.reformatter import VideoReformatter

Frames = NDArray[np.uint8]
"""Pictures, uint8, RGB: (F, H, W, 3), or one of them, (H, W, 3)."""

LOCAL_ONLY = {"protocol_whitelist": "file"}
"""A playlist among the footage must not make FFmpeg fetch from the network."""


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        index: Number of decoded frames before it.
        time: Seconds, as the file stamps it (FFmpeg's `pts_time`: a stream may start after 0).
        duration: Seconds it is shown for, as the file says or by the average rate.
        lost_before: Packets (or pictures) between the frame before and this one that could not be decoded.
        image: The stored picture, neither upright nor with square pixels.
        pixel_aspect: Width over height of a stored pixel.
        convert: Shared by the frames of one pass, as setting it up costs as much as converting a frame; so
            they are for one thread at a time.
    """

    index: int
    time: float
    duration: float
    lost_before: int
    image: av.VideoFrame
    pixel_aspect: float
    reformatter: VideoReformatter

    def rgb(
        self,
        height: int | None = None,
        width: int | None = None,
        crop: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> Frames:
        """The upright picture with square pixels, (H, W, 3).

        Args:
            height: Height to resize to; by default the picture's own.
            width: Width to resize to. The picture covers (height, width) and is cut around its centre.
            crop: Stored pixels to take off the top, right, bottom and left of the upright picture, before.

        Raises:
            CastmixError: The crop leaves nothing.
        """
        image, aspect = _upright(self.image, self.pixel_aspect, crop)
        size = height or image.height, width or max(1, round(image.width * aspect))
        return resize_and_crop_image(image, aspect, *size, reformatter=self.reformatter)


class VideoReader:
    """One pass over the first video stream of a file, one frame at a time, whatever the length of the file.

    After a packet that cannot be decoded, frames are dropped up to the next key frame: they would be drawn on
    top of a picture that is not there.

    Attributes:
        fps: The average frame rate, 25 where the file does not tell.
        lost: How many packets (or pictures) could not be decoded so far.
        failure: What ended the reading early, or None.

    Raises:
        CastmixError: The file cannot be opened, is no media file, or has no video stream.
    """

    def __init__(self, path: Path) -> None:
        import av

        self.path = Path(path)
        self.lost = 0
        self.failure: str | None = None
        self._last_packet = -math.inf
        try:
            # "file:" keeps FFmpeg from reading a protocol into a name like "S01:E02.mp4"
            self.container = av.open(f"file:{path}", options=LOCAL_ONLY, metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            raise CastmixError(f"{path} cannot be read as a video: {error.strerror}") from error
        streams = [
            s for s in self.container.streams.video if not s.disposition & av.stream.Disposition.attached_pic
        ]
        # FFmpeg draws any .txt as a teletype's screen
        if not streams or streams[0].codec_context is None or self.container.format.name == "tty":
            self.container.close()
            raise CastmixError(f"{path} has no video stream that can be decoded")
        self.stream = streams[0]
        self.fps = float(self.stream.average_rate or 25)
        self.pixel_aspect = float(self.stream.sample_aspect_ratio or 1) or 1.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def __iter__(self) -> Iterator[Frame]:
        from av.video.reformatter import VideoReformatter

        reformatter = VideoReformatter()
        index, known_lost, last = 0, 0, -1 / self.fps
        for image in self._images():
            if self.lost > known_lost and not image.key_frame:
                continue
            time = image.time if image.time is not None else last + 1 / self.fps
            duration = float((image.duration or 0) * (image.time_base or 0)) or 1 / self.fps
            yield Frame(index, time, duration, self.lost - known_lost, image, self.pixel_aspect, reformatter)
            index, known_lost, last = index + 1, self.lost, time

    def missing_after(self, end: float) -> float:
        """Seconds of video that the file declares after `end`, the end of its last decoded frame.

        A file cut short often ends without any error: only this tells. Call it after the last frame.
        """
        if self.stream.duration and self.stream.time_base:
            start = self.stream.start_time or 0
            return float((start + self.stream.duration) * self.stream.time_base) - end
        if tag := self.stream.metadata.get("DURATION"):  # Matroska
            hours, minutes, seconds = tag.split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - end
        if self.container.duration:
            # of the longest stream, which may be the sound
            declared = (self.container.duration + (self.container.start_time or 0)) / 1e6
            return declared - max(end, self._last_packet)
        return 0.0

    def _images(self) -> Iterator[av.VideoFrame]:
        import av

        for packet in self._packets():
            if packet.is_corrupt:
                self.lost += 1
                continue
            try:
                images = packet.decode()
            except av.FFmpegError:
                self.lost += 1
                continue
            for image in images:
                if image.is_corrupt:
                    self.lost += 1
                else:
                    yield image

    def _packets(self) -> Iterator[av.Packet[av.VideoStream]]:
        """Packets of the video stream. The others are only looked at for how far the file goes."""
        import av

        packets = self.container.demux()
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                self.failure = error.strerror
                return
            if packet is None:
                return
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self._last_packet = max(self._last_packet, end)
            if packet.stream is self.stream:
                yield cast("av.Packet[av.VideoStream]", packet)


def _upright(
    image: av.VideoFrame, pixel_aspect: float, crop: tuple[int, int, int, int]
) -> tuple[av.VideoFrame, float]:
    """Turn the stored picture upright, put what is transparent on white, cut the crop off."""
    import av

    transpose, mirror, flip = _orientation(image)
    transparent = image.format.has_palette or any(part.is_alpha for part in image.format.components)
    if not (transpose or mirror or flip or transparent or any(crop)):
        return image, pixel_aspect
    pixels: NDArray[Any] = image.to_ndarray(format="rgba" if transparent else "rgb24")
    if transparent:
        alpha = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    if transpose:
        pixels, pixel_aspect = pixels.swapaxes(0, 1), 1 / pixel_aspect
    pixels = pixels[:: -1 if flip else 1, :: -1 if mirror else 1]
    height, width, _ = pixels.shape
    top, right, bottom, left = crop
    if top + bottom >= height or left + right >= width:
        raise CastmixError(
            f"a crop of {top},{right},{bottom},{left} leaves nothing of {width}x{height} pixels"
        )
    pixels = np.ascontiguousarray(pixels[top : height - bottom, left : width - right])
    return av.VideoFrame.from_ndarray(pixels, "rgb24"), pixel_aspect


def _orientation(image: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How to show a picture: swap its axes, then mirror left-right, then flip top-bottom."""
    from av.sidedata.sidedata import Type

    data: Any = image.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    if data is None:
        return False, False, False
    # a stored (x, y) is shown at (a·x + c·y, b·x + d·y), 16.16 fixed point
    a, b, _, c, d = np.frombuffer(data, np.int32, count=5)
    if abs(b) > abs(a):
        return True, bool(c < 0), bool(b < 0)
    return False, bool(a < 0), bool(d < 0)


def resize_and_crop_image(
    image: av.VideoFrame, pixel_aspect: float, height: int, width: int, *, reformatter: VideoReformatter
) -> Frames:
    """Resize a picture to cover (height, width), pixel aspect undone, and cut at its centre: (H, W, 3)."""
    from av.video.reformatter import Interpolation

    scale = max(height / image.height, width / (image.width * pixel_aspect))
    scaled_height = max(height, round(image.height * scale))
    scaled_width = max(width, round(image.width * pixel_aspect * scale))
    size, scaled = (image.height, image.width), (scaled_height, scaled_width)
    smaller = scaled != size and scaled_height <= image.height and scaled_width <= image.width
    kernel = Interpolation.AREA if smaller else Interpolation.BICUBIC  # neither aliases in swscale
    # swscale's quick default darkens a picture by more than one level and blocks its colour
    flags = kernel | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    # swscale's planar path gives the same levels as the packed one (rgb24) in a third of the time
    planar = reformatter.reformat(image, scaled_width, scaled_height, "gbrp", interpolation=flags)
    pixels = planar.to_ndarray()
    top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
    return np.ascontiguousarray(pixels[top : top + height, left : left + width], dtype=np.uint8)
