"""The judge, with models that are functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.captions.cast import read_cast
from toolkit.captions.vlm import Chat, Message, ServerError
from toolkit.core.errors import CastmixError
from toolkit.evaluation.results_cache import CACHE_FILE, ResultsCache
from toolkit.evaluation.settings import Judge
from toolkit.evaluation.videos import Measure, Measurement, Video
from toolkit.evaluation.vlm_judge import (
    COLUMNS,
    HIGHEST,
    LOWEST,
    MAX_SERVER_FAILURES,
    judge_metric,
    judge_model,
    read_grade,
    read_judge_prompts,
)
from toolkit.footage.decoding import Frames

CAST = read_cast()
SETTINGS = Judge(model="see", frames=3)
VIDEO = Video(
    Path("000.mp4"),
    "000.mp4",
    "[Character: Pixo], hops along. [Character: Tom], waves at [Character: Pixo]. [scene-style:cartoon]",
    {},
    (32, 48),
    "f00d",
)


def grades(*scores: int) -> Chat:
    """A model that gives these grades, then is at its end."""
    left = list(scores)
    return lambda messages: json.dumps({"score": left.pop(0), "reason": f"saw {len(left)}"})


def judge(chat: Chat, folder: Path, columns: tuple[str, ...] = ("style_p",), **settings: Any) -> Measure:
    return judge_metric(
        chat,
        columns,
        cast=CAST,
        references={who: CAST.find(who)[1].references for who in ("Pixo",)},
        settings=settings.get("settings", SETTINGS),
        cache=ResultsCache(folder),
    )


def footage() -> tuple[Frames, float]:
    return np.zeros((9, 32, 48, 3), np.uint8), 8.0


def never() -> tuple[Frames, float]:
    raise AssertionError("decoded for nothing")


def test_mean_and_spread_of_the_repeats(tmp_path: Path) -> None:
    made = judge(grades(7, 9, 8, 2, 2, 2), tmp_path, ("identity_p", "style_p"))(VIDEO, footage)
    assert made.values == {"identity_p": 8, "identity_p_spread": 2, "style_p": 2, "style_p_spread": 0}
    assert made.problems == ()
    assert made.note == "identity_p 7: saw 5 · style_p 2: saw 2"


def test_answers_are_kept_and_not_asked_for_again(tmp_path: Path) -> None:
    first = judge(grades(7, 9, 8), tmp_path)(VIDEO, footage)
    assert judge(grades(), tmp_path)(VIDEO, never) == first
    rows = [json.loads(line) for line in (tmp_path / CACHE_FILE).read_text().splitlines()]
    assert [(row["file"], row["model"], row["repeat"], row["score"]) for row in rows] == [
        ("000.mp4", "see", 0, 7),
        ("000.mp4", "see", 1, 9),
        ("000.mp4", "see", 2, 8),
    ]
    more = Judge(model="see", frames=3, repeats=4)
    assert judge(grades(4), tmp_path, settings=more)(VIDEO, footage).values["style_p"] == 7


@pytest.mark.parametrize(
    "change",
    [
        lambda: (VIDEO, Judge(model="other", frames=3)),
        lambda: (VIDEO, Judge(model="see", frames=4)),
        lambda: (Video(VIDEO.path, VIDEO.file, VIDEO.prompt, {}, (32, 48), "beef"), SETTINGS),
        lambda: (Video(VIDEO.path, VIDEO.file, "Tom walks, cartoon style", {}, (32, 48), "f00d"), SETTINGS),
    ],
    ids=["model", "frames", "video", "prompt"],
)
def test_changed_inputs_ask_the_judge_again(
    tmp_path: Path, change: Callable[[], tuple[Video, Judge]]
) -> None:
    judge(grades(7, 9, 8), tmp_path)(VIDEO, footage)
    video, settings = change()
    assert judge(grades(1, 1, 1), tmp_path, settings=settings)(video, footage).values["style_p"] == 1


def test_answers_without_a_grade_are_recorded_and_asked_again(tmp_path: Path) -> None:
    replies = ['{"score": 6, "reason": "a"}', "I cannot help with that.", '{"score": 8, "reason": "b"}']
    made = judge(lambda messages: replies.pop(0), tmp_path)(VIDEO, footage)
    assert made.values == {"style_p": 7, "style_p_spread": 2}
    assert made.problems == (("style_p", "repeat 2: no grade in the answer 'I cannot help with that.'"),)
    again = judge(grades(10), tmp_path)(VIDEO, footage)
    assert again.values == {"style_p": 8, "style_p_spread": 4}
    assert again.problems == ()


def test_only_refusals_give_no_score(tmp_path: Path) -> None:
    made = judge(lambda messages: "no", tmp_path)(VIDEO, footage)
    assert made.values == {"style_p": None, "style_p_spread": None}
    assert len(made.problems) == 3


def test_an_unreachable_server_ends_the_judging(tmp_path: Path) -> None:
    asked = 0

    def gone(messages: list[Message]) -> str:
        nonlocal asked
        asked += 1
        raise ServerError("the server cannot be reached")

    measure = judge(gone, tmp_path)
    problems = [problem for _ in range(3) for problem in measure(VIDEO, footage).problems]
    assert asked == MAX_SERVER_FAILURES
    assert len(problems) == 9
    assert problems[0] == ("style_p", "repeat 1: the server cannot be reached")
    assert problems[-1][1].startswith("repeat 3: not asked: the server failed 5 times")


def test_one_failure_between_answers_is_forgiven(tmp_path: Path) -> None:
    calls = 0

    def flaky(messages: list[Message]) -> str:
        nonlocal calls
        calls += 1
        if calls % 3:
            return '{"score": 5, "reason": ""}'
        raise ServerError("overloaded")

    found: list[Measurement] = []
    for number in range(8):
        video = Video(VIDEO.path, VIDEO.file, VIDEO.prompt, {}, (32, 48), str(number))
        found.append(judge(flaky, tmp_path)(video, footage))
    assert all(len(made.problems) == 1 for made in found)


def test_the_judge_gets_the_question_frames_and_references(tmp_path: Path) -> None:
    told: list[list[Message]] = []

    def see(messages: list[Message]) -> str:
        told.append(messages)
        return '{"score": 5, "reason": ""}'

    judge(see, tmp_path, tuple(COLUMNS))(VIDEO, footage)
    assert len(told) == 3 * len(COLUMNS)
    system, user = told[0]
    assert "3 frames" in system["content"]
    texts = [part["text"] for part in user["content"] if part["type"] == "text"]
    assert "Pixo hops along. Tom waves at Pixo. cartoon style" in texts[0]
    assert "- Pixo, from Inkwell Bay (cartoon): a plain teal star with a hat" in texts[0]
    assert "does a somersault" in texts[0]
    assert "- Tom, from Tom and Jerry" in texts[0]
    assert texts[1:3] == ["A picture of Pixo:", "The frames of the video:"]
    assert texts[-1].startswith("Identity:")
    assert sum(part["type"] == "image_url" for part in user["content"]) == 1 + 3
    assert not any("$" in text for text in [system["content"], *texts])


def test_the_published_judge_prompts_are_complete() -> None:
    words = read_judge_prompts()
    assert words.questions.keys() == COLUMNS.keys()
    for text in words.questions.values():
        assert [line.partition(":")[0] for line in text.splitlines() if line[:1].isdigit()] == [
            "1",
            "4",
            "7",
            "10",
        ]
    assert '{"score": <whole number from 1 to 10>' in words.system.template


@pytest.mark.parametrize(
    "reply",
    [
        '{"score": 7, "reason": "two  lines\\nof it"}',
        '```json\n{"score": 7, "reason": "two lines of it"}\n```',
        'He is there {"score": 1}.\n</think>\n{"reason": "two lines of it", "score": 7}',
    ],
)
def test_grades_are_read_from_answers(reply: str) -> None:
    assert read_grade(reply) == (7, "two lines of it")


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "7",
        "I would say 7 of 10.",
        '{"score": 7}',
        '{"score": "7", "reason": "text"}',
        '{"score": 7.5, "reason": "half"}',
        '{"score": true, "reason": "a flag"}',
        f'{{"score": {LOWEST - 1}, "reason": "below"}}',
        f'{{"score": {HIGHEST + 1}, "reason": "above"}}',
        '{"score": 7, "reason": null}',
        '{"score": 7, "reason": "", "more": 1}',
        'Here: {"score": 7, "reason": "with an introduction"}',
        '[{"score": 7, "reason": "in a list"}]',
    ],
)
def test_answers_without_a_grade_are_errors(reply: str) -> None:
    with pytest.raises(CastmixError, match="no grade in the answer"):
        read_grade(reply)


def test_wrong_judge_settings_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CASTMIX_VLM_MODEL", raising=False)
    with pytest.raises(CastmixError, match=r"judge.repeats must be 3 or more.*got repeats 2, frames 3"):
        judge(grades(), tmp_path, settings=Judge(model="see", frames=3, repeats=2))
    with pytest.raises(CastmixError, match=r"--judge.model or CASTMIX_VLM_MODEL"):
        judge_model(Judge())
    monkeypatch.setenv("CASTMIX_VLM_MODEL", "eyes")
    assert judge_model(Judge()) == "eyes"
    assert judge_model(SETTINGS) == "see"
