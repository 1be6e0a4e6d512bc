from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import film, write
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.footage.shots import (
    MAX_FRAME_SECONDS,
    TIMESTAMP_TOLERANCE,
    Shot,
    ShotDetection,
    clip_windows,
    detect_shots,
    split_shots,
)

TRUTH = [
    "derived/mixed_show.mp4",
    "derived/mixed_show_truncated.mp4",
    "live/tears_of_steel_part1.webm",
    pytest.param("cartoon/popeye_T02.mkv", marks=pytest.mark.slow),
    pytest.param("cartoon/popeye_T03.mkv", marks=pytest.mark.slow),
    "cartoon/bbb_intro_titles.webm",
    "cartoon/copying_is_not_theft_truncated.mp4",
    "cartoon/steamboat_willie.mp4",
    "live/dog_woman_path.mp4",
    "live/cups_hands.mp4",
    "live/chaplin_street.mp4",
    "live/one_by_one_people.mp4",
    "live/hiker_8fps.mp4",
]


def look(path: Path) -> ShotDetection:
    return detect_shots(path, content_threshold=27.0, adaptive_threshold=3.0)


def hard_cuts(truth: dict[str, Any]) -> list[int]:
    if "shots" in truth:
        return [shot["first_frame"] for shot in truth["shots"] if shot["transition_in"] == "cut"]
    return list(truth["cut_first_frames"])


@pytest.mark.parametrize("name", TRUTH)
def test_every_hard_cut_of_the_footage_is_found_at_its_frame(footage: Path, name: str) -> None:
    truth = json.loads((footage / "truth.json").read_text())
    source = truth[name].get("source", name)
    cuts = hard_cuts(truth[source] if name.endswith("show_truncated.mp4") else truth[name])
    found = look(footage / name)
    starts = {shot.first for shot in found.shots}
    assert {cut for cut in cuts if cut < len(found.times)} <= starts
    if not cuts:  # neither flicker, smoke nor a dog that jumps is a cut
        assert starts == {0}


@pytest.mark.slow
def test_held_animation_drawings_are_not_cuts(footage: Path) -> None:
    found = look(footage / "derived" / "popeye_T02_burned_subs.mp4")
    assert {0, 305, 770} < {shot.first for shot in found.shots}
    assert len(found.shots) < 20  # 29 if every held drawing is judged


def test_cuts_near_both_ends_and_close_together_are_found(tmp_path: Path) -> None:
    cuts = [1, 30, 33, 34, 58]
    found = look(film(tmp_path / "a.mp4", [n / 24 for n in range(60)], cuts))
    assert [shot.first for shot in found.shots] == [0, *cuts]
    assert [shot.stop for shot in found.shots] == [*cuts, 60]
    assert found.shots[1].end == pytest.approx(30 / 24, abs=1e-3)
    assert found.shots[-1].end == pytest.approx(60 / 24, abs=0.02)


def test_a_weak_cut_between_two_stills_is_found(tmp_path: Path) -> None:
    first = np.full((64, 96, 3), 100, np.uint8)
    second = first.copy()
    second[:, :48] = (100, 140, 100)  # too little for the content detector
    frames = [first] * 20 + [second] * 20
    found = look(write(tmp_path / "a.mp4", frames, [n / 24 for n in range(40)]))
    assert [shot.first for shot in found.shots] == [0, 20]


def test_a_change_of_size_within_a_file_is_accepted(tmp_path: Path) -> None:
    small = film(tmp_path / "a.ts", [n / 25 for n in range(30)])
    large = film(tmp_path / "b.ts", [2 + n / 25 for n in range(30)], size=(96, 128))
    joined = tmp_path / "c.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    found = look(joined)
    assert len(found.times) >= 55
    assert len(found.shots) >= 2  # time jumps


def test_a_shot_ends_where_timestamps_do_not_increase() -> None:
    times = np.array([0, 0.1, 0.2, 0.0, 0.1, 1.5, 1.6])
    shots = split_shots(times, np.full(7, 0.1), [4], [])
    assert [(shot.first, shot.stop) for shot in shots] == [(0, 3), (3, 4), (4, 5), (5, 7)]
    assert [shot.end for shot in shots] == pytest.approx([0.3, 0.1, 0.2, 1.7])
    assert split_shots(np.array([]), np.array([]), [], []) == []


def test_the_last_frame_is_shown_for_a_second_at_most() -> None:
    (shot,) = split_shots(np.array([0.0, 0.1]), np.array([0.1, 60.0]), [], [])
    assert shot.end == pytest.approx(0.1 + MAX_FRAME_SECONDS)


steps = st.lists(st.floats(0.005, 0.3), min_size=1, max_size=150)


@settings(max_examples=150, deadline=None)
@given(
    steps=steps,
    begin=st.floats(-2, 1e5),
    fps=st.sampled_from([8.0, 16.0, 24.0]),
    k=st.integers(0, 8),
    data=st.data(),
)
def test_windows_show_the_source_frame_of_every_moment(
    steps: list[float], begin: float, fps: float, k: int, data: st.DataObject
) -> None:
    num_frames = 4 * k + 1
    times = begin + np.cumsum([0.0, *steps])
    cuts = data.draw(st.sets(st.integers(1, len(times) - 1), max_size=3))
    shots = split_shots(times, np.full(len(times), 0.04), sorted(cuts), [])
    assert [frame for shot in shots for frame in range(shot.first, shot.stop)] == list(range(len(times)))
    for shot in shots:
        found = clip_windows(times, shot, fps, num_frames)
        used = [set(window) for window in found]
        assert all(a.isdisjoint(b) for a, b in itertools.pairwise(used))
        for window in found:
            assert len(window) == num_frames
            assert shot.first <= window[0] <= window[-1] < shot.stop
            for number, frame in enumerate(window):
                moment = times[window[0]] + number / fps
                assert times[frame] <= moment + TIMESTAMP_TOLERANCE + 1e-9
                following = times[frame + 1] if frame + 1 < len(times) else np.inf
                assert moment < following or frame == shot.stop - 1
        seconds = shot.end - shot.start
        if seconds > num_frames / fps:
            assert found  # a shot that is long enough gives a window
        if seconds < (num_frames - 1) / fps:
            assert not found


def test_a_shot_of_exactly_one_window_gives_it() -> None:
    for rate, count in ((16, 81), (24, 122), (30, 152), (8, 41)):
        times = np.arange(count) / rate
        shot = Shot(0, count, 0.0, count / rate)
        (window,) = clip_windows(times, shot, 16.0, 81)
        assert len(window) == 81
    rounded = np.round(np.arange(200) / 16, 3)  # as in Matroska
    first, second = clip_windows(rounded, Shot(0, 200, 0.0, 12.5), 16.0, 81)
    assert first == list(range(81))
    assert second == list(range(81, 162))
