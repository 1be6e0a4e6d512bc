"""The metrics, grouped in families that are measured together.

To add a family, write a function that returns its `Measure`, describe each column in one sentence, and add a
line to FAMILIES at the end of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from toolkit.captions.cast import Cast
from toolkit.captions.vlm import connect_server
from toolkit.core.choices import nearest
from toolkit.core.errors import CastmixError
from toolkit.core.progress import say
from toolkit.evaluation import clip_dino as features
from toolkit.evaluation import optical_flow as flow
from toolkit.evaluation import vlm_judge as judge
from toolkit.evaluation.results_cache import ResultsCache, cached
from toolkit.evaluation.settings import Features, Judge
from toolkit.evaluation.videos import Measure, References, Video, characters_in
from toolkit.models.weights import local_folder


@dataclass(frozen=True)
class Job:
    """Inputs of the metric families; each uses some. Most fields are arguments of `toolkit.evaluate`."""

    videos: tuple[Video, ...]
    cast: Cast
    references: References
    features: Features
    judge: Judge
    server: str | None = field(repr=False)
    key: str | None = field(repr=False)
    cache: ResultsCache


@dataclass(frozen=True)
class Column:
    """One score of a video: its description, and the ends of its scale."""

    meaning: str
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Family:
    """Metrics that are measured together.

    Attributes:
        columns: The columns by name.
        start: Returns the measure of the chosen columns; loads models if needed.
        made_for: Whether a video is of the special kind that this family is made for. None: any video.
    """

    columns: Mapping[str, Column]
    start: Callable[[Job, Sequence[str]], Measure]
    made_for: Callable[[Video], bool] | None = None


def choose_metrics(
    names: Sequence[str] | None, job: Job, families: Mapping[str, Family]
) -> dict[str, tuple[str, ...]]:
    """The families to measure, each with its chosen columns.

    names: Families or columns ("sandbox", "clip_t"). Default: those that apply to the videos.

    Raises:
        CastmixError: A name does not exist.
    """
    names = [name.replace("-", "_") for name in names] if names else _default_metrics(job, families)
    known = {name: family for family, one in families.items() for name in (family, *one.columns)}
    for name in names:
        if name not in known:
            near = nearest(name, known) or [", ".join(families)]
            raise CastmixError(f"no metric {name!r}: choose {' or '.join(near)}")
    chosen: dict[str, tuple[str, ...]] = {}
    for family, one in families.items():
        wanted = tuple(
            name for name in one.columns if {name, name.removesuffix(judge.SPREAD), family} & {*names}
        )
        if wanted:
            chosen[family] = wanted
    return chosen


def _default_metrics(job: Job, families: Mapping[str, Family]) -> list[str]:
    """Families made for some of these videos; if other videos remain, also the general metrics.

    A general metric whose model is not on this machine is left out with a note. If a folder has both kinds of
    videos, all videos get all of these metrics.
    """
    names = ["judge"] if job.judge.model else []
    special = {name: one.made_for for name, one in families.items() if one.made_for is not None}
    fits = {name: [made_for(video) for video in job.videos] for name, made_for in special.items()}
    names += [name for name, fit in fits.items() if any(fit)]
    if all(any(column) for column in zip(*fits.values(), strict=True)) and fits:
        return names
    wanted = {"clip_t": job.features.clip, "temporal_consistency": job.features.clip}
    if any(name in job.references for video in job.videos for name in characters_in(video.prompt, job.cast)):
        wanted |= {"clip_i": job.features.clip, "dino_i": job.features.dino}
    for model in dict.fromkeys(wanted.values()):
        if local_folder(model) is None:
            without = [name for name in wanted if wanted[name] == model]
            say(
                f"note: {', '.join(without)} not measured: {model} is not on this machine "
                f"(download it with `hf download {model}`)"
            )
            wanted = {name: other for name, other in wanted.items() if other != model}
    return ["flow", *wanted, *names]


def _flow(job: Job, columns: Sequence[str]) -> Measure:
    return cached(flow.measure, job.cache, "flow", "dis")


def _clip(job: Job, columns: Sequence[str]) -> Measure:
    metric = features.clip_metric(job.references if "clip_i" in columns else {}, job.cast, job.features)
    return cached(metric.measure, job.cache, "clip", metric.depends_on)


def _dino(job: Job, columns: Sequence[str]) -> Measure:
    metric = features.dino_metric(job.references, job.cast, job.features)
    return cached(metric.measure, job.cache, "dino", metric.depends_on)


def _judge(job: Job, columns: Sequence[str]) -> Measure:
    model = judge.judge_model(job.judge)
    chat = connect_server(job.server, job.key, model, timeout=job.judge.timeout, retries=job.judge.retries)
    asked = [column for column in judge.COLUMNS if {column, column + judge.SPREAD} & set(columns)]
    return judge.judge_metric(
        chat,
        asked,
        cast=job.cast,
        references=job.references,
        settings=job.judge,
        cache=job.cache,
    )


def columns(meanings: Mapping[str, str], low: float = 0.0, high: float = 1.0) -> dict[str, Column]:
    """Columns with one common scale, from their descriptions."""
    return {name: Column(meaning, low, high) for name, meaning in meanings.items()}


# Add a family here: its name, its columns, and the function that starts it.
FAMILIES: Mapping[str, Family] = {
    "clip": Family(columns(features.CLIP_COLUMNS), _clip),
    "dino": Family(columns(features.DINO_COLUMNS), _dino),
    "flow": Family(columns(flow.COLUMNS), _flow),
    "judge": Family(
        columns(judge.COLUMNS, judge.LOWEST, judge.HIGHEST)
        | columns(judge.SPREADS, 0.0, judge.HIGHEST - judge.LOWEST),
        _judge,
    ),
}
