"""A vision-language model grades videos from 1 to 10: Identity-P, Motion-P, Style-P and Interaction-P.

The metrics are those of Character Mixing (arXiv 2510.05093, section 4.1). The paper publishes neither its
questions nor the number of repeats; castmix's questions are in ``judge.yaml``. Every answer is cached with
its reason.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import yaml

from toolkit.captions.cast import Cast
from toolkit.captions.vlm import Chat, Message, ServerError, image_part, text_part
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file
from toolkit.evaluation.results_cache import ResultsCache, cache_key
from toolkit.evaluation.settings import Judge
from toolkit.evaluation.videos import (
    Measure,
    Measurement,
    ReadFrames,
    References,
    Video,
    characters_in,
    plain_prompt,
)

QUESTIONS = Path(__file__).parent / "judge.yaml"
MAX_SERVER_FAILURES = 5
"""After this many failures in a row the server is not asked any more."""
LOWEST, HIGHEST = 1, 10

_BY = "grade by a vision-language model:"
COLUMNS = {
    "identity_p": f"{_BY} are the requested characters present and recognisable",
    "motion_p": f"{_BY} does each character perform the requested action plausibly, in its own manner",
    "style_p": f"{_BY} does each character have the style of its own show",
    "interaction_p": f"{_BY} do the characters interact plausibly (one alone: with its surroundings)",
}
SPREAD = "_spread"
SPREADS = {
    name + SPREAD: f"highest minus lowest grade of {name} among its repeats, which all see the same frames"
    for name in COLUMNS
}


@dataclass(frozen=True)
class JudgePrompts:
    """The prompts in ``judge.yaml``; `given` describes the requested video, `questions` are by column."""

    system: Template
    given: Template
    questions: Mapping[str, str]


def read_judge_prompts() -> JudgePrompts:
    """Read ``judge.yaml``."""
    text = yaml.safe_load(QUESTIONS.read_text(encoding="utf-8"))
    return JudgePrompts(Template(text["system"]), Template(text["given"]), text["questions"])


def judge_model(settings: Judge) -> str:
    """Name of the judging model.

    Raises:
        CastmixError: Neither the settings nor CASTMIX_VLM_MODEL name it.
    """
    model = settings.model or os.environ.get("CASTMIX_VLM_MODEL")
    if not model:
        raise CastmixError("the judge needs a model: name it with --judge.model or CASTMIX_VLM_MODEL")
    return model


def judge_metric(
    chat: Chat,
    columns: Sequence[str],
    *,
    cast: Cast,
    references: References,
    settings: Judge,
    cache: ResultsCache,
) -> Measure:
    """A measure that asks the judge about `columns`, each several times. Cached answers are reused.

    An answer without a valid grade (a refusal, or no JSON object) becomes a problem of that video; the next
    run asks again. The first reference picture of each character is shown with the question.

    Raises:
        CastmixError: `settings.repeats` or `settings.frames` is too small, or no model is named.
    """
    if settings.repeats < 3 or settings.frames < 1:
        given = f"repeats {settings.repeats}, frames {settings.frames}"
        raise CastmixError(f"judge.repeats must be 3 or more and judge.frames 1 or more; got {given}")
    grader = _Grader(chat, judge_model(settings), cache)
    prompts = read_judge_prompts()

    def measure(video: Video, read_frames: ReadFrames) -> Measurement:
        names = characters_in(video.prompt, cast)
        given = prompts.given.substitute(prompt=plain_prompt(video.prompt), characters=_describe(names, cast))
        shown = {name: references[name][0] for name in names if name in references}
        images = functools.cache(lambda: _image_parts(shown, read_frames, settings.frames))
        system = prompts.system.substitute(frames=settings.frames)
        grades: dict[str, list[int]] = {column: [] for column in columns}
        problems: list[tuple[str, str]] = []
        reasons: dict[str, str] = {}
        for column, repeat in itertools.product(columns, range(settings.repeats)):
            question = Question(column, system, given, prompts.questions[column], shown, images)
            try:
                grade, reason = grader.grade(video, question, repeat)
            except CastmixError as error:
                problems.append((column, f"repeat {repeat + 1}: {error}"))
                continue
            grades[column].append(grade)
            reasons.setdefault(column, f"{column} {grade}: {reason}")
        values: dict[str, float | None] = {}
        for column, found in grades.items():
            values[column] = sum(found) / len(found) if found else None
            values[column + SPREAD] = float(max(found) - min(found)) if len(found) > 1 else None
        return Measurement(values, tuple(problems), " · ".join(reasons.values()))

    return measure


@dataclass(frozen=True)
class Question:
    """One question about one video.

    Attributes:
        column: The metric.
        system: System prompt.
        given: Description of the requested video.
        text: The question.
        shown: Reference picture of each character, by name.
        images: Returns the message parts with reference pictures and frames.
    """

    column: str
    system: str
    given: str
    text: str
    shown: Mapping[str, Path]
    images: Callable[[], list[dict[str, Any]]]

    @property
    def depends_on(self) -> list[str]:
        """All texts and the fingerprints of the reference pictures; the video is not included."""
        fingerprints = [f"{name} {fingerprint_file(path)}" for name, path in self.shown.items()]
        return [self.system, self.given, self.text, *fingerprints]

    def messages(self) -> list[Message]:
        """The messages to the model: system prompt; then description, pictures and question."""
        parts = [text_part(self.given), *self.images(), text_part(self.text)]
        return [{"role": "system", "content": self.system}, {"role": "user", "content": parts}]


class _Grader:
    """Asks the model, caches its answers, and stops asking a server that keeps failing."""

    def __init__(self, chat: Chat, model: str, cache: ResultsCache) -> None:
        self.chat, self.model, self.cache = chat, model, cache
        self.failures = 0

    def grade(self, video: Video, question: Question, repeat: int) -> tuple[int, str]:
        """The grade and its reason, from the cache or from the model."""
        key = cache_key("judge", self.model, video.fingerprint, question.depends_on, repeat)
        row = self.cache.get(key)
        if row is None:
            grade, reason = read_grade(self._ask(question))
            row = {"file": video.file, "family": "judge", "column": question.column, "model": self.model}
            row |= {"repeat": repeat, "score": grade, "reason": reason}
            self.cache.add(key, row)
        return row["score"], row["reason"]

    def _ask(self, question: Question) -> str:
        if self.failures >= MAX_SERVER_FAILURES:
            raise ServerError(f"not asked: the server failed {self.failures} times in a row")
        messages = question.messages()
        try:
            reply = self.chat(messages)
        except ServerError:
            self.failures += 1
            raise
        self.failures = 0
        return reply


def read_grade(reply: str) -> tuple[int, str]:
    """Read the grade and its reason from a reply.

    The reply must be one JSON object with `score` and `reason`. A thinking block before it and a code fence
    around it are ignored.

    Raises:
        CastmixError: The reply is anything else.
    """
    text = re.sub(r"(?s)^.*</think>", "", reply).strip()
    text = re.sub(r"(?s)^```(?:json)?\s*(.*?)\s*```$", r"\1", text)
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and answer.keys() == {"score", "reason"}:
        grade, reason = answer["score"], answer["reason"]
        if type(grade) is int and LOWEST <= grade <= HIGHEST and isinstance(reason, str):
            return grade, " ".join(reason.split())
    shown = " ".join(reply.split())
    raise CastmixError(f"no grade in the answer {shown[:160]!r}{'…' if len(shown) > 160 else ''}")


def _describe(names: Sequence[str], cast: Cast) -> str:
    """Descriptions of the characters, one line each."""
    lines = []
    for name in names:
        show, character = cast.find(name)
        facts = [
            character.description,
            character.signature and f"often {character.signature}",
            character.gait and f"usually {character.gait}",
        ]
        kind = "cartoon" if show.style == "cartoon" else "live action or realistic"
        lines.append(f"- {name}, from {show.name} ({kind}): {'; '.join(fact for fact in facts if fact)}")
    return "\n".join(lines) or "(nobody is named; go by the words above)"


def _image_parts(shown: Mapping[str, Path], read_frames: ReadFrames, count: int) -> list[dict[str, Any]]:
    """Message parts: a picture of each character, then `count` frames evenly spaced over the video."""
    from PIL import Image

    parts = []
    for name, path in shown.items():
        with Image.open(path) as image:
            parts += [text_part(f"A picture of {name}:"), image_part(np.asarray(image.convert("RGB")))]
    frames = read_frames()[0]
    picked = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return [*parts, text_part("The frames of the video:"), *(image_part(frames[i]) for i in picked)]
