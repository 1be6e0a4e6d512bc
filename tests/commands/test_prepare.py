from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from films import film, number_of, orient, picture, shot_of, sound, write
from PIL import Image

from toolkit.commands.prepare import prepare
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip, read_clips, write_clip
from toolkit.footage.video import read_video, resize_and_crop

SMALL: dict[str, Any] = {"height": 64, "width": 96}
SHORT: dict[str, Any] = SMALL | {"num_frames": 9}


def every(seconds: float, rate: float, start: float = 0.0) -> list[float]:
    return [start + n / rate for n in range(round(seconds * rate))]


def rejected(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert all(list(row) == ["source", "start", "end", "reason", "value"] for row in rows)
    return rows


def reasons(out: Path) -> list[str]:
    return [row["reason"] for row in rejected(out)]


def files(out: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its content and its time of writing."""
    paths = sorted(path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def contents(out: Path) -> dict[str, bytes]:
    return {name: content for name, (content, _) in files(out).items()}


def decoded(path: Path) -> Iterator[av.VideoFrame]:
    """All frames that can be decoded, by PyAV alone."""
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            with contextlib.suppress(av.InvalidDataError):
                yield from packet.decode()


def times_of(path: Path) -> list[float]:
    return [float(frame.time or 0) for frame in decoded(path)]


def check_clip(clip: Clip, fps: float = 16.0) -> np.ndarray:
    """A clip is what its json says; returns its frames."""
    with av.open(str(clip.path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(fps)
        assert not container.streams.audio
    frames, rate = read_video(clip.path)
    assert frames.shape == (clip.num_frames, clip.height, clip.width, 3)
    assert rate == clip.fps == fps
    return frames


def check_timing(clip: Clip, times: list[float], shown: Iterator[int] | list[int]) -> None:
    """Frame k is the source frame on show at start + k/fps; `shown` are the numbers of the clip's frames."""
    for k, number in enumerate(shown):
        moment = clip.start + k / clip.fps
        following = times[number + 1] if number + 1 < len(times) else np.inf
        assert times[number] - 0.0021 <= moment < following + 0.0021, (clip.id, k, number)


# --- timing


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("rate", [8, 10, 16, 24, 30000 / 1001, 60])
def test_frames_are_picked_by_timestamp(tmp_path: Path, name: str, rate: float) -> None:
    times = every(3, rate)
    source = film(
        tmp_path / name, times, time_base=Fraction(1, 1000) if name == "a.mkv" else Fraction(1, 90000)
    )
    times = times_of(source)
    clips = prepare([source], tmp_path / "out", **SMALL, num_frames=21)
    assert len(clips) == 2
    for clip in clips:
        numbers = [number_of(frame) for frame in check_clip(clip)]
        check_timing(clip, times, numbers)
        assert clip.start == pytest.approx(times[numbers[0]], abs=1e-5)
        assert clip.end == pytest.approx(times[numbers[-1]], abs=1e-5)


def test_a_variable_rate_stays_in_time_wherever_the_file_starts(tmp_path: Path) -> None:
    steps = np.random.default_rng(0).choice([1 / 60, 1 / 24, 1 / 10, 0.4], 120, p=[0.3, 0.4, 0.2, 0.1])
    times = list(3.7 + np.cumsum(steps))
    source = film(tmp_path / "a.mkv", times, time_base=Fraction(1, 1000))
    clips = prepare([source], tmp_path / "out", **SMALL, num_frames=13)
    assert len(clips) >= 5
    for clip in clips:
        check_timing(clip, times, [number_of(frame) for frame in check_clip(clip)])


def test_frames_before_the_edit_list_are_skipped(tmp_path: Path) -> None:
    source = film(tmp_path / "a.mp4", every(3, 24), encoder={"g": "100", "bf": "2"})
    data = bytearray(source.read_bytes())
    at = data.index(b"elst") + 4 + 4 + 4 + 4  # version, count, duration: then the time where the media begins
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + 90000).to_bytes(4, "big")
    source.write_bytes(data)
    clips = prepare([source], tmp_path / "out", **SMALL, num_frames=13)
    first = number_of(check_clip(clips[0])[0])
    assert first == 24
    assert clips[0].start == pytest.approx(0, abs=1e-3)


# --- shots


def test_no_clip_crosses_a_cut_and_every_window_is_used(tmp_path: Path) -> None:
    cuts = [40, 100, 103, 190]
    source = film(tmp_path / "a.mp4", every(10, 24), cuts)
    clips = prepare([source], tmp_path / "out", **SMALL, num_frames=17)
    assert [clip.shot for clip in clips] == [0, 1, 1, 3, 3, 3, 4]
    for clip in clips:
        frames = check_clip(clip)
        assert {shot_of(frame) for frame in frames} == {clip.shot % 5}
        numbers = [number_of(frame) for frame in frames]
        assert [0, *cuts][clip.shot] <= numbers[0] <= numbers[-1] < [*cuts, 240][clip.shot]
    (row,) = rejected(tmp_path / "out")
    assert row["reason"] == "shot too short"
    assert (row["start"], row["end"], row["value"]) == pytest.approx((100 / 24, 102 / 24, 3 / 24), abs=1e-3)


def test_captions_edited_in_the_index_survive_the_next_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare([film(tmp_path / "a.mp4", every(3, 24), [])], out, **SMALL, num_frames=17)
    index = out / "metadata.jsonl"
    edited = index.read_text().replace('"text": ""', '"text": "by hand"')
    index.write_text(edited)
    other = film(tmp_path / "b.mp4", every(3, 24), [])
    clips = prepare([tmp_path / "a.mp4", other], out, **SMALL, num_frames=17)
    assert {clip.text for clip in clips if clip.id.startswith("a_")} == {"by hand"}


def test_metadata_has_the_columns_of_a_video_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my films"
    folder.mkdir()
    film(folder / "Épisode 1: été.mp4", every(1, 24))
    (clip,) = prepare([folder], tmp_path / "out", **SHORT)
    assert clip.id == "Épisode_1_été_s000_w000"
    (row,) = map(json.loads, (tmp_path / "out" / "metadata.jsonl").read_text().splitlines())
    assert row.pop("source_fps") == pytest.approx(24, abs=0.5)
    assert row == {
        "file_name": "clips/Épisode_1_été_s000_w000.mp4",
        "text": "",
        "source": str(folder / "Épisode 1: été.mp4"),
        "start": 0.0,
        "end": 0.5,
        "fps": 16.0,
        "num_frames": 9,
        "width": 96,
        "height": 64,
        "shot": 0,
    }
    assert rejected(tmp_path / "out") == []


# --- pictures


def test_turned_and_anamorphic_pictures_come_out_upright_and_round(tmp_path: Path) -> None:
    y, x = np.mgrid[:96, :128]
    disc = np.zeros((96, 128, 3), np.uint8)
    disc[(x - 64) ** 2 * 4 + (y - 48) ** 2 < 40**2] = 255  # pixels are twice as wide as high
    disc[:8, :] = (255, 0, 0)
    source = write(tmp_path / "a.mp4", [disc] * 24, every(1, 24), aspect=Fraction(2, 1))
    orient(source, (-1, 0, 0, -1))
    (clip,) = prepare([source], tmp_path / "out", height=96, width=256, num_frames=9)
    frame = check_clip(clip)[4].astype(int)
    assert frame[-3, 128, 0] - frame[-3, 128, 2] > 150  # the red edge is at the bottom
    assert (frame[48, :, 1] > 127).sum() == pytest.approx(80, abs=3)
    assert (frame[:, 128, 1] > 127).sum() == pytest.approx(80, abs=3)


def test_a_crop_removes_bands_before_resizing(tmp_path: Path) -> None:
    frame = np.full((80, 120, 3), 200, np.uint8)
    frame[:10], frame[-14:], frame[:, :6], frame[:, -4:] = 0, 0, 0, 0
    source = write(tmp_path / "a.mp4", [frame] * 24, every(1, 24))
    (clip,) = prepare([source], tmp_path / "out", **SHORT, crop=(10, 4, 14, 6))
    assert check_clip(clip).min() > 180
    with pytest.raises(CastmixError, match=r"rejected\.jsonl"):
        prepare([source], tmp_path / "none", **SHORT, crop=(40, 0, 40, 0))
    (row,) = rejected(tmp_path / "none")
    assert "leaves nothing of 120x80 pixels" in row["value"]


# --- bad input


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_frames": 80}, "num_frames must be 4k.1, got 80: use 77 or 81"),
        ({"num_frames": 0}, "got 0: use 1 or 5"),
        ({"num_frames": -7}, "got -7: use 1 or 5"),
        ({"height": 481}, "height must be even for H.264, got 481: use 480 or 482"),
        ({"width": 0}, "width must be even for H.264, got 0: use 2 or 4"),
        ({"fps": 0}, "fps must be above 0"),
        ({"crop": (0, -1, 0, 0)}, "crop must be four numbers"),
        ({"crop": (1, 1)}, "crop must be four numbers"),
    ],
)
def test_impossible_settings_are_errors(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(CastmixError, match=message):
        prepare([tmp_path], tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_a_path_that_does_not_exist_stops_before_any_work(tmp_path: Path) -> None:
    source = film(tmp_path / "a.mp4", every(1, 24))
    with pytest.raises(CastmixError, match=r"b\.mp4 does not exist"):
        prepare([source, tmp_path / "b.mp4"], tmp_path / "out", **SHORT)
    assert not (tmp_path / "out").exists()


def test_unusable_files_are_listed_and_the_others_prepared(tmp_path: Path) -> None:
    folder = tmp_path / "footage"
    (folder / "nothing").mkdir(parents=True)
    (folder / "a_empty.mp4").touch()
    (folder / "b_text.mp4").write_text("not a film\n" * 99)
    film(folder / "c_one_frame.mp4", [0.0])
    sound(folder / "d_sound.mp4")
    film(folder / "e_good.mp4", every(1, 24))
    (folder / "notes.txt").write_text("of no interest")
    (folder / "._e_good.mp4").write_text("of no interest")
    film(folder / "f_odd.mkv", every(1, 24), size=(67, 97), codec="ffv1", pixel_format="yuv444p")
    film(folder / "g_ten_bits.mkv", every(1, 24), codec="ffv1", pixel_format="yuv420p10le")
    subtitles = tmp_path / "a.srt"
    subtitles.write_text("1\n00:00:01,000 --> 00:00:02,000\nHello\n")
    clips = prepare([folder, subtitles, folder / "nothing"], tmp_path / "out", **SHORT)
    assert [clip.id[:2] for clip in clips] == ["e_", "f_", "g_"]
    for clip in clips:
        check_clip(clip)
    found = {Path(row["source"]).name: (row["reason"], row["value"]) for row in rejected(tmp_path / "out")}
    assert found.pop("nothing") == ("no video files", 0)
    assert found.pop("a_empty.mp4") == ("empty file", 0)
    assert found.pop("c_one_frame.mp4")[0] == "shot too short"
    for name in ("b_text.mp4", "d_sound.mp4", "a.srt"):
        reason, value = found.pop(name)
        assert reason == "unreadable"
        assert name in value
    assert not found


def test_without_clips_the_error_names_rejected_jsonl(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", every(1, 24))
    with pytest.raises(CastmixError, match=r"no clip of 81 frames at 16 fps .5\.06 s.*rejected\.jsonl"):
        prepare([tmp_path / "a.mp4"], tmp_path / "out", **SMALL)
    assert reasons(tmp_path / "out") == ["shot too short"]
    (tmp_path / "films").mkdir()
    with pytest.raises(CastmixError, match="0 files"):
        prepare([tmp_path / "films"], tmp_path / "out", **SMALL)
    assert reasons(tmp_path / "out") == ["shot too short", "no video files"]
    # no clip was made with them, so other settings are welcome
    assert len(prepare([tmp_path / "a.mp4"], tmp_path / "out", **SHORT)) == 1


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_truncated_file_is_used_up_to_the_damage_and_reported(tmp_path: Path, name: str) -> None:
    muxer = {"movflags": "faststart"} if name.endswith("mp4") else {}
    source = film(tmp_path / name, every(8, 24), encoder={"g": "12"}, muxer=muxer)
    whole = prepare([source], tmp_path / "whole", **SHORT)
    data = source.read_bytes()
    source.write_bytes(data[: len(data) * 6 // 10])
    clips = prepare([source], tmp_path / "out", **SHORT)
    assert 5 <= len(clips) < len(whole)
    for clip, other in zip(clips, whole, strict=False):
        assert clip.path.read_bytes() == other.path.read_bytes()
    row = next(row for row in rejected(tmp_path / "out") if row["reason"] == "truncated")
    assert row["end"] == pytest.approx(8, abs=0.1)
    assert row["value"] == pytest.approx(8 - row["start"], abs=0.1)


def test_no_clip_spans_lost_packets(tmp_path: Path) -> None:
    source = film(tmp_path / "a.mkv", every(10, 24), encoder={"g": "24"})
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = source.read_bytes()
    where = [data.index(packets[0])]  # equal frames make equal packets
    for before, packet in itertools.pairwise(packets[:101]):
        where.append(data.index(packet, where[-1] + len(before)))
    lost = slice(where[100], where[100] + len(packets[100]))
    source.write_bytes(data[: lost.start] + b"\xff" * len(packets[100]) + data[lost.stop :])
    clips = prepare([source], tmp_path / "out", **SHORT)
    row = next(row for row in rejected(tmp_path / "out") if row["reason"] == "damaged")
    assert (row["start"], row["end"]) == pytest.approx((99 / 24, 120 / 24), abs=0.1)
    assert row["value"] >= 1
    assert all(clip.end < 100 / 24 or clip.start > 119 / 24 for clip in clips)
    assert {clip.shot for clip in clips} == {0, 1}
    for clip in clips:
        check_timing(clip, every(10, 24), [number_of(frame) for frame in check_clip(clip)])


# --- running it again


def test_running_again_prepares_only_missing_clips(tmp_path: Path) -> None:
    source = film(tmp_path / "a.mp4", every(4, 24), [48])
    out = tmp_path / "out"
    clips = prepare([source], out, **SHORT)
    before = files(out)
    write_clip(out, Clip(**{**clips[1].__dict__, "text": "Pixo waves"}))
    clips[1].path.unlink()
    clips[2].path.unlink()
    clips[2].path.with_suffix(".json").unlink()
    again = prepare([source], out, **SHORT)
    assert [clip.text for clip in again] == ["", "Pixo waves", *[""] * (len(clips) - 2)]
    after = files(out)
    assert after.keys() == before.keys()
    for clip in clips:
        name = f"clips/{clip.path.name}"
        assert after[name][0] == before[name][0]
        assert (after[name][1] == before[name][1]) == (clip not in clips[1:3])


def test_a_stopped_run_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [film(tmp_path / f"{name}.mp4", every(3, 24), cuts) for name, cuts in (("a", []), ("b", [12]))]
    prepare(sources, tmp_path / "whole", **SHORT)
    out = tmp_path / "out"
    module = importlib.import_module("toolkit.commands.prepare")
    true_write, calls = module.write_video, 0

    def stop_at_the_seventh(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
        nonlocal calls
        calls += 1

        def broken() -> Iterator[np.ndarray]:
            for number, frame in enumerate(frames):
                if calls == 7 and number == 4:
                    raise KeyboardInterrupt
                yield frame

        true_write(path, broken(), fps)

    monkeypatch.setattr(module, "write_video", stop_at_the_seventh)
    with pytest.raises(KeyboardInterrupt):
        prepare(sources, out, **SHORT)
    assert len((out / "metadata.jsonl").read_text().splitlines()) == 6 == len(read_clips(out))
    assert not list(out.rglob("*.part"))
    (out / "clips" / ".b_s000_w001.mp4.part").write_bytes(b"left by a kill -9")
    prepare(sources, out, **SHORT)
    assert contents(out) == contents(tmp_path / "whole")


def test_changed_settings_need_another_folder(tmp_path: Path) -> None:
    source = film(tmp_path / "a.mp4", every(2, 24))
    prepare([source], tmp_path / "out", **SHORT)
    before = files(tmp_path / "out")
    with pytest.raises(CastmixError, match=r"prepared with num_frames 9 .now 13.: give another --out"):
        prepare([source], tmp_path / "out", **SMALL, num_frames=13)
    assert files(tmp_path / "out") == before


def test_a_folder_of_composites_is_refused(tmp_path: Path) -> None:
    source = film(tmp_path / "a.mp4", every(2, 24))
    out = tmp_path / "out"
    out.mkdir()
    (out / "composite.json").write_text("{}")
    (out / "rejected.jsonl").write_text('{"id": "a", "as": "foreground", "reason": "it is small"}\n')
    before = files(out)
    with pytest.raises(CastmixError, match=r"out holds composites .composite.json.: give clips"):
        prepare([source], out, **SHORT)
    assert files(out) == before


def test_sources_share_a_folder_without_sharing_names(tmp_path: Path) -> None:
    for folder, count in (("one", 24), ("two", 30), ("three", 36)):
        (tmp_path / folder).mkdir()
        film(tmp_path / folder / "S01:E01.mp4", every(count / 24, 24))
    shutil.copy(tmp_path / "one" / "S01:E01.mp4", tmp_path / "three" / "copy.mp4")
    out = tmp_path / "out"
    first = prepare([tmp_path / "one"], out, **SHORT)
    assert [clip.id for clip in first] == ["S01_E01_s000_w000"]
    both = prepare([tmp_path / "two", tmp_path / "one" / "S01:E01.mp4"], out, **SHORT)
    assert [clip.id for clip in both] == ["S01_E01-2_s000_w000", "S01_E01-2_s000_w001", "S01_E01_s000_w000"]
    prepare([tmp_path / "one", tmp_path / "three"], out, **SHORT)
    assert [(row["reason"], Path(row["value"]).parent.name) for row in rejected(out)] == [
        ("duplicate", "one")
    ]
    assert len(read_clips(out)) == len({clip.id for clip in read_clips(out)}) == 5


def test_pictures_of_a_folder_are_clips_of_one_frame(tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    shades = {"b c.png": 200, "d.JPG": 90}
    for name, shade in shades.items():
        Image.new("RGB", (120, 80), (shade, shade // 2, 0)).save(folder / name)
    with pytest.raises(CastmixError, match="no clip of 9 frames"):
        prepare([folder], tmp_path / "none", **SHORT)
    clips = prepare([folder], out, **SMALL, num_frames=1)
    assert [(clip.id, clip.num_frames, clip.start) for clip in clips] == [
        ("b_c_s000_w000", 1, 0.0),
        ("d_s000_w000", 1, 0.0),
    ]
    for clip, shade in zip(clips, shades.values(), strict=True):
        frames, _ = read_video(clip.path)
        assert frames.shape == (1, 64, 96, 3)
        assert abs(frames[0].mean((0, 1)) - (shade, shade // 2, 0)).max() < 6


def test_a_file_given_twice_is_one_source_and_clips_are_skipped(tmp_path: Path) -> None:
    source = film(tmp_path / "a.mp4", every(1, 24))
    for _ in range(2):  # the second time, clips lie below the folder
        clips = prepare([tmp_path, source, tmp_path / "." / "a.mp4"], tmp_path / "out", **SHORT)
        assert [clip.id for clip in clips] == ["a_s000_w000"]
        assert rejected(tmp_path / "out") == []


def test_a_moved_file_is_recognised_and_a_changed_one_prepared_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = film(tmp_path / "a.mp4", every(1, 24))
    prepare([source], out, **SHORT)
    before = contents(out)
    moved = source.rename(tmp_path / "b.mp4")
    (clip,) = prepare([moved], out, **SHORT)
    assert contents(out)[f"clips/{clip.path.name}"] == before[f"clips/{clip.path.name}"]
    film(moved, every(2, 24))
    clips = prepare([moved], out, **SHORT)
    assert [clip.id for clip in read_clips(out)] == ["b_s000_w000", "b_s000_w001", "b_s000_w002"]
    write_clip(out, Clip(**{**clips[0].__dict__, "text": "a caption"}))
    film(moved, every(3, 24))
    with pytest.raises(CastmixError, match=r"has changed since it was prepared.*has a caption"):
        prepare([moved], out, **SHORT)
    assert read_clips(out)[0].text == "a caption"


# --- real footage


def on_show(path: Path) -> Iterator[tuple[float, float, av.VideoFrame]]:
    """Every frame, with the time at which it is shown first and the time at which the next one is."""
    current = None
    for frame in decoded(path):
        if current is not None:
            yield float(current.time or 0), float(frame.time or 0), current
        current = frame
    if current is not None:
        yield float(current.time or 0), np.inf, current


def check_footage(clips: list[Clip], truth: dict[str, Any]) -> None:
    """Compare times, cuts and four frames of each clip with its source, decoded once by PyAV alone."""
    for source, group in itertools.groupby(clips, key=lambda clip: clip.source):
        own = [(clip, check_clip(clip)) for clip in group]
        moments = [(clip.start + k / 16, clip, frames[k]) for clip, frames in own for k in (0, 27, 54, 80)]
        moments.sort(key=lambda one: one[0], reverse=True)
        times = []
        for time, following, frame in on_show(Path(source)):
            times.append(time)
            while moments and moments[-1][0] + 0.0021 < following:
                _, clip, picture_of_clip = moments.pop()
                expected = upright(clip, frame.to_ndarray(format="rgb24")).astype(int)
                # small red letters lose most to the halved colour resolution
                assert np.abs(expected - picture_of_clip).mean() < 10, (clip, time)
        assert not moments
        cuts = next((truth[name].get("cut_first_frames", []) for name in truth if source.endswith(name)), [])
        for clip, _ in own:
            ends = np.array([clip.start, clip.start + 80 / 16])
            first, last = np.searchsorted(times, ends + 0.0021, side="right") - 1
            assert [times[first], times[last]] == pytest.approx([clip.start, clip.end], abs=1e-5)
            assert not any(first < cut <= last for cut in cuts), clip


def upright(clip: Clip, stored: np.ndarray) -> np.ndarray:
    if "rot90" in clip.source:
        stored = np.rot90(stored, -1)
    if "anamorphic" in clip.source:
        stored = stored[:, np.arange(640) * 9 // 8]  # 720 pixels, each 8/9 as wide as high
    return resize_and_crop(stored[None], clip.height, clip.width)[0]


@pytest.fixture(scope="module")
def prepared(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Clip]]]:
    """All of the footage, prepared once: the output folder, and the clips of each file by its name."""
    out = tmp_path_factory.mktemp("footage")
    clips: dict[str, list[Clip]] = {}
    for clip in prepare([footage], out, **SMALL):
        clips.setdefault(Path(clip.source).name, []).append(clip)
    return out, clips


@pytest.mark.slow
def test_clips_of_all_footage_match_their_json(
    footage: Path, prepared: tuple[Path, dict[str, list[Clip]]]
) -> None:
    out, by_file = prepared
    clips = [clip for own in by_file.values() for clip in own]
    assert len(clips) > 80
    check_footage(clips, json.loads((footage / "truth.json").read_text()))
    found = {(Path(row["source"]).name, row["reason"]) for row in rejected(out)}
    assert found >= {
        ("copying_is_not_theft_truncated.mp4", "truncated"),
        ("asl_walk_truncated.mkv", "truncated"),
        ("mixed_show_truncated.mp4", "truncated"),
        ("steamboat_one_byte_flipped.mp4", "damaged"),
        ("pigs_on_white.gif", "shot too short"),
        ("asl_book.mkv", "shot too short"),
        ("phone_rot90_3frames.mov", "shot too short"),
        ("empty.mp4", "empty file"),
    }


@pytest.mark.slow
def test_dropped_frames_do_not_move_the_rest(prepared: tuple[Path, dict[str, list[Clip]]]) -> None:
    whole, dropped = (prepared[1][name][0] for name in ("cups_hands.mp4", "cups_vfr_drop3.mp4"))
    a, b = check_clip(whole).astype(int), check_clip(dropped).astype(int)
    at_once = np.abs(a - b).mean()
    assert at_once < np.abs(a[1:] - b[:-1]).mean()
    assert at_once < np.abs(a[:-1] - b[1:]).mean()
    assert at_once < 4


@pytest.mark.slow
def test_a_turned_copy_makes_the_clip_of_the_upright_one(
    prepared: tuple[Path, dict[str, list[Clip]]],
) -> None:
    straight, turned = (prepared[1][name][0] for name in ("dog_woman_path.mp4", "dog_rot90.mp4"))
    a, b = check_clip(straight).astype(int), check_clip(turned).astype(int)
    assert np.abs(a - b).mean() < 8
    assert np.abs(a - b[:, ::-1, ::-1]).mean() > 20


def test_short_files_of_the_footage_match_their_json(footage: Path, tmp_path: Path) -> None:
    names = ["cartoon/pigs_on_white.gif", "cartoon/steamboat_willie.mp4", "live/hiker_8fps.mp4"]
    clips = prepare([footage / name for name in names], tmp_path, **SMALL)
    assert [Path(clip.source).name for clip in clips] == ["hiker_8fps.mp4", "steamboat_willie.mp4"]
    check_footage(clips, json.loads((footage / "truth.json").read_text()))
    assert [row["reason"] for row in rejected(tmp_path) if row["source"].endswith(".gif")] == [
        "shot too short"
    ]


def test_numbered_test_pictures_can_be_read_back() -> None:
    assert [number_of(picture(n)) for n in range(300)] == list(range(300))
