"""`castmix sandbox pretrain-sam2`: the sandbox's SAM 2 from nothing, on one core in about half an hour.

Cases are drawn (`sam2_examples`), then the model learns in four phases: what a prompt means, while the image
encoder is left alone (both at once get in each other's way); single pictures; pairs of frames, where the
memory begins to work and shapes the encoder; and, with the encoder left alone again, six frames in a row, as
it will be used. Every part goes on where it stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.data import write_atomic
from toolkit.errors import CastmixError
from toolkit.progress import say, stage, track
from toolkit.run import write_run
from toolkit.sandbox.population import generic_looks
from toolkit.sandbox.shows import named_looks

if TYPE_CHECKING:
    from torch import nn

    from toolkit.sandbox.sam2_batches import Cases, Wrong

SAVE_EVERY, SAY_EVERY = 50, 50  # steps


@dataclass(frozen=True)
class Phase:
    """A part of the training: `steps` steps on `clips` cases each, `length` frames of them.

    Every object gets `prompts` prompts. `lr` is the peak of the learning rate; that of the image encoder is
    `encoder` times as high, and where this is 0, it is left alone.
    """

    name: str
    length: int
    clips: int
    steps: int
    lr: float
    prompts: int = 1
    encoder: float = 0.25


def phases(prompts: int, pictures: int, pairs: int, rows: int) -> tuple[Phase, ...]:
    """The four phases, with this many steps each."""
    return (
        Phase("prompts", 1, 10, prompts, 5e-3, prompts=3, encoder=0),
        Phase("pictures", 1, 10, pictures, 5e-3, prompts=3),
        Phase("pairs", 2, 8, pairs, 4e-3),
        Phase("rows", 6, 4, rows, 3e-3, encoder=0),
    )


class Optimiser:
    """Muon for the matrices of linear layers, AdamW for everything else: fewer steps than AdamW alone.

    encoder: how high the image encoder's learning rate is, beside that of everything else.
    """

    def __init__(self, learner: nn.Module, encoder: float) -> None:
        import torch
        from torch import nn

        linear = {
            id(m.weight) for m in learner.modules() if isinstance(m, nn.Linear) and min(m.weight.shape) >= 16
        }
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, p in learner.named_parameters():
            groups.setdefault((id(p) in linear, "vision_encoder" in name), []).append(p)

        def rates(flat: bool) -> list[dict[str, Any]]:
            both = ((inside, encoder if inside else 1.0) for inside in (False, True))
            return [{"params": groups[flat, inside], "share": share} for inside, share in both]

        self.parts = (
            torch.optim.Muon(rates(True), lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rates(False), lr=1.0, betas=(0.9, 0.98), weight_decay=0.0),
        )

    def step(self, lr: float) -> None:
        """One update with the gradients that are there; they are dropped after it."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr * group["share"]
            part.step()  # type: ignore[no-untyped-call]
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """Of both parts."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """As `state_dict` gave it."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def new_learner(seed: int) -> nn.ModuleDict:
    """What is trained: the `model`, and its `scout`."""
    from torch import nn

    from toolkit.sandbox.sam2_net import Scout, new_sam2

    return nn.ModuleDict({"model": new_sam2(seed), "scout": Scout()})


def train_step(learner: nn.ModuleDict, cases: Cases, phase: Phase, seed: int) -> Wrong:
    """How wrong the model is on a batch drawn by the seed; gradients stay in its parameters."""
    import torch

    from toolkit.sandbox.sam2_batches import batch, scout_error, wrong
    from toolkit.sandbox.sam2_net import encode, follow

    g = torch.Generator().manual_seed(seed)
    these = batch(cases, phase.clips, phase.length, g, phase.prompts)
    with torch.set_grad_enabled(phase.encoder > 0):
        seen = encode(learner["model"], these.pixels)
    found = wrong(follow(learner["model"], seen, these.rows, these.asked, these.present), these)
    loss = found.loss
    if phase.encoder:
        loss = loss + 2 * scout_error(learner["scout"](seen), these.everybody)
    loss.backward()  # type: ignore[no-untyped-call]
    return found


def fit(
    learner: nn.ModuleDict, cases: Cases, phase: Phase, folder: Path, seed: int
) -> tuple[int, Iterator[tuple[int, Wrong]]]:
    """Train through a phase, going on from its state file.

    Returns how many steps were done before, and what trains the others: it yields (steps done, how wrong). In
    the end the model has the average of its late weights.
    """
    import torch

    smooth = torch.optim.swa_utils.get_ema_multi_avg_fn(0.98)  # type: ignore[no-untyped-call]
    average = torch.optim.swa_utils.AveragedModel(learner, multi_avg_fn=smooth)
    optim, start, path = Optimiser(learner, phase.encoder), 0, folder / f"{phase.name}.state"
    if path.exists():
        state = torch.load(path, weights_only=True)
        learner.load_state_dict(state["learner"])
        average.load_state_dict(state["average"])
        optim.load_state_dict(state["optim"])
        start = int(state["step"])

    def steps() -> Iterator[tuple[int, Wrong]]:
        learner.train()
        for step in range(start, phase.steps):
            found = train_step(learner, cases, phase, _seed(seed, phase.name, step))
            torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
            optim.step(phase.lr * learning_rate(step, phase.steps))
            average.update_parameters(learner)
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == phase.steps:
                parts = {"learner": learner.state_dict(), "average": average.state_dict()}
                _save(parts | {"optim": optim.state_dict(), "step": step + 1}, path)
            yield step + 1, found
        learner.load_state_dict(average.module.state_dict())
        learner.eval()

    return start, steps()


