"""prepare: footage in, clips of one shot each out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file, write_atomic
from toolkit.core.progress import say, track
from toolkit.footage.clips import Clip, adopt_edits, read_clips, write_clip, write_index
from toolkit.footage.decoding import Frame, Frames, VideoReader
from toolkit.footage.shots import ShotDetection, clip_windows, detect_shots
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
"""What `castmix composite` leaves in its folders, whose indices are not prepare's."""


@dataclass(frozen=True)
class _Settings:
    """What decides how the clips of a folder come out."""

    fps: float
    num_frames: int
    height: int
    width: int
    crop: tuple[int, int, int, int]
    content_threshold: float
    adaptive_threshold: float

    @property
    def seconds(self) -> float:
        return self.num_frames / self.fps


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
    """Cut footage into clips of one shot each: H.264 mp4, no sound, consecutive windows within a shot.

    Frame k of a clip is the source frame that is shown at start + k/fps, so footage of a variable rate stays
    in time and a low rate repeats frames. `start` and `end` of a clip are the timestamps in the source of its
    first and last frame (FFmpeg's `pts_time`). What a shot has left after its last whole window is not used.

    Writes, below `out`: `clips/<id>.mp4` and `.json`, `metadata.jsonl`, `rejected.jsonl` (what could not be
    used: source, start, end, reason, value), `prepare.json` (the settings) and `sources/` (which frames made
    which clip). Running it again makes only what is missing.

    Args:
        footage: Video files, and folders to look for them in; see num_frames for pictures.
        out: Folder for the clips.
        fps: Frames a second of the clips.
        num_frames: Frames in a clip: 4k+1, as Wan's VAE takes them. With 1, pictures are taken, too, as
            clips of one frame: train on that folder beside one of moving clips.
        height: Height of the clips in pixels.
        width: Width of the clips. Pictures are resized to cover height x width, never stretched, and cut
            around their centre.
        crop: Pixels to take off the top, right, bottom and left first, of the upright picture in its stored
            resolution (bands, a burnt-in logo).
        content_threshold: PySceneDetect's ContentDetector cuts where a picture changes by this much.
        adaptive_threshold: Its AdaptiveDetector cuts where one changes this many times more than those
            beside it.

    Returns:
        The clips of this footage, sorted by id.

    Raises:
        CastmixError: A setting or path that is wrong, other settings than `out` was made with, or no clip
            at all (after rejected.jsonl was written).
    """
    settings = _Settings(fps, num_frames, height, width, crop, content_threshold, adaptive_threshold)
    _check(settings)
    out = Path(out)
    if (out / COMPOSITES).exists():
        raise CastmixError(
            f"{out} holds composites ({COMPOSITES}): give clips of footage a folder of their own, --out"
        )
    sources, empty = find_sources(footage, out, images=num_frames == 1)
    rejected = [{"source": path_text(folder), **_row(None, None, "no video files", 0)} for folder in empty]
    known = open_records(out, asdict(settings))
    adopt_edits(out)  # before metadata.jsonl is written anew
    made: set[str] = set()
    done: dict[str, Path] = {}
    try:
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
    finally:  # after Ctrl-C, too, the indices tell what is there
        _write_rejected(out, {path_text(path) for path in [*sources, *map(Path, footage)]}, rejected)
        write_index(out)
    where = out / REJECTED
    if not made:
        raise CastmixError(
            f"no clip of {num_frames} frames at {fps:g} fps ({settings.seconds:.2f} s) came out of "
            f"{len(sources)} file{'s' * (len(sources) != 1)}: see {where}"
        )
    say(f"{len(made)} clips in {out / 'clips'}, {len(rejected)} rows in {where}")
    return [clip for clip in read_clips(out) if clip.id in made]


def _check(settings: _Settings) -> None:
    """Refuse settings that no video can meet."""
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
    source: Path, out: Path, settings: _Settings, known: dict[str, SourceRecord], done: dict[str, Path]
) -> tuple[SourceRecord | None, dict[str, Any] | None]:
    """What is known of a source, surveying it if need be; or the row that says why nothing is."""
    try:
        if not source.stat().st_size:
            return None, _row(None, None, "empty file", 0)
        fingerprint = fingerprint_file(source)
    except OSError as error:
        return None, _row(None, None, "unreadable", error.strerror or str(error))
    if fingerprint in done:
        return None, _row(None, None, "duplicate", path_text(done[fingerprint]))
    record = known.get(fingerprint)
    if record is None:
        delete_outdated(out, known, path_text(source))
        record = _plan(source, fingerprint, unique_name(source, known), settings)
    elif record.source == path_text(source):
        return record, None
    record = replace(record, source=path_text(source))  # it may have been moved
    known[fingerprint] = record
    write_record(out, record)
    return record, None


