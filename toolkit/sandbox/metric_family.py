"""The sandbox's metrics of `castmix evaluate`: the recognisers' predictions, scored by `prompt_score`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.evaluation.metrics import Family, Job, columns
from toolkit.evaluation.results_cache import cached
from toolkit.evaluation.videos import Measure, Measurement, ReadFrames, Video
from toolkit.sandbox.prompt_score import COLUMNS, judge_fingerprint, parse_prompt, score_verdict
from toolkit.sandbox.world.world import HEIGHT, WIDTH

if TYPE_CHECKING:
    from toolkit.sandbox.recogniser.verdict import Verdict


def _start(job: Job, names: Sequence[str]) -> Measure:
    """Load the recognisers and return the function that scores a video."""
    from toolkit.sandbox.recogniser import recognise
    from toolkit.sandbox.world.population import generic_looks, pretraining_cast
    from toolkit.sandbox.world.shows import named_looks

    model = recognise.load_recognisers()
    generic_names = {
        one.name: one.look for one in pretraining_cast(generic_looks(list(named_looks().values())))
    }

    def measure(video: Video, read_frames: ReadFrames) -> Measurement:
        asked = parse_prompt(video.prompt, job.cast, generic_names)
        verdict = recognise.recognise(model, read_frames()[0])
        return Measurement(score_verdict(verdict, asked), note=_seen(verdict))

    return cached(measure, job.cache, "sandbox", judge_fingerprint(recognise.WEIGHTS))


def _seen(verdict: Verdict) -> str:
    """Describe the recognisers' predictions in one line."""
    creatures = []
    for one in verdict.creatures:
        who = one.who or f"{one.pattern} {one.colour} {one.body} ({one.accessory})"
        creatures.append(f"{who}, {one.style}, {one.action}")
    scene = f"{verdict.scene}, {verdict.scene_style}"
    return "seen: " + " · ".join([*creatures, scene, *filter(None, [verdict.interaction])])


FAMILY = Family(columns(COLUMNS), _start, made_for=lambda video: video.size == (HEIGHT, WIDTH))