def learning_rate(step: int, steps: int) -> float:
    """What part of the peak: a short warm-up, then a cosine down to 3 %."""
    warm = min(1.0, (step + 1) / min(20, max(1, steps // 4)))
    return warm * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _seed(seed: int, name: str, step: int) -> int:
    import numpy as np

    return int(np.random.default_rng([seed, len(name), step]).integers(2**62))


def _save(value: Any, path: Path) -> None:
    import torch

    partial = path.with_suffix(".tmp")
    torch.save(value, partial)
    partial.replace(path)


def pretrain_sam2(
    out: Path,
    *,
    cases: int = 1500,
    prompts: int = 150,
    pictures: int = 600,
    pairs: int = 450,
    rows: int = 500,
    measure: int = 16,
    seed: int = 0,
) -> Path:
    """Make the sandbox's SAM 2 from nothing, on one core; again, it goes on where it stopped.

    Args:
        out: Folder for the drawn cases, training states, what was measured, and the result, `sam2`.
        cases: How many cases to draw, in files of a hundred.
        prompts: Steps on single pictures in which the image encoder does not learn yet, 10 pictures each.
        pictures: Steps on single pictures, 10 each.
        pairs: Steps on pairs of frames, 8 each.
        rows: Steps on six frames in a row, 4 each; the image encoder learns no more.
        measure: In the end, how many clips of every kind to follow named characters through; 0 for none.
        seed: Of every random draw.

    Returns:
        The model's folder, in 16 bits, as the backend "sam2" takes it for its checkpoint.
    """
    import torch

    from toolkit.sandbox.sam2_batches import SHARD, Cases, draw_shard

    steps = {"prompts": prompts, "pictures": pictures, "pairs": pairs, "rows": rows}
    if min(cases, *steps.values()) < 1:
        raise CastmixError(f"cases and steps are 1 or more, got {cases} cases and {steps}")
    arguments = {"out": out, "cases": cases, **steps, "measure": measure, "seed": seed}
    out.mkdir(parents=True, exist_ok=True)
    looks = generic_looks(list(named_looks().values()))
    files = [out / f"cases-{index:03d}.npz" for index in range(-(-cases // SHARD))]
    stage(f"drawing {len(files) * SHARD} cases")
    for index, path in enumerate(track(files, "drawing")):
        if not path.exists():
            draw_shard(path, index, looks)
    drawn, learner = Cases.read(files), new_learner(seed)
    for phase in phases(**steps):
        stage(f"{phase.name}: {phase.length} frames of {phase.clips} cases a step")
        _train(learner, drawn, phase, out, seed)
    folder = out / "sam2"
    model: Any = learner["model"]
    model.to(torch.float16).save_pretrained(folder)
    count = sum(p.numel() for p in model.parameters())
    size = sum(path.stat().st_size for path in folder.iterdir())
    say(f"{folder}: {count / 1e6:.2f} M parameters, {size / 1e6:.1f} MB")
    facts = _measure(folder, out, measure) if measure else {}
    write_run(out / "run.yaml", "pretrain-sam2", arguments, followed=facts)
    return folder


def _train(learner: nn.ModuleDict, cases: Cases, phase: Phase, folder: Path, seed: int) -> None:
    """Go through a phase and say now and then how it goes."""
    recent: list[tuple[float, float, float]] = []
    start, steps = fit(learner, cases, phase, folder, seed)
    for step, found in track(steps, phase.name, total=phase.steps, start=start):
        recent.append((found.loss.item(), found.prompted, found.tracked))
        if step % SAY_EVERY == 0 or step == phase.steps:
            loss, prompted, tracked = (sum(column) / len(recent) for column in zip(*recent, strict=True))
            said = f"{phase.name} {step}: loss {loss:.3f}, IoU of prompted frames {prompted:.3f}"
            say(said + (f", of those that follow {tracked:.3f}" if phase.length > 1 else ""))
            recent.clear()


def _measure(checkpoint: Path, out: Path, clips: int) -> dict[str, dict[str, float]]:
    """Follow named characters; the table is said and kept."""
    from toolkit.sandbox.sam2_report import as_rows, measure_sam2, table

    stage("following named characters")
    results = measure_sam2(str(checkpoint), out / "followed", clips=clips)
    say(table(results))
    facts = as_rows(results)
    write_atomic(out / "followed.json", json.dumps(facts, indent=1) + "\n")
    return facts
