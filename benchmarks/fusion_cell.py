"""A cell that fuses LoRAs of one character each and asks for the characters alone and together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from benchmarks.footage import Data, make_strangers
from benchmarks.fusion_clips import Captions, Company, own_clips, pair_clips, written
from benchmarks.lora_cell import Training, judge, train_lora
from benchmarks.store import Store, clocked, seconds
from benchmarks.study import Outcome, Scores
from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import Caption, Clause, format, parse
from toolkit.captions.prompt_files import Prompt

SOLO = Training(steps=150, lr=4e-3)
"""Of a LoRA of one character: it sees a quarter of the clips of one of four."""

Method = Literal[
    "alone",
    "company",
    "joint",
    "prose",
    "weighted",
    "svd",
    "ties",
    "dare",
    "least-squares",
    "gradient",
    "masked",
]


@dataclass(frozen=True)
class Fusing:
    """All settings of a cell.

    Attributes:
        teams: Whose LoRAs are fused, each team into a file of its own; all metrics are named by team.
        method: One of castmix fuse; alone: nothing is fused, each character is asked for with its own LoRA;
            company: likewise, beside those of its team, whom the base is told in prose;
            joint: one LoRA learns from the clips of all; prose: no LoRA, the base is told their descriptions.
        captions: Of clips and prompts: the grammar, or prose with nouns.
        company: Half of a character's 16 clips show it beside another. If not, the 8 that show it alone are
            left; more alone: 16 of those.
        weight: Of each LoRA.
        rank: Of the result; none is the method's own.
        attention: Of gradient: the weight of the maps' loss.
        steps: Of gradient.
        lr: Of gradient.
        layout, sigma: Of masked: who lays out the picture (the base is told their bodies alone), and how far.
        single: Prompts for each character of a team alone.
        together: Prompts for all of a team.
        denoising: Steps of a video.
        guidance: How strongly prompts are followed.
    """

    teams: tuple[tuple[str, ...], ...] = (("Mimi", "Bruno"), ("Mimi", "Otto"))
    method: Method = "weighted"
    captions: Captions = "noun"
    company: Company = True
    weight: float = 1.0
    rank: int | None = None
    attention: float = 0.6
    steps: int = 250
    lr: float = 3e-4
    layout: Literal["sum", "base"] = "sum"
    sigma: float = 0.8
    single: int = 4
    together: int = 12
    denoising: int = 12
    guidance: float = 2.0


def run(settings: Fusing, seed: int, out: Path, store: Store) -> Outcome:
    """Train what is not trained yet, fuse, generate, judge."""
    from toolkit.commands.generate import generate
    from toolkit.sampling.settings import Masked, Sampling
    from toolkit.sandbox.world.shows import named_looks

    took = {"data": 0.0, "train": 0.0, "fuse": 0.0, "generate": 0.0, "judge": 0.0}
    scores: Scores = {}
    texts: dict[str, str] = {}
    article = "" if settings.captions == "noun" else "a "  # a noun stands after the name, or instead
    for team in settings.teams:
        asked = questions(team, settings.single, settings.together)
        folder = out / "videos" / "-".join(team).lower()
        for number, (loras, named, prompts) in enumerate(_sides(settings, team, asked, seed, store, took)):
            part = folder / f"{number}"
            if not (part / "run.yaml").exists():
                with clocked(part / "seconds"):
                    generate(
                        [spoken(settings, prompt.prompt, named) for prompt in prompts],
                        part,
                        lora=loras,
                        words=[f"{name}={article}{named_looks()[name].body}" for name in team],
                        masked=Masked(layout=settings.layout, sigma=settings.sigma),
                        sampling=Sampling(steps=settings.denoising, guidance_scale=settings.guidance),
                        seed=1000 * seed,
                        batch_size=1 if settings.method == "masked" else 8,
                    )
            start = time.monotonic()
            for metric, found in judge(sorted(part.glob("*.mp4")), prompts).items():
                scores.setdefault(metric, {}).update(found)
            took["generate"] += seconds(part)
            took["judge"] += time.monotonic() - start
            texts |= {prompt.id: prompt.prompt for prompt in prompts}
    return Outcome(scores, texts, {name: round(value, 1) for name, value in took.items()})


def spoken(settings: Fusing, prompt: str, named: Sequence[str]) -> str:
    """The prompt as it is sampled; in prose those who are not named are described."""
    caption = parse(prompt, read_cast())
    return written(caption, settings.captions if named else "noun", named)


def questions(team: Sequence[str], single: int, together: int) -> list[Prompt]:
    """Captions for each of a team alone, kind "single", and for all of it, kind by `kind`."""
    from toolkit.sandbox.world.actions import BASE_ACTIONS
    from toolkit.sandbox.world.scenery import SCENES

    cast = read_cast()
    styles = {name: cast.find(name)[0].style for name in team}
    actions, name_of_team = list(BASE_ACTIONS), "-".join(team).lower()

    def clause(name: str, number: int, where: int | None = None) -> Clause:
        place = "" if where is None else SCENES[where % len(SCENES)]
        action = actions[number % len(actions)]
        return Clause(name, f"{action} {'on' if place == 'beach' else 'in'} the {place}" if place else action)

    prompts = [
        Prompt(
            f"{name_of_team}-{name.lower()}-{k + 1:02d}",
            format(Caption((clause(name, 2 * k + i, k + i),), styles[name])),
            "single",
        )
        for i, name in enumerate(team)
        for k in range(single)
    ]
    for k in range(together):
        turned = [*team[k % len(team) :], *team[: k % len(team)]]
        clauses = [clause(turned[0], k, k), *(clause(n, 3 * k + 2 + i) for i, n in enumerate(turned[1:]))]
        scene = styles[team[k // 2 % len(team)]]
        text = format(Caption(tuple(clauses), scene))
        prompts.append(Prompt(f"{name_of_team}-{k + 1:02d}", text, kind(team)))
    return prompts


def kind(team: Sequence[str]) -> str:
    """What a team is called in the metrics: three, same-show, same-style, cross-style."""
    cast = read_cast()
    if len(team) > 2:
        return "three"
    shows = [cast.find(name)[0] for name in team]
    if all(a.id == b.id for a, b in pairwise(shows)):
        return "same-show"
    return "same-style" if all(a.style == b.style for a, b in pairwise(shows)) else "cross-style"


def subject_lora(name: str, captions: Captions, company: Company, seed: int, store: Store) -> Path:
    """The LoRA of one character."""
    return _trained((name,), SOLO, captions, company, seed, store)


def _trained(
    names: Sequence[str], training: Training, captions: Captions, company: Company, seed: int, store: Store
) -> Path:
    strangers = make_strangers(Data(), store)
    folders = [own_clips(name, captions, company, store) for name in names]
    settings = {
        "solo": list(names),
        "captions": captions,
        "company": company,
        "training": asdict(training),
        "seed": seed,
    }
    made = store.make("lora", settings, partial(train_lora, folders, strangers, training, seed))
    return made / "lora.safetensors"


def _sides(
    settings: Fusing, team: Sequence[str], asked: Sequence[Prompt], seed: int, store: Store, took: Any
) -> list[tuple[list[str], Sequence[str], list[Prompt]]]:
    """LoRAs, whom they know by name, and the prompts that they are asked."""
    if settings.method == "prose":
        return [([], (), list(asked))]
    if settings.method == "joint":
        training = replace(SOLO, steps=SOLO.steps * len(team))
        joint = _trained(team, training, settings.captions, settings.company, seed, store)
        took["train"] += seconds(joint.parent)
        return [([str(joint)], team, list(asked))]
    loras = {name: subject_lora(name, settings.captions, settings.company, seed, store) for name in team}
    took["train"] += sum(seconds(path.parent) for path in loras.values())
    if settings.method == "alone":
        alone = [p for p in asked if p.kind == "single"]
        own = {name: [p for p in alone if f"[Character: {name}]" in p.prompt] for name in team}
        return [([str(loras[name])], (name,), own[name]) for name in team]
    if settings.method == "company":
        met = [p for p in asked if p.kind != "single"]
        return [
            ([str(loras[name])], (name,), [replace(p, id=f"{p.id}-{name.lower()}") for p in met])
            for name in team
        ]
    fused = store.make(
        "fused",
        {name: value for name, value in asdict(settings).items() if name not in ASKING}
        | {"team": list(team), "seed": seed, "training": asdict(SOLO)},
        partial(_fuse, settings, team, list(loras.values()), seed, store),
    )
    took["fuse"] += seconds(fused)
    return [([str(fused / "lora.safetensors")], team, list(asked))]


ASKING = ("teams", "layout", "sigma", "single", "together", "denoising", "guidance")
"""Settings that a fused file does not depend on."""


def _fuse(
    settings: Fusing, team: Sequence[str], loras: Sequence[Path], seed: int, store: Store, path: Path
) -> None:
    from toolkit.commands.fuse import fuse
    from toolkit.fusion.settings import Distil, Examples, FusedFile
    from toolkit.training.settings import Optim

    method: Any = settings.method
    form, company = settings.captions, settings.company
    learns = method in ("least-squares", "gradient")
    fuse(
        [f"{lora}:{settings.weight:g}" for lora in loras],
        path,
        method=method,
        subjects=list(team),
        seed=seed,
        examples=Examples(
            clips=tuple(own_clips(name, form, company, store) for name in team) if learns else (),
            pairs=pair_clips(team, form, store) if method == "gradient" else None,
        ),
        distil=Distil(
            steps=settings.steps,
            attention=settings.attention,
            optim=Optim(lr=settings.lr, schedule="cosine", weight_decay=0.0),
        ),
        file=FusedFile(rank=settings.rank),
    )
