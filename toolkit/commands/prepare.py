"""prepare: footage in, clips of one shot each out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file, write_jsonl
from toolkit.core.progress import say, track
from toolkit.footage.clip_plan import ClipSettings, plan_clips, rejected_row
from toolkit.footage.clips import Clip, adopt_edits, read_clips, write_clip, write_index
from toolkit.footage.decoding import Frame, Frames, VideoReader
from toolkit.footage.source_records import (
    SourceRecord,
    delete_outdated,
    find_sources,
    open_records,
    path_text,
    unique_name,
    write_record,
)
from toolkit.footage.video import write_video

REJECTED = "rejected.jsonl"
COMPOSITES = "composite.json"
"""A folder with this file belongs to `castmix composite`."""


def prepare(
    footage: list[Path],
    out: Path,
    *,
    fps: float = 16.0,
    num_frames: int = 81,
    height: int = 480,
    width: int = 832,
    crop: tuple[int, int, int, int] = (0, 0, 0, 0),
    content_threshold: float = 27.0,
    adaptive_threshold: float = 3.0,
) -> list[Clip]:
    """Cut footage into clips of one shot each: H.264 mp4 without sound, consecutive windows within a shot.

    Frame k of a clip is the source frame shown at start + k/fps, whatever the source's frame rate. `start`
    and `end` of a clip are the source timestamps of its first and last frame (FFmpeg's `pts_time`). The rest
    of a shot after its last whole window is not used.

    Writes, below `out`: `clips/<id>.mp4` and `.json`, `metadata.jsonl`, `rejected.jsonl` (unused parts of the
    footage with the reason), `prepare.json` (the settings) and `sources/` (the frames of each clip). A second
    run makes only what is missing.

    Args:
        footage: Video files, or folders of them; with --num-frames 1 also pictures.
        out: Folder for the clips.
        fps: Frames per second of the clips.
        num_frames: Frames per clip, 4k+1 for Wan's VAE. With 1, each picture becomes a clip of one frame;
            train on that folder together with one of moving clips.
        height: Height of the clips in pixels.
        width: Width of the clips in pixels. Frames are resized to cover height x width without stretching,
            then cropped around the centre.
        crop: Pixels to cut off first at the top, right, bottom and left (black bars, a logo), at the source's
            resolution.
        content_threshold: Threshold of PySceneDetect's ContentDetector.
        adaptive_threshold: Threshold of its AdaptiveDetector, which compares a change with its surroundings.

    Returns:
        The clips of this footage, sorted by id.

    Raises:
        CastmixError: A wrong setting or path, settings that differ from those of `out`, or no clip at all
            (after rejected.jsonl was written).
    """
    settings = ClipSettings(fps, num_frames, height, width, crop, content_threshold, adaptive_threshold)
    _check(settings)
    out = Path(out)
    _refuse_composites(out)
    sources, empty = find_sources(footage, out, images=num_frames == 1)
    rejected = [
        {"source": path_text(folder), **rejected_row(None, None, "no video files", 0)} for folder in empty
    ]
    known = open_records(out, asdict(settings))
    adopt_edits(out)  # before metadata.jsonl is written anew
    made: set[str] = set()
    try:
        _cut_all(sources, out, settings, known, made, rejected)
    finally:  # also after Ctrl-C
        _write_rejected(out, {path_text(path) for path in [*sources, *map(Path, footage)]}, rejected)
        write_index(out)
    return _report(out, settings, len(sources), made, rejected)


def _refuse_composites(out: Path) -> None:
    if (out / COMPOSITES).exists():
        raise CastmixError(
            f"{out} holds composites ({COMPOSITES}): give clips of footage a folder of their own, --out"
        )


def _cut_all(
    sources: Sequence[Path],
    out: Path,
    settings: ClipSettings,
    known: dict[str, SourceRecord],
    made: set[str],
    rejected: list[dict[str, Any]],
) -> None:
    """Write the missing clips of all sources. Adds to `made` (clip ids) and `rejected` (rows) on the way."""
    done: dict[str, Path] = {}
    for number, source in enumerate(sources, 1):
        record, row = _look_up(source, out, settings, known, done)
        rows = [row] if row else []
        if record:
            done[record.fingerprint] = source
            made |= {str(clip["id"]) for clip in record.clips}
            rows = record.rejected
        rejected += [{"source": path_text(source), **row} for row in rows]
        say(f"[{number}/{len(sources)}] {source}: {_summary(record, rows)}")
        if record:
            _cut(source, record, out, settings)


def _report(
    out: Path, settings: ClipSettings, files: int, made: set[str], rejected: Sequence[Mapping[str, Any]]
) -> list[Clip]:
    """Say how many clips there are, and return them."""
    where = out / REJECTED
    if not made:
        raise CastmixError(
            f"no clip of {settings.num_frames} frames at {settings.fps:g} fps ({settings.seconds:.2f} s) "
            f"came out of {files} file{'s' * (files != 1)}: see {where}"
        )
    say(f"{len(made)} clips in {out / 'clips'}, {len(rejected)} rows in {where}")
    return [clip for clip in read_clips(out) if clip.id in made]


def _check(settings: ClipSettings) -> None:
    """Refuse impossible settings."""
    if settings.num_frames < 1 or settings.num_frames % 4 != 1:
        below = max(1, (settings.num_frames - 1) // 4 * 4 + 1)
        raise CastmixError(f"num_frames must be 4k+1, got {settings.num_frames}: use {below} or {below + 4}")
    for name, size in (("height", settings.height), ("width", settings.width)):
        if size < 2 or size % 2:
            below = max(2, size - size % 2)
            raise CastmixError(f"{name} must be even for H.264, got {size}: use {below} or {below + 2}")
    if not 0 < settings.fps <= 120:
        raise CastmixError(f"fps must be above 0 and at most 120, got {settings.fps:g}")
    if len(settings.crop) != 4 or min(settings.crop) < 0:
        raise CastmixError(f"crop must be four numbers of pixels T,R,B,L, 0 or more, got {settings.crop}")


def _look_up(
    source: Path, out: Path, settings: ClipSettings, known: dict[str, SourceRecord], done: dict[str, Path]
) -> tuple[SourceRecord | None, dict[str, Any] | None]:
    """The record of a source, made if it is new; or the row of rejected.jsonl for a source without one."""
    try:
        if not source.stat().st_size:
            return None, rejected_row(None, None, "empty file", 0)
        fingerprint = fingerprint_file(source)
    except OSError as error:
        return None, rejected_row(None, None, "unreadable", error.strerror or str(error))
    if fingerprint in done:
        return None, rejected_row(None, None, "duplicate", path_text(done[fingerprint]))
    record = known.get(fingerprint)
    if record is None:
        delete_outdated(out, known, path_text(source))
        record = plan_clips(source, fingerprint, unique_name(source, known), settings)
    elif record.source == path_text(source):
        return record, None
    record = replace(record, source=path_text(source))  # it may have been moved
    known[fingerprint] = record
    write_record(out, record)
    return record, None


def _cut(source: Path, record: SourceRecord, out: Path, settings: ClipSettings) -> None:
    """Write the missing clips of a source."""
    paths = {clip["id"]: out / "clips" / f"{clip['id']}.mp4" for clip in record.clips}
    missing = [clip for clip in record.clips if not _is_complete(paths[clip["id"]])]
    if not missing:
        return
    with VideoReader(source) as reader:
        frames = iter(reader)
        for clip in track(missing, f"{source.name}: writing clips"):
            path = paths[clip["id"]]
            if not path.exists():
                write_video(path, _pick(frames, clip["frames"], settings, source), settings.fps)
            if not path.with_suffix(".json").exists():  # it may hold a caption
                write_clip(out, _describe(path, clip, record, settings))


def _is_complete(path: Path) -> bool:
    return path.exists() and path.with_suffix(".json").exists()


def _describe(path: Path, clip: Mapping[str, Any], record: SourceRecord, settings: ClipSettings) -> Clip:
    return Clip(
        path=path,
        text="",
        source=record.source,
        start=clip["start"],
        end=clip["end"],
        fps=settings.fps,
        num_frames=settings.num_frames,
        width=settings.width,
        height=settings.height,
        shot=clip["shot"],
        extra={"source_fps": record.source_fps},
    )


def _pick(
    frames: Iterator[Frame], indices: list[int], settings: ClipSettings, source: Path
) -> Iterator[Frames]:
    """The frames at ascending indices, resized; an index given twice yields its frame twice."""
    times_shown = Counter(indices)
    for frame in frames:
        if shown := times_shown.pop(frame.index, 0):
            yield from [frame.rgb(settings.height, settings.width, settings.crop)] * shown
        if not times_shown:
            return
    raise CastmixError(f"{source} changed while it was being read: run the same command again")


def _summary(record: SourceRecord | None, rows: list[dict[str, Any]]) -> str:
    """The result of a source in a few words."""
    clips = len(record.clips) if record else 0
    words = [f"{clips} clip{'s' * (clips != 1)}"]
    for reason, count in Counter(row["reason"] for row in rows).items():
        value = next(row["value"] for row in rows if row["reason"] == reason)
        detail = f"{value:.2f} s" if isinstance(value, float) else str(value)
        words.append(f"{count} x {reason}" if count > 1 else f"{reason} ({detail})")
    return ", ".join(words)


def _write_rejected(out: Path, sources: set[str], rows: list[dict[str, Any]]) -> None:
    """Write rejected.jsonl: these rows, and the rows of earlier runs over other sources."""
    path = out / REJECTED
    earlier = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    kept = [row for row in earlier if row["source"] not in sources]
    write_jsonl(path, kept + rows)
