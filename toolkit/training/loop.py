"""The third part of training: the loop. `train_step` is one step; `train` repeats it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.core.progress import say, track
from toolkit.core.signals import stop_signals
from toolkit.lora.file import save_lora
from toolkit.lora.layers import extract
from toolkit.lora.settings import LORA_FILE
from toolkit.models.flow_matching import interpolate
from toolkit.models.interfaces import Denoiser
from toolkit.training.batches import draw, validation
from toolkit.training.checkpoint import STATE, save_checkpoint
from toolkit.training.metrics_log import Metrics
from toolkit.training.objectives import Criterion, velocity_loss
from toolkit.training.optimizer import set_learning_rate
from toolkit.training.plan import Plan
from toolkit.training.processes import any_process, sum_over_processes
from toolkit.training.prompts import Prompts

if TYPE_CHECKING:
    from accelerate import Accelerator

ADAPTER = "castmix"
VALIDATION_LEVELS = 4
SMALL = 1024
"""Tokens up to which plain attention is faster on a CPU."""


@dataclass(frozen=True)
class Run:
    """All that stays the same from the first step to the last.

    Attributes:
        plan: Settings and clips.
        accelerator: Device and processes.
        denoiser: The base model with the adapter.
        parameters: The adapter's tensors.
        optimizer: Over these tensors, in their order.
        prompts: Embeddings that the clips' caches do not have.
        criterion: The objective.
        shift: Shift of the noise levels.
        precision: Precision of the forward and backward pass.
        metadata: Metadata of the trained file.
        preview: Makes sample videos after a step; None makes none.
        facts: Measurements for run.yaml.
    """

    plan: Plan
    accelerator: Accelerator
    denoiser: Denoiser
    parameters: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    prompts: Prompts
    criterion: Criterion
    shift: float
    precision: torch.dtype
    metadata: dict[str, str]
    preview: Callable[[Denoiser, int], None] | None
    facts: dict[str, Any]

    @property
    def process(self) -> tuple[int, int]:
        """The number of this process, from 0, and the number of all processes."""
        return self.accelerator.process_index, self.accelerator.num_processes


def train(run: Run) -> None:
    """Train to the last step, from where the run stands.

    Raises:
        CastmixError: a loss that is not finite.
        KeyboardInterrupt: after Ctrl-C, when the state is saved.
    """
    plan, done = run.plan, run.plan.start
    with stop_signals() as stop, _open_metrics(run) as metrics:
        if plan.start == 0:
            _observe(run, 0, metrics)
        for step in _track_steps(run):
            began = time.perf_counter()
            values = train_step(run, step)
            done = step + 1
            if metrics is not None:
                metrics.write(done, {**values, "seconds": time.perf_counter() - began})
            stopped = any_process(run.accelerator, stop.is_set())
            _observe(run, done, metrics)
            if done == plan.steps or stopped or _is_due(done, plan.watch.save_every):
                save(run, done)
            if stopped:
                break
    run.accelerator.wait_for_everyone()
    if done < plan.steps:
        say(f"stopped after step {done} of {plan.steps}; the same command resumes")
        raise KeyboardInterrupt


def train_step(run: Run, step: int) -> dict[str, float]:
    """One training step: the mean losses, the learning rate and the norm of the gradient.

    A batch is computed in one part per latent shape; gradients add up.
    """
    plan, device = run.plan, run.accelerator.device
    sums = torch.zeros(2, device=device)  # losses of new rows and of preserved rows
    for batch in draw(plan.mix, run.prompts, step, plan.objective.sigma, run.shift, run.process):
        batch = batch.to(device)
        with _attention(device, batch.latents):
            with _autocast(run):
                x = interpolate(batch.latents, batch.noise, batch.sigma)
                target = run.criterion.target(run.denoiser, x, batch)  # velocity: noise - latents
                predicted = run.denoiser(x, batch.sigma, batch.prompt_embeds).float()
                losses = run.criterion.loss(predicted, target, batch)  # (B,)
            (losses.sum() / plan.mix.batch_size).backward()  # type: ignore[no-untyped-call]
        sums += torch.stack([losses.detach()[rows].sum() for rows in (~batch.preserved, batch.preserved)])
    sums = sum_over_processes(run.accelerator, run.parameters.values(), sums)
    norm = torch.nn.utils.clip_grad_norm_(run.parameters.values(), plan.optim.grad_clip or math.inf)
    means = _means(run, step, sums)
    _check_finite(run, step, means, norm)
    rate = set_learning_rate(run.optimizer, plan.optim, step, plan.steps)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return {**means, "lr": rate, "grad_norm": float(norm)}


def save(run: Run, done: int) -> None:
    """Write the LoRA, then the state, so that a state is never newer than the LoRA beside it."""
    if not run.accelerator.is_main_process:
        return
    plan = run.plan
    lora = extract(run.denoiser.module, ADAPTER, {**run.metadata, "castmix.steps": str(done)})
    lora = dataclasses.replace(lora, tokens=plan.tokens.tokens if plan.tokens else {})
    save_lora(lora, plan.out / LORA_FILE, dtype=getattr(torch, plan.adapter.save_dtype))
    save_checkpoint(plan.out, done, plan.result_settings, run.parameters, run.optimizer)


def _open_metrics(run: Run) -> contextlib.AbstractContextManager[Metrics | None]:
    """The log; None on all processes but the first, which alone writes."""
    if not run.accelerator.is_main_process:
        return contextlib.nullcontext()
    return contextlib.closing(Metrics(run.plan.out, run.plan.start))


def _track_steps(run: Run) -> Iterable[int]:
    """The steps that are left, with a progress bar on the first process."""
    steps = range(run.plan.start, run.plan.steps)
    if not run.accelerator.is_main_process:
        return steps
    return track(steps, "training", run.plan.steps, run.plan.start)


def _is_due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0


def _means(run: Run, step: int, sums: Tensor) -> dict[str, float]:
    """Mean losses of new and of preserved rows; a small batch may have rows of one kind only."""
    mix = run.plan.mix
    preserved = mix.preserved_rows(step)
    counts = {"loss": mix.batch_size - preserved, "loss_preserve": preserved}
    return {
        name: total / count
        for (name, count), total in zip(counts.items(), sums.tolist(), strict=True)
        if count
    }


def _autocast(run: Run) -> contextlib.AbstractContextManager[object]:
    """Mixed precision, if the precision is not float32."""
    if run.precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(run.accelerator.device.type, run.precision)


def _attention(device: torch.device, latents: Tensor) -> contextlib.AbstractContextManager[None]:
    """Plain attention on a CPU if its matrix is small: the backward pass of fused attention is slow there.

    It takes 14 % off a bfloat16 step of the sandbox (120 tokens). It must span forward and backward pass:
    checkpointed blocks are recomputed with the same kernel.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    tokens = latents[0, 0].numel() // 4
    if device.type == "cpu" and tokens <= SMALL:
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


