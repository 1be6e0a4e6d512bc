"""The sandbox's metrics for `castmix evaluate`: recognisers read the video, `prompt_score` judges it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.evaluation.metrics import Family, Job, columns
from toolkit.evaluation.results_cache import cached
from toolkit.evaluation.videos import Measure, Measurement, ReadFrames, Video
from toolkit.sandbox import prompt_score as score
from toolkit.sandbox.world.world import HEIGHT, WIDTH

if TYPE_CHECKING:
    from toolkit.sandbox.recogniser.verdict import Verdict


def _start(job: Job, names: Sequence[str]) -> Measure:
    """Load the recognisers; see `toolkit.sandbox.prompt_score` for what is measured."""
    from toolkit.sandbox.recogniser import recognise
    from toolkit.sandbox.world.population import generic_looks, pretraining_cast
    from toolkit.sandbox.world.shows import named_looks

    model = recognise.load_recognisers()
    members = {one.name: one.look for one in pretraining_cast(generic_looks(list(named_looks().values())))}

    def measure(video: Video, read_frames: ReadFrames) -> Measurement:
        asked = score.asked(video.prompt, job.cast, members)
        verdict = recognise.recognise(model, read_frames()[0])
        return Measurement(score.score(verdict, asked), note=_seen(verdict))

    return cached(measure, job.cache, "sandbox", score.judge_fingerprint(recognise.WEIGHTS))


def _seen(verdict: Verdict) -> str:
    """What the recognisers saw, in a line."""
    creatures = []
    for one in verdict.creatures:
        who = one.who or f"{one.pattern} {one.colour} {one.body} ({one.accessory})"
        creatures.append(f"{who}, {one.style}, {one.action}")
    scene = f"{verdict.scene}, {verdict.scene_style}"
    return "seen: " + " · ".join([*creatures, scene, *filter(None, [verdict.interaction])])


FAMILY = Family(columns(score.COLUMNS), _start, made_for=lambda video: video.size == (HEIGHT, WIDTH))
