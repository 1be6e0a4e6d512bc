"""Decodes video files frame by frame with PyAV.

Each frame has its timestamp from the file. Rotation is applied and pixels are made square. Packets that
cannot be decoded are counted.
"""

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
"""RGB frames, uint8: (F, H, W, 3), or a single frame, (H, W, 3)."""

LOCAL_ONLY = {"protocol_whitelist": "file"}
"""Allows FFmpeg local files only, so that a playlist among the footage cannot fetch from the network."""


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        index: Number of decoded frames before this one.
        time: Timestamp in seconds, from the file (FFmpeg's `pts_time`). A stream may start after 0.
        duration: Seconds that the frame is shown, from the file or from the average rate.
        lost_before: Number of packets (or pictures) since the previous frame that could not be decoded.
        image: The picture as stored: not rotated, pixels not square.
        pixel_aspect: Width over height of a stored pixel.
        reformatter: Shared by all frames of one pass, because creating one costs as much as converting a
            frame. Use the frames of one pass in one thread at a time.
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
        """Return the upright picture with square pixels, (H, W, 3).

        Args:
            height: Height of the result. Default: the height of the picture.
            width: Width of the result. Default: the width of the picture with square pixels. The picture is
                resized to cover (height, width) and then center-cropped.
            crop: Stored pixels to remove from the top, right, bottom and left of the upright picture before
                resizing.

        Raises:
            CastmixError: The crop leaves no pixels.
        """
        image, aspect = _upright(self.image, self.pixel_aspect, crop)
        size = height or image.height, width or max(1, round(image.width * aspect))
        return resize_and_crop_image(image, aspect, *size, reformatter=self.reformatter)


class VideoReader:
    """Iterates once over the frames of a file's first video stream, with constant memory.

    After a packet that cannot be decoded, frames are dropped up to the next key frame, because they are
    predicted from a picture that is missing.

    Attributes:
        fps: The average frame rate; 25 if the file does not state one.
        lost: Number of packets (or pictures) so far that could not be decoded.
        failure: The error that ended the reading early, or None.

    Raises:
        CastmixError: The file cannot be opened, is not a media file, or has no video stream.
    """

    def __init__(self, path: Path) -> None:
        import av

        self.path = Path(path)
        self.lost = 0
        self.failure: str | None = None
        self._last_packet = -math.inf
        try:
            # Without "file:", FFmpeg takes the part before a colon for a protocol: "S01:E02.mp4".
            self.container = av.open(f"file:{path}", options=LOCAL_ONLY, metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            raise CastmixError(f"{path} cannot be read as a video: {error.strerror}") from error
        streams = [
            s for s in self.container.streams.video if not s.disposition & av.stream.Disposition.attached_pic
        ]
        # FFmpeg opens any .txt file as a video of a teletype screen.
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
        """Return the seconds of video that the file declares after `end`, the end of the last decoded frame.

        A truncated file often ends without any error; this detects it. Call it after the last frame.
        """
        if self.stream.duration and self.stream.time_base:
            start = self.stream.start_time or 0
            return float((start + self.stream.duration) * self.stream.time_base) - end
        if tag := self.stream.metadata.get("DURATION"):  # Matroska
            hours, minutes, seconds = tag.split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - end
        if self.container.duration:
            # The container's duration is that of its longest stream, which may be the audio.
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
        """Yield the packets of the video stream. Other packets only update the time of the last packet."""
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
    """Rotate the stored picture upright, composite transparency onto white and crop.

    Returns the picture and the aspect ratio of its pixels.
    """
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
            f"a crop of {top},{right},{bottom},{left} (top,right,bottom,left) leaves nothing of "
            f"{width}x{height} pixels: crop less"
        )
    pixels = np.ascontiguousarray(pixels[top : height - bottom, left : width - right])
    return av.VideoFrame.from_ndarray(pixels, "rgb24"), pixel_aspect


def _orientation(image: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Return how to display a picture: (swap its axes, then mirror left-right, then flip top-bottom)."""
    from av.sidedata.sidedata import Type

    data: Any = image.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    if data is None:
        return False, False, False
    # The stored pixel (x, y) is displayed at (a·x + c·y, b·x + d·y); 16.16 fixed point.
    a, b, _, c, d = np.frombuffer(data, np.int32, count=5)
    if abs(b) > abs(a):
        return True, bool(c < 0), bool(b < 0)
    return False, bool(a < 0), bool(d < 0)


def resize_and_crop_image(
    image: av.VideoFrame, pixel_aspect: float, height: int, width: int, *, reformatter: VideoReformatter
) -> Frames:
    """Resize a picture to cover (height, width) with square pixels and center-crop it: (H, W, 3)."""
    from av.video.reformatter import Interpolation

    scale = max(height / image.height, width / (image.width * pixel_aspect))
    scaled_height = max(height, round(image.height * scale))
    scaled_width = max(width, round(image.width * pixel_aspect * scale))
    size, scaled = (image.height, image.width), (scaled_height, scaled_width)
    smaller = scaled != size and scaled_height <= image.height and scaled_width <= image.width
    kernel = Interpolation.AREA if smaller else Interpolation.BICUBIC  # neither aliases in swscale
    # swscale's fast default darkens a picture by more than one level and shows blocks in the chroma.
    flags = kernel | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    # swscale's planar path gives the same values as the packed one (rgb24) in a third of the time.
    planar = reformatter.reformat(image, scaled_width, scaled_height, "gbrp", interpolation=flags)
    pixels = planar.to_ndarray()
    top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
    return np.ascontiguousarray(pixels[top : top + height, left : left + width], dtype=np.uint8)