def _check_finite(run: Run, step: int, losses: Mapping[str, float], norm: Tensor) -> None:
    if all(map(math.isfinite, [*losses.values(), float(norm)])):
        return
    state = run.plan.out / STATE
    last = f"the last good state is kept in {state}" if state.is_file() else "nothing was saved yet"
    raise CastmixError(
        f"step {step + 1}: the loss is {sum(losses.values()):g} and the gradient {float(norm):g}, not "
        f"finite; {last}. Usual causes: optim.lr {run.plan.optim.lr:g} is too high, or a latent is not finite"
    )


def _observe(run: Run, done: int, metrics: Metrics | None) -> None:
    """Validate and make sample videos, if it is time."""
    plan = run.plan
    last, watch = done == plan.steps, plan.watch
    if plan.held and watch.validate_every and (last or done % watch.validate_every == 0):
        losses = validate(run)
        if metrics is not None:
            metrics.write(done, losses)
    if run.preview is not None and (last or done % watch.sample_every == 0):
        run.preview(run.denoiser, done)


@torch.no_grad()
def validate(run: Run) -> dict[str, float]:
    """Mean velocity loss of the clips held out, over all noise levels and at each.

    It is the velocity loss for every objective, so that runs can be compared.
    """
    plan, levels, device = run.plan, VALIDATION_LEVELS, run.accelerator.device
    sums = torch.zeros(levels, device=device)
    sigmas: list[float] = []
    sigma, seed = plan.objective.sigma, plan.mix.seed
    for batch in validation(
        plan.held, levels, sigma, run.shift, seed, special=run.prompts.special, process=run.process
    ):
        sigmas = batch.sigma.tolist()
        batch = batch.to(device)
        with _autocast(run):
            sums += velocity_loss(run.denoiser, batch.latents, batch.prompt_embeds, batch.sigma, batch.noise)
    means = (run.accelerator.reduce(sums, "sum") / len(plan.held)).tolist()
    names = [f"val_loss/sigma_{sigma:.2f}" for sigma in sigmas]
    return {"val_loss": sum(means) / levels, **dict(zip(names, means, strict=False))}
