"""Assigns the frames of a source video to clips and lists the parts that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolkit.core.errors import CastmixError
from toolkit.footage.decoding import VideoReader
from toolkit.footage.shots import ShotDetection, clip_windows, detect_shots
from toolkit.footage.source_records import SourceRecord, path_text


@dataclass(frozen=True)
class ClipSettings:
    """Settings that all clips of a folder share."""

    fps: float
    num_frames: int
    height: int
    width: int
    crop: tuple[int, int, int, int]
    content_threshold: float
    adaptive_threshold: float

    @property
    def seconds(self) -> float:
        """Length of a clip in seconds."""
        return self.num_frames / self.fps


def plan_clips(source: Path, fingerprint: str, name: str, settings: ClipSettings) -> SourceRecord:
    """Find the shots of a source and assign its frames to clips.

    A source that cannot be read gives a record without clips.

    Args:
        source: The video file.
        fingerprint: Fingerprint of its content.
        name: Prefix of the clips' ids.
        settings: Settings of the clips.
    """
    record = SourceRecord(name, path_text(source), fingerprint, 0.0, [], [])
    try:
        with VideoReader(source) as reader:
            for frame in reader:
                frame.rgb(crop=settings.crop)  # raises if the crop leaves nothing
                break
        found = detect_shots(
            source,
            content_threshold=settings.content_threshold,
            adaptive_threshold=settings.adaptive_threshold,
        )
    except CastmixError as error:
        return replace(record, rejected=[rejected_row(None, None, "unreadable", str(error))])
    clips, rejected = [], _damage(found)
    for number, shot in enumerate(found.shots):
        times = found.times
        picks = clip_windows(times, shot, settings.fps, settings.num_frames)
        if not picks:
            last = float(times[shot.stop - 1])
            rejected.append(rejected_row(shot.start, last, "shot too short", round(shot.end - shot.start, 3)))
        for window, frames in enumerate(picks):
            start, end = (round(float(times[frame]), 6) for frame in (frames[0], frames[-1]))
            clip_id = f"{name}_s{number:03d}_w{window:03d}"
            clips.append({"id": clip_id, "shot": number, "start": start, "end": end, "frames": frames})
    return replace(record, source_fps=round(found.fps, 3), clips=clips, rejected=rejected)


def _damage(found: ShotDetection) -> list[dict[str, Any]]:
    """Return the rows of rejected.jsonl for the parts of a file that cannot be decoded."""
    rows = [rejected_row(span.start, span.end, "damaged", span.packets) for span in found.undecoded]
    if not found.shots:
        return [*rows, rejected_row(None, None, "unreadable", found.failure or "no frame can be decoded")]
    end = found.shots[-1].end
    if found.missing:
        rows.append(rejected_row(end, end + found.missing, "truncated", round(found.missing, 3)))
    elif found.failure:
        rows.append(rejected_row(end, None, "truncated", found.failure))
    return rows


def rejected_row(start: float | None, end: float | None, reason: str, value: float | str) -> dict[str, Any]:
    """Return a row of rejected.jsonl, without the source. Times are in seconds."""
    moments = (None if moment is None else round(moment, 6) for moment in (start, end))
    return dict(zip(("start", "end"), moments, strict=True)) | {"reason": reason, "value": value}
