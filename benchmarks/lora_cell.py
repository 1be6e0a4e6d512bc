"""A cell that trains one LoRA for several characters, generates the benchmark's prompts and judges them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.footage import Data, make_clips, make_strangers
from benchmarks.forms import FORMS
from benchmarks.store import Store, clocked, seconds
from benchmarks.study import Outcome, Scores
from toolkit.captions import parse
from toolkit.cast import Cast, read_cast
from toolkit.prompts import Prompt, make_prompts


@dataclass(frozen=True)
class Training:
    """How the LoRA is trained; alpha is the rank. 0 steps: no LoRA, the base model as it is."""

    steps: int = 400
    rank: int = 32
    targets: tuple[str, ...] = ("attn1", "attn2", "ffn")
    lr: float = 8e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    batch_size: int = 16
    preserve_share: float = 0.2
    caption_dropout: float = 0.05


@dataclass(frozen=True)
class Sampling:
    """What is generated to be judged.

    Attributes:
        kinds: Of the benchmark's prompts, cast with the data's characters: single, multi.
        repeats: Videos a prompt, each of other noise.
        prose: Prompts about generic creatures, in prose: what the base model could do before.
        denoising: Steps of a video.
        guidance: How strongly prompts are followed.
    """

    kinds: tuple[str, ...] = ("single", "multi")
    repeats: int = 1
    prose: int = 0
    denoising: int = 12
    guidance: float = 1.5


@dataclass(frozen=True)
class Recipe:
    """All settings of a cell."""

    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)
    sampling: Sampling = field(default_factory=Sampling)

    def but(self, **changes: Any) -> Recipe:
        """This recipe with other values, named without their group: ``recipe.but(rank=4, clips=16)``."""
        groups = {}
        for each in fields(self):
            group = getattr(self, each.name)
            names = {inner.name for inner in fields(group)} & changes.keys()
            groups[each.name] = replace(group, **{name: changes.pop(name) for name in sorted(names)})
        if changes:
            raise TypeError(f"no setting {', '.join(changes)} in Data, Training or Sampling")
        return Recipe(**groups)


def run(recipe: Recipe, seed: int, out: Path, store: Store) -> Outcome:
    """Train (or take the LoRA that another cell trained alike), generate, judge."""
    from toolkit.generate import generate

    loras, took = _lora(recipe, seed, store)
    prompts, cast = questions(recipe), read_cast()
    folder = out / "videos"
    if not (folder / "run.yaml").exists():  # written last: what is there is complete and only judged
        with clocked(folder / "seconds"):
            generate(
                [spoken(prompt, recipe.data.captions, cast) for prompt in prompts],
                folder,
                lora=loras,
                steps=recipe.sampling.denoising,
                guidance_scale=recipe.sampling.guidance,
                seed=1000 * seed,
                batch_size=8,
            )
    start = time.monotonic()
    scores = judge(sorted(folder.glob("*.mp4")), prompts)
    took |= {"generate": seconds(folder), "judge": time.monotonic() - start}
    texts = {prompt.id: prompt.prompt for prompt in prompts}
    return Outcome(scores, texts, {name: round(value, 1) for name, value in took.items()})


def questions(recipe: Recipe) -> list[Prompt]:
    """What is asked, in the grammar or in prose, with repeats as `id`#2, `id`#3."""
    wanted = recipe.sampling
    once = [p for p in make_prompts("sandbox", recipe.data.characters) if p.kind in wanted.kinds]
    once += prose_prompts(wanted.prose)
    again = [replace(p, id=f"{p.id}#{n}") for n in range(2, wanted.repeats + 1) for p in once]
    return once + again


def prose_prompts(count: int) -> list[Prompt]:
    """Prompts as the base model knows them, about looks that it never saw: one creature, two, one, two …"""
    import numpy as np

    from toolkit.sandbox import population
    from toolkit.sandbox.actions import BASE_ACTIONS
    from toolkit.sandbox.scenery import SCENES
    from toolkit.sandbox.shows import named_looks
    from toolkit.sandbox.world import STYLES

    looks = population.generic_looks(list(named_looks().values()), held_out=True)
    rng = np.random.default_rng(0)
    prompts: list[Prompt] = []
    while len(prompts) < count:
        k = len(prompts)
        chosen = [looks[int(i)] for i in rng.choice(len(looks), 1 + k % 2, replace=False)]
        if len({look.body for look in chosen}) < len(chosen) or len({look.colour for look in chosen}) < len(
            chosen
        ):
            continue  # two alike could not be told apart
        actions = [str(action) for action in rng.choice(list(BASE_ACTIONS), len(chosen))]
        subjects = [population.describe(look) for look in chosen]
        text = population.prose(subjects, actions, SCENES[k % len(SCENES)], STYLES[k // 2 % 2])
        prompts.append(Prompt(f"prose-{k + 1:02d}", text, "prose"))
    return prompts


def spoken(prompt: Prompt, form: str, cast: Cast) -> str:
    """The prompt as the model is asked: written as the captions were that it has learnt from."""
    return prompt.prompt if prompt.kind == "prose" else FORMS[form](parse(prompt.prompt, cast))


def judge(videos: Sequence[Path], prompts: Sequence[Prompt]) -> Scores:
    """Metric → prompt → score; metrics are named with their kind of prompt, as "multi identity"."""
    from toolkit.sandbox.recognise import load_recognisers, recognise_many
    from toolkit.sandbox.score import asked, score
    from toolkit.video import read_video

    cast = read_cast()
    verdicts = recognise_many(load_recognisers(), [read_video(video)[0] for video in videos])
    scores: Scores = {}
    for prompt, verdict in zip(prompts, verdicts, strict=True):
        for metric, value in score(verdict, asked(prompt.prompt, cast)).items():
            if value is not None:
                scores.setdefault(f"{prompt.kind} {metric}", {})[prompt.id] = round(value, 4)
    return scores


def _lora(recipe: Recipe, seed: int, store: Store) -> tuple[list[str], dict[str, float]]:
    """LoRAs to generate with (one, or none), and how long data and training took."""
    if recipe.training.steps == 0:
        return [], {}
    folders, parts = make_clips(recipe.data, store)
    preserve = make_strangers(recipe.data, store) if recipe.training.preserve_share else None
    settings = {"data": asdict(recipe.data), "training": asdict(recipe.training), "seed": seed}
    made = store.make("lora", settings, lambda path: _train(path, folders, preserve, recipe.training, seed))
    took = {"data": sum(map(seconds, [*parts, *([preserve] if preserve else [])])), "train": seconds(made)}
    return [str(made / "lora.safetensors")], took


def _train(path: Path, folders: list[Path], preserve: Path | None, training: Training, seed: int) -> None:
    from toolkit.settings import Adapter, Memory, Optim, Watch
    from toolkit.train import train

    train(
        folders,
        path,
        steps=training.steps,
        batch_size=training.batch_size,
        preserve=preserve,
        preserve_share=training.preserve_share,
        holdout=0,
        caption_dropout=training.caption_dropout,
        save_every=50,
        seed=seed,
        adapter=Adapter(rank=training.rank, alpha=float(training.rank), targets=training.targets),
        optim=Optim(lr=training.lr, schedule=training.schedule),
        memory=Memory(precision="bfloat16"),
        watch=Watch(validate_every=0, sample_every=0),
    )
    (path / "state.safetensors").unlink()  # three times the LoRA, and finished
