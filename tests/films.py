"""Small films whose frames tell their own number, for the tests of video, shots and prepare."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS = 12
GROUNDS = [(40, 20, 20), (60, 230, 240), (200, 30, 200), (240, 240, 90), (20, 120, 20)]


def picture(number: int, shot: int = 0, height: int = 64, width: int = 96) -> np.ndarray:
    """Upper half: the number in Gray code, so that neighbours look alike. Lower half: the shot's colour."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = GROUNDS[shot % len(GROUNDS)]
    gray = number ^ (number >> 1)
    for bit in range(BITS):
        level = 160 if gray >> bit & 1 else 96
        left, right = width * bit // BITS, width * (bit + 1) // BITS
        image[: height // 2, left:right] = level
    return image


def number_of(image: np.ndarray) -> int:
    """The number that a picture shows, at any size."""
    height, width = image.shape[:2]
    row = image[: height // 2].mean(axis=(0, 2))
    gray = sum(
        1 << bit
        for bit in range(BITS)
        if row[width * bit // BITS : width * (bit + 1) // BITS][1:-1].mean() > 128
    )
    number = 0
    while gray:
        number, gray = number ^ gray, gray >> 1
    return number


def shot_of(image: np.ndarray) -> int:
    """The shot whose colour a picture shows."""
    ground = image[image.shape[0] * 3 // 4].mean(axis=0)
    return int(np.argmin([np.abs(ground - colour).sum() for colour in GROUNDS]))


def film(
    path: Path,
    times: Sequence[float],
    cuts: Sequence[int] = (),
    size: tuple[int, int] = (64, 96),
    **options: Any,
) -> Path:
    """Write frames 0, 1, … with these timestamps (seconds); a new shot begins at each frame of `cuts`."""
    shots = np.searchsorted(cuts, np.arange(len(times)), side="right")
    frames = [picture(number, int(shots[number]), *size) for number in range(len(times))]
    return write(path, frames, times, **options)


def write(
    path: Path,
    frames: Sequence[np.ndarray],
    times: Sequence[float],
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    time_base: Fraction = Fraction(1, 90000),
    aspect: Fraction | None = None,
    encoder: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    source_format: str = "rgb24",
    rate: int = 30,
) -> Path:
    """Write frames with these timestamps through PyAV alone: the container is the suffix's."""
    settings = {"crf": "8", "preset": "ultrafast"} if codec == "libx264" else {}
    with av.open(f"file:{path}", "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=settings | (encoder or {}))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = time_base
        stream.time_base = time_base
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for frame, time in zip(frames, times, strict=True):
            image = av.VideoFrame.from_ndarray(frame, source_format).reformat(format=pixel_format)
            image.pts, image.time_base = round(time / time_base), time_base
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return path


def orient(path: Path, matrix: Sequence[int]) -> Path:
    """Give an mp4 the display matrix (a, b, c, d): a stored (x, y) is shown at (a·x + c·y, b·x + d·y)."""
    data = bytearray(path.read_bytes())
    a, b, c, d = matrix
    values = np.array([a, b, 0, c, d, 0, 0, 0, 0], ">i4") * 65536
    values[8] = 1 << 30
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = values.astype(">i4").tobytes()
    path.write_bytes(data)
    return path


def sound(path: Path, seconds: float = 1.0) -> Path:
    """Write a file with sound only."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        samples = np.zeros((1, int(16000 * seconds)), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