def _plan(source: Path, fingerprint: str, name: str, settings: _Settings) -> SourceRecord:
    """Survey a source and decide which of its frames make which clip."""
    record = SourceRecord(name, path_text(source), fingerprint, 0.0, [], [])
    try:
        with VideoReader(source) as reader:
            for frame in reader:
                frame.rgb(crop=settings.crop)  # a crop that leaves nothing is found here
                break
        found = detect_shots(
            source,
            content_threshold=settings.content_threshold,
            adaptive_threshold=settings.adaptive_threshold,
        )
    except CastmixError as error:
        return replace(record, rejected=[_row(None, None, "unreadable", str(error))])
    clips, rejected = [], _damage(found)
    for number, shot in enumerate(found.shots):
        times = found.times
        picks = clip_windows(times, shot, settings.fps, settings.num_frames)
        if not picks:
            last = float(times[shot.stop - 1])
            rejected.append(_row(shot.start, last, "shot too short", round(shot.end - shot.start, 3)))
        for window, frames in enumerate(picks):
            start, end = (round(float(times[frame]), 6) for frame in (frames[0], frames[-1]))
            clip_id = f"{name}_s{number:03d}_w{window:03d}"
            clips.append({"id": clip_id, "shot": number, "start": start, "end": end, "frames": frames})
    return replace(record, source_fps=round(found.fps, 3), clips=clips, rejected=rejected)


def _damage(found: ShotDetection) -> list[dict[str, Any]]:
    """Rows for the parts of a file that are not there."""
    rows = [_row(span.start, span.end, "damaged", span.packets) for span in found.undecoded]
    if not found.shots:
        return [*rows, _row(None, None, "unreadable", found.failure or "no frame can be decoded")]
    end = found.shots[-1].end
    if found.missing:
        rows.append(_row(end, end + found.missing, "truncated", round(found.missing, 3)))
    elif found.failure:
        rows.append(_row(end, None, "truncated", found.failure))
    return rows


def _cut(source: Path, record: SourceRecord, out: Path, settings: _Settings) -> None:
    """Write those clips of a source that are not there yet."""
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


def _describe(path: Path, clip: Mapping[str, Any], record: SourceRecord, settings: _Settings) -> Clip:
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


def _pick(frames: Iterator[Frame], indices: list[int], settings: _Settings, source: Path) -> Iterator[Frames]:
    """Pictures of the frames at ascending indices; one that is named twice comes twice."""
    times_shown = Counter(indices)
    for frame in frames:
        if shown := times_shown.pop(frame.index, 0):
            yield from [frame.rgb(settings.height, settings.width, settings.crop)] * shown
        if not times_shown:
            return
    raise CastmixError(f"{source} changed while it was being read: run the same command again")


def _summary(record: SourceRecord | None, rows: list[dict[str, Any]]) -> str:
    """A few words on what comes out of a source."""
    clips = len(record.clips) if record else 0
    words = [f"{clips} clip{'s' * (clips != 1)}"]
    for reason, count in Counter(row["reason"] for row in rows).items():
        value = next(row["value"] for row in rows if row["reason"] == reason)
        detail = f"{value:.2f} s" if isinstance(value, float) else str(value)
        words.append(f"{count} x {reason}" if count > 1 else f"{reason} ({detail})")
    return ", ".join(words)


def _row(start: float | None, end: float | None, reason: str, value: float | str) -> dict[str, Any]:
    """A row of rejected.jsonl but for its source."""
    moments = (None if moment is None else round(moment, 6) for moment in (start, end))
    return dict(zip(("start", "end"), moments, strict=True)) | {"reason": reason, "value": value}


def _write_rejected(out: Path, sources: set[str], rows: list[dict[str, Any]]) -> None:
    """Write rejected.jsonl: these rows, and those of earlier runs over other sources."""
    path = out / REJECTED
    earlier = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    kept = [row for row in earlier if row["source"] not in sources]
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept + rows))
