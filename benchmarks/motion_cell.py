"""A cell that learns motions, each from one clip, and asks other creatures to make them elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.footage import Data, copy_clips, make_strangers
from benchmarks.motion_clips import TRAITS, Performance, film, perform, questions
from benchmarks.store import Store, clocked, seconds
from benchmarks.study import Outcome, Scores
from toolkit.captions.prompt_files import Prompt
from toolkit.lora.special_tokens import token_from_name


@dataclass(frozen=True)
class Imitation:
    """All settings of a cell.

    Attributes:
        motions: What is learnt: a LoRA each, from one clip.
        steps: Of each LoRA; 0: the base model as it is.
        batch_size: Noise levels a step.
        lr: Learning rate, falling in a cosine.
        rank: Of the LoRA.
        targets: Which layers it changes.
        heads: temporal: only those heads of self-attention.
        omega: Negative guidance (VideoMage).
        debiased: Weight of MotionDirector's loss.
        adjacent: Weight of the angle between changes from frame to frame.
        appearance: What is taken away: {subjects} is the token, {look} and {place} are what the truth says.
        token_steps: Of the token for the looks of who moves.
        preserve_share: Share of clips of the base's own world in a batch, to keep what it knows.
        shift: Of the noise levels in training.
        asked: Prompts for each motion with another creature in another place.
        other: Prompts for each motion that ask for something that the base can do.
        denoising: Steps of a video.
        guidance: How strongly prompts are followed.
    """

    motions: tuple[str, ...] = ("leans back", "drops from above", "trembles and jumps")
    steps: int = 200
    batch_size: int = 4
    lr: float = 2e-3
    rank: int = 32
    targets: tuple[str, ...] = ("motion-qk",)
    heads: str | None = None
    omega: float = 0.5
    debiased: float = 0.0
    adjacent: float = 0.0
    appearance: str = "{subjects} stands still"
    token_steps: int = 200
    preserve_share: float = 0.0
    shift: float = 5.0
    asked: int = 8
    other: int = 4
    denoising: int = 12
    guidance: float = 2.0


@dataclass(frozen=True)
class Spoken(Imitation):
    """An imitation whose verb is learned first, as a special token that clip and prompts are written with.

    Attributes:
        verb_steps: Of the token.
        repeat: How often the known word that it begins as is written.
    """

    verb_steps: int = 250
    repeat: int = 3


def run(settings: Imitation, seed: int, out: Path, store: Store) -> Outcome:
    """Train a LoRA of each motion, generate, judge."""
    from toolkit.commands.generate import generate
    from toolkit.sampling.settings import Sampling

    took = {"data": 0.0, "train": 0.0, "generate": 0.0, "judge": 0.0}
    scores: Scores = {}
    texts: dict[str, str] = {}
    for number, motion in enumerate(settings.motions):
        shown = perform(motion)
        loras: list[str] = []
        spoken = {motion: token_from_name(motion)} if isinstance(settings, Spoken) else {}
        if isinstance(settings, Spoken):
            told = motion_verb(settings, motion, seed, store)
            loras = [str(told / "verb.safetensors")]
            took["train"] += seconds(told)
        if settings.steps:
            clips, made = motion_lora(settings, motion, seed, store)
            loras = [str(made / "lora.safetensors")]
            took["data"] += seconds(clips)
            took["train"] += seconds(made)
        prompts = questions(shown, settings.asked, settings.other)
        folder = out / "videos" / f"{number}"
        if not (folder / "run.yaml").exists():
            with clocked(folder / "seconds"):
                generate(
                    [prompt.prompt.replace(motion, spoken.get(motion, motion)) for prompt in prompts],
                    folder,
                    lora=loras,
                    sampling=Sampling(steps=settings.denoising, guidance_scale=settings.guidance),
                    seed=1000 * seed + 100 * number,
                    batch_size=8,
                )
        start = time.monotonic()
        for metric, found in judge(sorted(folder.glob("*.mp4")), prompts, shown).items():
            scores.setdefault(metric, {}).update(found)
        took["generate"] += seconds(folder)
        took["judge"] += time.monotonic() - start
        texts |= {prompt.id: prompt.prompt for prompt in prompts}
    return Outcome(scores, texts, {name: round(value, 1) for name, value in took.items()})


ASKING = ("motions", "asked", "other", "denoising", "guidance")
"""Settings that a LoRA does not depend on."""


def motion_lora(settings: Imitation, motion: str, seed: int, store: Store) -> tuple[Path, Path]:
    """The folders of a motion's clip and of its LoRA."""
    shown = perform(motion)
    clips = store.make(
        "motion-clip",
        {"motion": motion, "token_steps": settings.token_steps, "seed": seed},
        partial(film, shown, settings.token_steps, seed),
    )
    if isinstance(settings, Spoken):
        clips = motion_verb(settings, motion, seed, store)
    learning = {name: value for name, value in asdict(settings).items() if name not in ASKING}
    made = store.make(
        "motion-lora",
        learning | {"motion": motion, "token_steps": settings.token_steps, "seed": seed},
        partial(_train, clips, shown, settings, seed, store),
    )
    return clips, made


