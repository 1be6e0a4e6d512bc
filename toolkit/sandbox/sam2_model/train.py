"""Trains the sandbox's SAM 2 in seven phases. Each phase resumes where it was interrupted."""

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
from toolkit.sandbox.sam2_model.batches import Cases, StepLoss, auxiliary_loss, mask_loss, sample_batch
from toolkit.sandbox.sam2_model.network import new_sam2
from toolkit.sandbox.sam2_model.rollout import AuxiliaryHead, calibrate_memory, encode_images, track_objects

SAVE_EVERY = 50  # steps


@dataclass(frozen=True)
class Phase:
    """One phase of the training.

    Attributes:
        name: Name of the phase. Its state file and its random seeds depend on it.
        length: Number of frames per case.
        clips: Number of cases per step.
        steps: Number of steps.
        lr: Peak learning rate.
        prompts: Number of prompts per object.
        encoder: Learning rate of the image encoder relative to `lr`; 0 freezes it.
        auxiliary: Whether the auxiliary head trains the image encoder too.
        still: All frames are copies of the first one.
        slow: Use the slow cases: long ones, mostly crossings.
    """

    name: str
    length: int
    clips: int
    steps: int
    lr: float
    prompts: int = 1
    encoder: float = 0.25
    auxiliary: bool = True
    still: bool = False
    slow: bool = False


def phases(
    prompts: int, pictures: int, copies: int, pairs: int, rows: int, crossings: int, refine: int
) -> tuple[Phase, ...]:
    """Return the seven phases, with this many steps each."""
    return (
        Phase("prompts", 1, 10, prompts, 5e-3, prompts=3, encoder=0),
        Phase("pictures", 1, 10, pictures, 5e-3, prompts=3),
        Phase("copies", 2, 10, copies, 4e-3, encoder=0, still=True),
        Phase("pairs", 2, 8, pairs, 4e-3),
        Phase("rows", 6, 4, rows, 3e-3, encoder=0),
        # A learning rate as high as before would destroy what the memory has learned.
        Phase("crossings", 8, 3, crossings, 1.2e-3, encoder=0.1, auxiliary=False, slow=True),
        Phase("refine", 8, 3, refine, 1e-3, encoder=0.1, auxiliary=False, slow=True),
    )


class Optimiser:
    """Muon for the matrices of linear layers, AdamW for the rest. This needs fewer steps than AdamW alone.

    encoder: learning rate of the image encoder relative to the rest.
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
        """Update the parameters with their gradients, then clear the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr * group["share"]
            part.step()  # type: ignore[no-untyped-call]
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the states of both optimisers."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Load what `state_dict` returned."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def new_learner(seed: int) -> nn.ModuleDict:
    """Return the trained modules: the model, and its auxiliary head under the key "scout" of saved states."""
    return nn.ModuleDict({"model": new_sam2(seed), "scout": AuxiliaryHead()})


def train_step(learner: nn.ModuleDict, cases: Cases, phase: Phase, seed: int) -> StepLoss:
    """Compute the loss on the batch of this seed and its gradients. The caller updates the parameters."""
    g = torch.Generator().manual_seed(seed)
    these = sample_batch(cases, phase.clips, 1 if phase.still else phase.length, g, phase.prompts)
    these = these.repeat_first(phase.length) if phase.still else these
    with torch.set_grad_enabled(phase.encoder > 0):
        seen = encode_images(learner["model"], these.pixels)
    found = mask_loss(track_objects(learner["model"], seen, these.rows, these.prompts, these.present), these)
    loss = found.loss
    if phase.encoder and phase.auxiliary:
        loss = loss + 2 * auxiliary_loss(learner["scout"](seen), these.all_masks)
    loss.backward()  # type: ignore[no-untyped-call]
    return found


def fit(
    learner: nn.ModuleDict, cases: Cases, phase: Phase, folder: Path, seed: int
) -> tuple[int, Iterator[tuple[int, StepLoss]]]:
    """Train one phase, resuming from its state file.

    At the end the model has the exponential moving average of its weights.

    Returns:
        The number of steps done before, and an iterator that trains the remaining steps and yields
        (steps done, loss).
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
        _calibrate_memory(learner, cases, seed)

    def steps() -> Iterator[tuple[int, StepLoss]]:
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


def _calibrate_memory(learner: nn.ModuleDict, cases: Cases, seed: int) -> None:
    """Calibrate the memory on 16 cases before it is trained; see `rollout.calibrate_memory`."""
    these = sample_batch(cases, 16, 1, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        calibrate_memory(learner["model"], encode_images(learner["model"], these.pixels))


def learning_rate(step: int, steps: int) -> float:
    """Return the learning rate relative to its peak: a short warm-up, then a cosine decay to 3 %."""
    warm = min(1.0, (step + 1) / min(20, max(1, steps // 4)))
    return warm * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _seed(seed: int, name: str, step: int) -> int:
    return int(np.random.default_rng([seed, *name.encode(), step]).integers(2**62))
