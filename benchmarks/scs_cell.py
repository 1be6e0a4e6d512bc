"""A cell that samples characters and a motion together, which were learnt apart."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.forms import noun
from benchmarks.fusion_cell import subject_lora
from benchmarks.motion_cell import Imitation, Spoken, motion_lora
from benchmarks.motion_clips import TRAITS, Performance, perform
from benchmarks.store import Store, clocked, seconds
from benchmarks.study import Outcome, Scores
from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import Caption, Clause, format, parse
from toolkit.captions.prompt_files import Prompt
from toolkit.lora.special_tokens import token_from_name


@dataclass(frozen=True)
class Meeting:
    """All settings of a cell.

    Attributes:
        casts: Who makes each motion: one character, or two that make it together.
        imitation: How the motions were learnt.
        sampler: As castmix generate has it; subject alone and motion alone leave the other LoRA out.
        eta, alpha, window, every, spatial, temporal, inversion: See toolkit.Collaboration; inversion 0
            is without the motion's clip.
        beta_subject, beta_motion: Shares of the branches at noise level 1 and at 0.
        prompts: For each motion and cast.
        denoising: Steps of a video.
        guidance: How strongly prompts are followed.
    """

    casts: tuple[tuple[str, ...], ...] = (("Mimi",), ("Otto",))
    imitation: Imitation = field(default_factory=Imitation)
    sampler: Literal["euler", "scs", "scs-lite", "subject alone", "motion alone"] = "scs"
    eta: float = 0.02
    alpha: float | None = None
    window: tuple[float, float] = (0.77, 1.0)
    every: int = 1
    spatial: bool = True
    temporal: bool = True
    inversion: float = 0.0
    beta_subject: tuple[float, float] = (0.5, 0.5)
    beta_motion: tuple[float, float] = (0.5, 0.5)
    prompts: int = 4
    denoising: int = 12
    guidance: float = 2.0


def run(settings: Meeting, seed: int, out: Path, store: Store) -> Outcome:
    """Take (or train) the LoRAs, generate, judge."""
    took = {"data": 0.0, "train": 0.0, "generate": 0.0, "judge": 0.0}
    scores: Scores = {}
    texts: dict[str, str] = {}
    for number, motion in enumerate(settings.imitation.motions):
        clips, learnt = motion_lora(settings.imitation, motion, seed, store)
        took["data"] += seconds(clips)
        took["train"] += seconds(learnt)
        shown = perform(motion)
        for cast in settings.casts:
            loras = [subject_lora(name, "noun", True, seed, store) for name in cast]
            took["train"] += sum(seconds(lora.parent) for lora in loras)
            prompts = questions(motion, cast, shown.scene, settings.prompts)
            folder = out / "videos" / f"{number}-{'-'.join(cast).lower()}"
            if not (folder / "run.yaml").exists():
                with clocked(folder / "seconds"):
                    _generate(
                        settings, prompts, cast, folder, loras, learnt, clips, 1000 * seed + 100 * number
                    )
            start = time.monotonic()
            for metric, found in judge(sorted(folder.glob("*.mp4")), prompts, shown).items():
                scores.setdefault(metric, {}).update(found)
            took["generate"] += seconds(folder)
            took["judge"] += time.monotonic() - start
            texts |= {prompt.id: prompt.prompt for prompt in prompts}
    return Outcome(scores, texts, {name: round(value, 1) for name, value in took.items()})


def questions(motion: str, cast: Sequence[str], not_there: str, count: int) -> list[Prompt]:
    """Captions in which all of a cast make the motion, in the first one's style, not where the clip was."""
    from toolkit.sandbox.world.scenery import SCENES

    style = read_cast().find(cast[0])[0].style
    places = [scene for scene in SCENES if scene != not_there]
    prompts = []
    for k in range(count):
        place = places[k % len(places)]
        clauses = [Clause(cast[0], f"{motion} {'on' if place == 'beach' else 'in'} the {place}")]
        clauses += [Clause(name, motion) for name in cast[1:]]
        slug = f"{motion.replace(' ', '-')}-{'-'.join(cast).lower()}-{k + 1:02d}"
        prompts.append(
            Prompt(slug, format(Caption(tuple(clauses), style)), "one" if len(cast) == 1 else "two")
        )
    return prompts


