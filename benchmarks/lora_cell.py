"""A cell that trains a LoRA for several characters, generates the benchmark's prompts and judges them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks.edges import edges
from benchmarks.footage import Data, make_clips, make_strangers
from benchmarks.forms import FORMS
from benchmarks.mixing import confusions
from benchmarks.store import Store, clocked, seconds
from benchmarks.study import Outcome, Scores
from toolkit.captions.benchmark_prompts import make_prompts
from toolkit.captions.cast import Cast, read_cast
from toolkit.captions.grammar import parse
from toolkit.captions.prompt_files import Prompt


@dataclass(frozen=True)
class Training:
    """How the LoRA is trained; alpha is the rank. 0 steps: no LoRA, the base model as it is.

    ratio: Composites as a share of the originals, when they are drawn; None: each as often as an original.
    per_show: One LoRA for each show's characters, `steps` each and without composites, summed when sampling.
    """

    steps: int = 400
    rank: int = 32
    targets: tuple[str, ...] = ("attn1", "attn2", "ffn")
    lr: float = 6e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    batch_size: int = 16
    preserve_share: float = 0.25
    caption_dropout: float = 0.05
    ratio: float | None = None
    per_show: bool = False


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
    guidance: float = 2.0


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
    from toolkit.commands.generate import generate
    from toolkit.sampling.settings import Sampling

    loras, took = _loras(recipe, seed, store)
    prompts, cast = questions(recipe), read_cast()
    folder = out / "videos"
    if not (folder / "run.yaml").exists():  # written last: what is there is complete and only judged
        with clocked(folder / "seconds"):
            generate(
                [spoken(prompt, recipe.data.captions, cast) for prompt in prompts],
                folder,
                lora=loras,
                sampling=Sampling(steps=recipe.sampling.denoising, guidance_scale=recipe.sampling.guidance),
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

    from toolkit.sandbox.world import population
    from toolkit.sandbox.world.actions import BASE_ACTIONS
    from toolkit.sandbox.world.scenery import SCENES
    from toolkit.sandbox.world.shows import named_looks
    from toolkit.sandbox.world.world import STYLES

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
        text = population.prose_caption(subjects, actions, SCENES[k % len(SCENES)], STYLES[k // 2 % 2])
        prompts.append(Prompt(f"prose-{k + 1:02d}", text, "prose"))
    return prompts


def spoken(prompt: Prompt, form: str, cast: Cast) -> str:
    """The prompt as the model is asked: written as the captions were that it has learnt from."""
    return prompt.prompt if prompt.kind == "prose" else FORMS[form](parse(prompt.prompt, cast))


def judge(videos: Sequence[Path], prompts: Sequence[Prompt]) -> Scores:
    """Metric → prompt → score; metrics are named with their kind of prompt, as "multi identity".

    Prompts about several characters count under their relation too, as "inter-style identity".
    """
    from toolkit.footage.video import read_video
    from toolkit.sandbox.prompt_score import parse_prompt, score_verdict
    from toolkit.sandbox.recogniser.recognise import load_recognisers, recognise_many
    from toolkit.sandbox.world.shows import named_looks

    cast, looks = read_cast(), named_looks()
    frames = [read_video(video)[0] for video in videos]
    verdicts = recognise_many(load_recognisers(), frames)
    scores: Scores = {}
    for prompt, pixels, verdict in zip(prompts, frames, verdicts, strict=True):
        wanted = parse_prompt(prompt.prompt, cast)
        found = {
            **score_verdict(verdict, wanted),
            **confusions(verdict, wanted, looks),
            **edges(pixels, verdict, wanted),
        }
        for metric, value in found.items():
            if value is not None:
                for kind in (prompt.kind, *prompt.relation):
                    scores.setdefault(f"{kind} {metric}", {})[prompt.id] = round(value, 4)
    return scores


def _loras(recipe: Recipe, seed: int, store: Store) -> tuple[list[str], dict[str, float]]:
    """LoRAs to generate with (one, none, or one for each show), and how long data and training took."""
    data, training = recipe.data, recipe.training
    took: dict[str, float] = {}
    if training.steps == 0:
        return [], took
    preserve = make_strangers(data, store) if training.preserve_share else None
    took["data"] = seconds(preserve) if preserve else 0.0
    took["train"] = 0.0
    loras = []
    for part in by_show(data) if training.per_show else [data]:
        folders, parts = make_clips(part, store)
        settings = {"data": asdict(part), "training": asdict(training), "seed": seed}
        made = store.make("lora", settings, partial(train_lora, folders, preserve, training, seed))
        took["data"] += sum(map(seconds, parts))
        took["train"] += seconds(made)
        loras.append(str(made / "lora.safetensors"))
    return loras, took


def by_show(data: Data) -> list[Data]:
    """The data of each show alone."""
    shows = [[character.name for character in show.characters] for show in read_cast().shows]
    own = [tuple(name for name in data.characters if name in show) for show in shows]
    return [replace(data, characters=names, composites=0) for names in own if names]


def train_lora(folders: list[Path], preserve: Path | None, training: Training, seed: int, path: Path) -> None:
    """Train one LoRA into a folder; goes on where it was stopped."""
    from toolkit.commands.train import train
    from toolkit.lora.settings import Adapter
    from toolkit.training.settings import Batches, Memory, Optim, Watch, can_compile

    train(
        folders,
        path,
        steps=training.steps,
        seed=seed,
        adapter=Adapter(rank=training.rank, alpha=float(training.rank), targets=training.targets),
        optim=Optim(lr=training.lr, schedule=training.schedule),
        batches=Batches(
            batch_size=training.batch_size,
            preserve=preserve,
            preserve_share=training.preserve_share,
            composites=training.ratio,
            caption_dropout=training.caption_dropout,
            holdout=0,
        ),
        # Compiled, a step takes little more than half the time; the same LoRA but for rounding.
        memory=Memory(precision="bfloat16", compile=can_compile()),
        watch=Watch(save_every=50, validate_every=0, sample_every=0),
    )
    (path / "state.safetensors").unlink()  # three times the LoRA, and finished
