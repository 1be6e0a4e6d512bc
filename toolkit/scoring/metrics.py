"""All metrics, in families that are measured together.

To add one, write what makes its `Measure`, give its columns a sentence each, and name it in FAMILIES at the
end of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toolkit.cast import Cast, nearest
from toolkit.errors import CastmixError
from toolkit.progress import say
from toolkit.sandbox import score
from toolkit.sandbox.world import HEIGHT, WIDTH
from toolkit.scoring import features, flow, judge
from toolkit.scoring.ledger import Ledger, remembered
from toolkit.scoring.videos import Footage, Measure, Measured, References, Video, characters
from toolkit.settings import Features, Judge
from toolkit.vlm import connect

if TYPE_CHECKING:
    from toolkit.sandbox.recognise import Verdict


@dataclass(frozen=True)
class Job:
    """What a family may need; each takes what it uses. See `toolkit.evaluate.evaluate` for the meanings."""

    videos: tuple[Video, ...]
    cast: Cast
    references: References
    features: Features
    judge: Judge
    server: str | None = field(repr=False)
    key: str | None = field(repr=False)
    ledger: Ledger


@dataclass(frozen=True)
class Column:
    """One number of a video: what it is, and the ends of its scale."""

    meaning: str
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Family:
    """Metrics that are measured together: their columns, and what makes the measure for those chosen."""

    columns: Mapping[str, Column]
    start: Callable[[Job, Sequence[str]], Measure]


def choose(names: Sequence[str] | None, job: Job) -> dict[str, tuple[str, ...]]:
    """The families to measure, each with its chosen columns.

    `names` are families or columns ("sandbox", "clip_t"); without any, what fits the videos.

    Raises:
        CastmixError: A name that does not exist, or nothing fits.
    """
    names = [name.replace("-", "_") for name in names] if names else _fitting(job)
    known = {name: family for family, one in FAMILIES.items() for name in (family, *one.columns)}
    for name in names:
        if name not in known:
            near = nearest(name, known) or [", ".join(FAMILIES)]
            raise CastmixError(f"no metric {name!r}: choose {' or '.join(near)}")
    chosen: dict[str, tuple[str, ...]] = {}
    for family, one in FAMILIES.items():
        columns = tuple(
            name for name in one.columns if {name, name.removesuffix(judge.SPREAD), family} & {*names}
        )
        if columns:
            chosen[family] = columns
    return chosen


def _fitting(job: Job) -> list[str]:
    """The sandbox's metrics for its videos; for others what can be measured here; what cannot, is said.

    In a folder of both, either kind is measured by all, and set aside where it does not fit.
    """
    names = ["judge"] if job.judge.model else []
    ours = [video.size == (HEIGHT, WIDTH) for video in job.videos]
    names += ["sandbox"] if any(ours) else []
    if all(ours):
        return names
    wanted = {"clip_t": job.features.clip, "temporal_consistency": job.features.clip}
    if any(name in job.references for video in job.videos for name in characters(video.prompt, job.cast)):
        wanted |= {"clip_i": job.features.clip, "dino_i": job.features.dino}
    for model in dict.fromkeys(wanted.values()):
        if features.local_folder(model) is None:
            without = [name for name in wanted if wanted[name] == model]
            say(f"note: without {', '.join(without)}: {model} is not on this machine (`hf download {model}`)")
            wanted = {name: other for name, other in wanted.items() if other != model}
    return ["flow", *wanted, *names]


def _sandbox(job: Job, columns: Sequence[str]) -> Measure:
    """See `toolkit.sandbox.score`."""
    from toolkit.sandbox import recognise
    from toolkit.sandbox.population import base_cast, generic_looks
    from toolkit.sandbox.shows import named_looks

    model = recognise.load_recognisers()
    members = {one.name: one.look for one in base_cast(generic_looks(list(named_looks().values())))}

    def measure(video: Video, footage: Footage) -> Measured:
        asked = score.asked(video.prompt, job.cast, members)
        verdict = recognise.recognise(model, footage()[0])
        return Measured(score.score(verdict, asked), note=_seen(verdict))

    return remembered(measure, job.ledger, "sandbox", score.judge_fingerprint(recognise.WEIGHTS))


def _seen(verdict: Verdict) -> str:
    """What the recognisers saw, in a line."""
    creatures = []
    for one in verdict.creatures:
        who = one.who or f"{one.pattern} {one.colour} {one.body} ({one.accessory})"
        creatures.append(f"{who}, {one.style}, {one.action}")
    scene = f"{verdict.scene}, {verdict.scene_style}"
    return "seen: " + " · ".join([*creatures, scene, *filter(None, [verdict.interaction])])


def _flow(job: Job, columns: Sequence[str]) -> Measure:
    return remembered(flow.measure, job.ledger, "flow", "dis")


def _clip(job: Job, columns: Sequence[str]) -> Measure:
    meter = features.clip_meter(job.references if "clip_i" in columns else {}, job.cast, job.features)
    return remembered(meter.measure, job.ledger, "clip", meter.basis)


def _dino(job: Job, columns: Sequence[str]) -> Measure:
    meter = features.dino_meter(job.references, job.cast, job.features)
    return remembered(meter.measure, job.ledger, "dino", meter.basis)


def _judge(job: Job, columns: Sequence[str]) -> Measure:
    model = judge.judge_model(job.judge)
    chat = connect(job.server, job.key, model, timeout=job.judge.timeout, retries=job.judge.retries)
    asked = [column for column in judge.COLUMNS if {column, column + judge.SPREAD} & set(columns)]
    return judge.judge_measure(
        chat,
        asked,
        cast=job.cast,
        references=job.references,
        settings=job.judge,
        ledger=job.ledger,
    )


def _columns(meanings: Mapping[str, str], low: float = 0.0, high: float = 1.0) -> dict[str, Column]:
    return {name: Column(meaning, low, high) for name, meaning in meanings.items()}


# Add a family here: its name → what it measures, and how it starts.
FAMILIES: Mapping[str, Family] = {
    "sandbox": Family(_columns(score.COLUMNS), _sandbox),
    "clip": Family(_columns(features.CLIP_COLUMNS), _clip),
    "dino": Family(_columns(features.DINO_COLUMNS), _dino),
    "flow": Family(_columns(flow.COLUMNS), _flow),
    "judge": Family(
        _columns(judge.COLUMNS, judge.LOWEST, judge.HIGHEST)
        | _columns(judge.SPREADS, 0.0, judge.HIGHEST - judge.LOWEST),
        _judge,
    ),
}