def judge(videos: Sequence[Path], prompts: Sequence[Prompt], shown: Performance) -> Scores:
    """Metric → prompt → score.

    identity: the asked characters are seen. motion: they are, and make the motion. carried: somebody makes
    it. leakage: of what is unlike the motion's clip by right (looks, style, place), the share that is as in
    the clip.
    """
    from toolkit.footage.video import read_video
    from toolkit.sandbox.prompt_score import parse_prompt, score_verdict
    from toolkit.sandbox.recogniser.recognise import load_recognisers, recognise_many
    from toolkit.sandbox.world.shows import named_looks

    cast, looks = read_cast(), named_looks()
    verdicts = recognise_many(load_recognisers(), [read_video(video)[0] for video in videos])
    scores: Scores = {}
    for prompt, verdict in zip(prompts, verdicts, strict=True):
        wanted = parse_prompt(prompt.prompt, cast)
        found = score_verdict(verdict, wanted)
        own = {**vars(shown.look), "style": shown.style}
        said = [{**vars(looks[part.who]), "style": part.style} for part in wanted.creatures]
        leaks = [float(verdict.scene == shown.scene)]
        for one in verdict.creatures[: len(said)]:
            leaks += [
                float(getattr(one, t) == own[t]) for t in TRAITS if all(own[t] != look[t] for look in said)
            ]
        told: dict[str, Any] = {
            "identity": found["identity"],
            "motion": found["motion"],
            "binding": found["binding"],
            "carried": float(any(one.action == shown.motion for one in verdict.creatures)),
            "leakage": sum(leaks) / len(leaks),
        }
        for metric, value in told.items():
            if value is not None:
                scores.setdefault(f"{prompt.kind} {metric}", {})[prompt.id] = round(float(value), 4)
    return scores


def _generate(
    settings: Meeting,
    prompts: Sequence[Prompt],
    cast: Sequence[str],
    folder: Path,
    subjects: Sequence[Path],
    learnt: Path,
    clips: Path,
    seed: int,
) -> None:
    from toolkit.commands.generate import generate
    from toolkit.sampling.settings import Collaboration, Sampling
    from toolkit.sandbox.world.shows import named_looks

    together = settings.sampler in ("scs", "scs-lite")
    alone = {"subject alone": "subject", "motion alone": "motion"}.get(settings.sampler)
    sampler: Any = settings.sampler if together else "euler"
    # the motion branch is asked for class nouns: "a Mimi bear jumps" without the name (VideoMage, Alg. 1)
    texts = [noun(parse(prompt.prompt, read_cast()), cast) for prompt in prompts]
    if isinstance(settings.imitation, Spoken):
        for motion in settings.imitation.motions:
            texts = [text.replace(motion, token_from_name(motion)) for text in texts]
    generate(
        texts,
        folder,
        subject=[str(lora) for lora in subjects] if alone != "motion" else [],
        motion=str(learnt / "lora.safetensors") if alone != "subject" else None,
        words=[f"{name}={named_looks()[name].body}" for name in cast] if together else (),
        sampling=Sampling(
            sampler=sampler,
            steps=settings.denoising,
            guidance_scale=settings.guidance,
            motion_prompt=[_nameless(text, cast) for text in texts] if together else (),
            motion_clip=clips / "clips" / "clip.mp4" if settings.inversion else None,
        ),
        seed=seed,
        batch_size=1 if together else 4,
        collaboration=Collaboration(
            eta=settings.eta,
            alpha=settings.alpha,
            sigma_window=settings.window,
            every=settings.every,
            beta_subject=settings.beta_subject,
            beta_motion=settings.beta_motion,
            spatial=settings.spatial,
            temporal=settings.temporal,
            inversion=settings.inversion or 0.3,
        ),
    )


def _nameless(text: str, cast: Sequence[str]) -> str:
    for name in cast:
        text = text.replace(f" {name} ", " ")
    return text