def motion_verb(settings: Spoken, motion: str, seed: int, store: Store) -> Path:
    """The folder of a motion's clip, captioned with its token, and of the token."""
    plain = store.make(
        "motion-clip",
        {"motion": motion, "token_steps": settings.token_steps, "seed": seed},
        partial(film, perform(motion), settings.token_steps, seed),
    )
    asked = {"motion": motion, "verb_steps": settings.verb_steps, "repeat": settings.repeat, "seed": seed}
    return store.make("motion-verb", asked, partial(_name, plain, settings, motion, seed))


def _name(plain: Path, settings: Spoken, motion: str, seed: int, path: Path) -> None:
    """Learn the token of a motion, from whichever motion of the base explains the clip best."""
    from toolkit.commands.cache import cache
    from toolkit.commands.learn_tokens import learn_tokens, spoken_as
    from toolkit.footage.clips import read_clips, write_clip, write_index
    from toolkit.sandbox.world.actions import BASE_ACTIONS
    from toolkit.training.settings import Sigma, Verb

    copy_clips(read_clips(plain), plain, path)
    for clip in read_clips(path):
        write_clip(path, replace(clip, text=spoken_as(clip.text, token_from_name(motion), motion)))
    write_index(path)
    cache(path)
    (path / "tokens.safetensors").write_bytes((plain / "tokens.safetensors").read_bytes())
    learn_tokens(
        path,
        path / "verb.safetensors",
        verb=[f"{motion}={'|'.join(BASE_ACTIONS)}"],
        verbs=Verb(steps=settings.verb_steps, repeat=settings.repeat),
        sigma=Sigma(shift=settings.shift),
        seed=seed,
    )


def judge(videos: Sequence[Path], prompts: Sequence[Prompt], shown: Performance) -> Scores:
    """Metric → prompt → score.

    motion: the asked creature does it. carried: somebody does it. identity: the asked creature is there.
    leakage: of what was asked unlike the clip (traits, style, place), the share that is as in the clip. known
    motion: of prompts for what the base can do, whether it still does.
    """
    from toolkit.captions.cast import read_cast
    from toolkit.footage.video import read_video
    from toolkit.sandbox.prompt_score import parse_prompt, score_verdict
    from toolkit.sandbox.recogniser.recognise import load_recognisers, recognise_many

    cast = read_cast()
    verdicts = recognise_many(load_recognisers(), [read_video(video)[0] for video in videos])
    scores: Scores = {}
    for prompt, verdict in zip(prompts, verdicts, strict=True):
        wanted = parse_prompt(prompt.prompt, cast)
        found = score_verdict(verdict, wanted)
        if prompt.kind == "other":
            told: dict[str, Any] = {"known motion": found["motion"]}
        else:
            (part,) = wanted.creatures
            told = {
                "motion": found["motion"],
                "carried": float(any(one.action == shown.motion for one in verdict.creatures)),
                "identity": found["identity"],
            }
            own = {**vars(shown.look), "style": shown.style}
            said = {**part.look, "style": part.style}
            leaks = [float(verdict.scene == shown.scene)]
            for one in verdict.creatures[:1]:
                leaks += [float(getattr(one, t) == own[t]) for t in TRAITS if said.get(t) != own[t]]
            told["leakage"] = sum(leaks) / len(leaks)
        for metric, value in told.items():
            if value is not None:
                scores.setdefault(metric, {})[prompt.id] = round(float(value), 4)
    return scores


def _train(clips: Path, shown: Performance, settings: Imitation, seed: int, store: Store, path: Path) -> None:
    from toolkit.commands.train import train
    from toolkit.lora.settings import Adapter
    from toolkit.training.settings import Batches, Memory, Motion, Objective, Optim, Sigma, Watch

    strangers = make_strangers(Data(), store) if settings.preserve_share else None
    said = shown.appearance
    appearance = settings.appearance.replace("{look}", said["look"]).replace("{place}", said["place"])
    tokens = clips / "tokens.safetensors" if "{subjects}" in appearance and settings.omega else None
    motion = Motion(
        omega=settings.omega,
        appearance=appearance,
        tokens=tokens,
        debiased=settings.debiased,
        adjacent=settings.adjacent,
    )
    train(
        [clips],
        path,
        steps=settings.steps,
        seed=seed,
        adapter=Adapter(
            rank=settings.rank,
            alpha=float(settings.rank),
            targets=settings.targets,
            heads="temporal" if settings.heads else None,
            tokens=clips / "verb.safetensors" if isinstance(settings, Spoken) else None,
        ),
        optim=Optim(lr=settings.lr, schedule="cosine"),
        batches=Batches(
            batch_size=settings.batch_size,
            preserve=strangers,
            preserve_share=settings.preserve_share,
            caption_dropout=0,
            holdout=0,
        ),
        objective=Objective("motion", Sigma(shift=settings.shift), motion),
        memory=Memory(precision="bfloat16"),
        watch=Watch(save_every=50, validate_every=0, sample_every=0),
    )
    (path / "state.safetensors").unlink()
