"""A vision-language model as the judge: Identity-P, Motion-P, Style-P and Interaction-P, 1 to 10.

After Character Mixing (arXiv 2510.05093, section 4.1), which publishes neither its questions nor how often
they were asked. Ours stand in ``templates/judge.yaml``. Every answer is kept in the ledger with its reason.
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
from toolkit.evaluation.results_cache import Ledger, key_of
from toolkit.evaluation.settings import Judge
from toolkit.evaluation.videos import Footage, Measure, Measured, References, Video, characters, plain

QUESTIONS = Path(__file__).parent / "judge.yaml"
SERVER_FAILURES = 5
"""After so many answers in a row that the server failed to give, it is not asked any more."""
LOWEST, HIGHEST = 1, 10

COLUMNS = {
    "identity_p": "a vision-language model's grade: are the asked characters there and recognisable",
    "motion_p": "the same for: does each do what was asked, in its own manner, believably",
    "style_p": "the same for: is each in the style of its own show",
    "interaction_p": "the same for: do they act on each other (or one on its surroundings) believably",
}
SPREAD = "_spread"
SPREADS = {
    name + SPREAD: f"highest minus lowest grade among the repeats of {name}, which all see the same frames"
    for name in COLUMNS
}


@dataclass(frozen=True)
class Words:
    """What the judge is told: see ``templates/judge.yaml``."""

    system: Template
    given: Template
    questions: Mapping[str, str]


def read_words() -> Words:
    """The published words."""
    text = yaml.safe_load(QUESTIONS.read_text(encoding="utf-8"))
    return Words(Template(text["system"]), Template(text["given"]), text["questions"])


def judge_model(settings: Judge) -> str:
    """The model's name, which the scores are nothing without.

    Raises:
        CastmixError: It is not named.
    """
    model = settings.model or os.environ.get("CASTMIX_VLM_MODEL")
    if not model:
        raise CastmixError("name the model that judges: --judge.model or CASTMIX_VLM_MODEL")
    return model


def judge_measure(
    chat: Chat,
    columns: Sequence[str],
    *,
    cast: Cast,
    references: References,
    settings: Judge,
    ledger: Ledger,
) -> Measure:
    """Asks for the chosen `columns`, each several times; an answer that is there already is not asked for.

    An answer that is no grade (a refusal, a text without the JSON object) is a problem of that video, and
    asked for again by the next run. A character's first reference picture is shown with the question.

    Raises:
        CastmixError: Settings that make no sense.
    """
    if settings.repeats < 3 or settings.frames < 1:
        given = f"repeats {settings.repeats}, frames {settings.frames}"
        raise CastmixError(f"judge.repeats must be 3 or more, judge.frames 1 or more; got {given}")
    bench = _Bench(chat, judge_model(settings), ledger)
    told = read_words()

    def measure(video: Video, footage: Footage) -> Measured:
        names = characters(video.prompt, cast)
        given = told.given.substitute(prompt=plain(video.prompt), characters=_who(names, cast))
        shown = {name: references[name][0] for name in names if name in references}
        show = functools.cache(lambda: _pictures(shown, footage, settings.frames))
        system = told.system.substitute(frames=settings.frames)
        grades: dict[str, list[int]] = {column: [] for column in columns}
        problems: list[tuple[str, str]] = []
        reasons: dict[str, str] = {}
        for column, repeat in itertools.product(columns, range(settings.repeats)):
            question = Question(column, system, given, told.questions[column], shown, show)
            try:
                grade, reason = bench.grade(video, question, repeat)
            except CastmixError as error:
                problems.append((column, f"repeat {repeat + 1}: {error}"))
                continue
            grades[column].append(grade)
            reasons.setdefault(column, f"{column} {grade}: {reason}")
        values: dict[str, float | None] = {}
        for column, found in grades.items():
            values[column] = sum(found) / len(found) if found else None
            values[column + SPREAD] = float(max(found) - min(found)) if len(found) > 1 else None
        return Measured(values, tuple(problems), " · ".join(reasons.values()))

    return measure


@dataclass(frozen=True)
class Question:
    """One question about one video: its texts, whose pictures go with it, and all pictures when asked for."""

    column: str
    system: str
    given: str
    text: str
    shown: Mapping[str, Path]
    show: Callable[[], list[dict[str, Any]]]

    @property
    def basis(self) -> list[str]:
        """All that is said and shown, besides the video."""
        prints = [f"{name} {fingerprint_file(path)}" for name, path in self.shown.items()]
        return [self.system, self.given, self.text, *prints]

    def messages(self) -> list[Message]:
        """As the model gets them: what was asked for, the pictures, the question."""
        parts = [text_part(self.given), *self.show(), text_part(self.text)]
        return [{"role": "system", "content": self.system}, {"role": "user", "content": parts}]


class _Bench:
    """Asks, keeps what was answered, and gives up on a server that is gone."""

    def __init__(self, chat: Chat, model: str, ledger: Ledger) -> None:
        self.chat, self.model, self.ledger = chat, model, ledger
        self.failures = 0

    def grade(self, video: Video, question: Question, repeat: int) -> tuple[int, str]:
        """The grade and its reason; asked for if the ledger has none."""
        key = key_of("judge", self.model, video.fingerprint, question.basis, repeat)
        row = self.ledger.get(key)
        if row is None:
            grade, reason = read_grade(self._ask(question))
            row = {"file": video.file, "family": "judge", "column": question.column, "model": self.model}
            row |= {"repeat": repeat, "score": grade, "reason": reason}
            self.ledger.add(key, row)
        return row["score"], row["reason"]

    def _ask(self, question: Question) -> str:
        if self.failures >= SERVER_FAILURES:
            raise ServerError(f"not asked: the server had failed {self.failures} times in a row")
        messages = question.messages()
        try:
            reply = self.chat(messages)
        except ServerError:
            self.failures += 1
            raise
        self.failures = 0
        return reply


def read_grade(reply: str) -> tuple[int, str]:
    """The grade and its reason in a reply: one JSON object; thoughts before it and a code fence are let pass.

    Raises:
        CastmixError: It is anything else.
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


def _who(names: Sequence[str], cast: Cast) -> str:
    """What is known of the characters, a line each."""
    lines = []
    for name in names:
        show, who = cast.find(name)
        facts = [
            who.description,
            who.signature and f"often {who.signature}",
            who.gait and f"usually {who.gait}",
        ]
        kind = "cartoon" if show.style == "cartoon" else "live action or realistic"
        lines.append(f"- {name}, from {show.name} ({kind}): {'; '.join(fact for fact in facts if fact)}")
    return "\n".join(lines) or "(nobody is named; go by the words above)"


def _pictures(shown: Mapping[str, Path], footage: Footage, count: int) -> list[dict[str, Any]]:
    """Parts of a message: a picture of each character, then `count` frames from the first to the last."""
    from PIL import Image

    parts = []
    for name, path in shown.items():
        with Image.open(path) as image:
            parts += [text_part(f"A picture of {name}:"), image_part(np.asarray(image.convert("RGB")))]
    frames = footage()[0]
    picked = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return [*parts, text_part("The frames of the video:"), *(image_part(frames[i]) for i in picked)]
