from __future__ import annotations

import pytest

from toolkit.core import progress
from toolkit.core.progress import say, stage, track


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test turns; starts at 0."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_ten_seconds_with_the_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in track(range(30), "training"):
        clock[0] += 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "training: 33% (10/30), 0:20 left",
        "training: 66% (20/30), 0:10 left",
        "training: 30 done in 0:30",
    ]


def test_a_resumed_loop_estimates_from_its_own_steps(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in track(range(12), "training", start=88):
        clock[0] += 5
    assert capsys.readouterr().err.splitlines()[0] == "training: 90% (90/100), 0:50 left"


def test_without_a_length_it_counts(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for _ in track(iter("abc"), "reading"):
        clock[0] += 20
    assert capsys.readouterr().err.splitlines()[0] == "reading: 1 done, 0:20 so far"


def test_short_or_empty_loops_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([], "nothing")) == []
    assert list(track(range(0), "nothing", total=5, start=5)) == []
    assert list(track([1, 2], "little")) == [1, 2]
    assert capsys.readouterr().err == ""


def test_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("hello")
    stage("train [all]")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "hello\n== train [all]\n"
