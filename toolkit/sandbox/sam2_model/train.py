"""How the sandbox's SAM 2 is trained: seven phases, each of which goes on where it stopped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from toolkit.core.files import save_torch
from toolkit.sandbox.sam2_model.batches import Cases, Wrong, batch, scout_error, wrong
from toolkit.sandbox.sam2_model.network import new_sam2
from toolkit.sandbox.sam2_model.rollout import Scout, encode, follow, settle

SAVE_EVERY = 50  # steps


@dataclass(frozen=True)
class Phase:
    """A part of the training: `steps` steps on `clips` cases each, `length` frames of them.

    Every object gets `prompts` prompts. `lr` is the peak of the learning rate; that of the image encoder is
    `encoder` times as high, and where this is 0, it is left alone; `scout` says whether a scout teaches it,
    too. `still`: all frames are the first one. `slow`: long cases, mostly crossings.
    """

    name: str
    length: int
    clips: int
    steps: int
    lr: float
    prompts: int = 1
    encoder: float = 0.25
    scout: bool = True
    still: bool = False
    slow: bool = False


def phases(
    prompts: int, pictures: int, copies: int, pairs: int, rows: int, crossings: int, refine: int
) -> tuple[Phase, ...]:
    """The seven phases, with this many steps each."""
    return (
        Phase("prompts", 1, 10, prompts, 5e-3, prompts=3, encoder=0),
        Phase("pictures", 1, 10, pictures, 5e-3, prompts=3),
        Phase("copies", 2, 10, copies, 4e-3, encoder=0, still=True),
        Phase("pairs", 2, 8, pairs, 4e-3),
        Phase("rows", 6, 4, rows, 3e-3, encoder=0),
        # a rate as high as before would undo what the memory has learnt
        Phase("crossings", 8, 3, crossings, 1.2e-3, encoder=0.1, scout=False, slow=True),
        Phase("refine", 8, 3, refine, 1e-3, encoder=0.1, scout=False, slow=True),
    )


class Optimiser:
    """Muon for the matrices of linear layers, AdamW for everything else: fewer steps than AdamW alone.

    encoder: how high the image encoder's learning rate is, beside that of everything else.
    """

    def __init__(self, learner: nn.Module, encoder: float) -> None:
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
    return nn.ModuleDict({"model": new_sam2(seed), "scout": Scout()})


def train_step(learner: nn.ModuleDict, cases: Cases, phase: Phase, seed: int) -> Wrong:
    """How wrong the model is on a batch drawn by the seed; gradients stay in its parameters."""
    g = torch.Generator().manual_seed(seed)
    these = batch(cases, phase.clips, 1 if phase.still else phase.length, g, phase.prompts)
    these = these.held(phase.length) if phase.still else these
    with torch.set_grad_enabled(phase.encoder > 0):
        seen = encode(learner["model"], these.pixels)
    found = wrong(follow(learner["model"], seen, these.rows, these.asked, these.present), these)
    loss = found.loss
    if phase.encoder and phase.scout:
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
    smooth = torch.optim.swa_utils.get_ema_multi_avg_fn(0.98)  # type: ignore[no-untyped-call]
    average = torch.optim.swa_utils.AveragedModel(learner, multi_avg_fn=smooth)
    optim, start, path = Optimiser(learner, phase.encoder), 0, folder / f"{phase.name}.state"
    if path.exists():
        state = torch.load(path, weights_only=True)
        learner.load_state_dict(state["learner"])
        average.load_state_dict(state["average"])
        optim.load_state_dict(state["optim"])
        start = int(state["step"])
    elif phase.still:
        _settle(learner, cases, seed)

    def steps() -> Iterator[tuple[int, Wrong]]:
        learner.train()
        for step in range(start, phase.steps):
            found = train_step(learner, cases, phase, _seed(seed, phase.name, step))
            torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
            optim.step(phase.lr * learning_rate(step, phase.steps))
            average.update_parameters(learner)
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == phase.steps:
                parts = {"learner": learner.state_dict(), "average": average.state_dict()}
                save_torch(parts | {"optim": optim.state_dict(), "step": step + 1}, path)
            yield step + 1, found
        learner.load_state_dict(average.module.state_dict())
        learner.eval()

    return start, steps()


def _settle(learner: nn.ModuleDict, cases: Cases, seed: int) -> None:
    """Make the memory ready to begin, see `sam2_follow.settle`."""
    these = batch(cases, 16, 1, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        settle(learner["model"], encode(learner["model"], these.pixels))


def learning_rate(step: int, steps: int) -> float:
    """What part of the peak: a short warm-up, then a cosine down to 3 %."""
    warm = min(1.0, (step + 1) / min(20, max(1, steps // 4)))
    return warm * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _seed(seed: int, name: str, step: int) -> int:
    return int(np.random.default_rng([seed, *name.encode(), step]).integers(2**62))
