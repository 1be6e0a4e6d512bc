"""The training loop: `_steps` is all of it, the functions around it are its parts."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.core.progress import track
from toolkit.lora.file import save_lora
from toolkit.lora.layers import extract
from toolkit.models.interfaces import Denoiser
from toolkit.training.batches import Batch, Mix, draw, validation
from toolkit.training.cached_clips import Item
from toolkit.training.checkpoint import STATE, save_checkpoint
from toolkit.training.metrics_log import Metrics
from toolkit.training.objectives import velocity
from toolkit.training.settings import Optim, Sigma, Watch

if TYPE_CHECKING:
    from accelerate import Accelerator

ADAPTER = "castmix"
LORA = "lora.safetensors"
VALIDATION_LEVELS = 4


@dataclass(frozen=True)
class Run:
    """All that stays the same from the first step to the last.

    `settings` are those that the result depends on, for the checkpoint; `metadata` and `tokens` are the
    LoRA's. `precision` is that of the forward and backward pass. `preview` makes videos after a step, `shift`
    is the noise levels' own. `loss` is the objective: what each row of a batch has.
    """

    out: Path
    steps: int
    save_every: int
    mix: Mix
    held: Sequence[Item]
    sigma: Sigma
    shift: float
    optim: Optim
    watch: Watch
    accelerator: Accelerator
    denoiser: Denoiser
    parameters: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    settings: dict[str, Any]
    metadata: dict[str, str]
    tokens: dict[str, Tensor]
    save_dtype: torch.dtype
    precision: torch.dtype
    preview: Callable[[Denoiser, int], None] | None
    loss: Callable[[Denoiser, Batch], Tensor]


def learn(run: Run, start: int, stop: threading.Event) -> int:
    """Train from step `start` on; returns the steps done, fewer than run.steps if `stop` was set."""
    if not run.accelerator.is_main_process:
        done = _steps(run, start, stop, None)
    else:
        with contextlib.closing(Metrics(run.out, start)) as metrics:
            done = _steps(run, start, stop, metrics)
    run.accelerator.wait_for_everyone()
    return done


def _steps(run: Run, start: int, stop: threading.Event, metrics: Metrics | None) -> int:
    """The loop itself. metrics: None on all processes but the first, which alone writes."""
    if start == 0:
        _look(run, 0, metrics)
    rest = range(start, run.steps)
    done = start
    for step in rest if metrics is None else track(rest, "training", run.steps, start):
        began = time.perf_counter()
        rate = learning_rate(run.optim, step, run.steps)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        losses, stopping = _gradients(run, step, stop)
        norm = torch.nn.utils.clip_grad_norm_(run.parameters.values(), run.optim.grad_clip or math.inf)
        _check_finite(run, step, losses, norm)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if metrics is not None:
            seconds = time.perf_counter() - began
            metrics.write(done, {**losses, "lr": rate, "grad_norm": float(norm), "seconds": seconds})
        _look(run, done, metrics)
        last = done == run.steps or stopping or (run.save_every > 0 and done % run.save_every == 0)
        if metrics is not None and last:
            save(run, done)
        if stopping:
            break
    return done


def new_optimizer(parameters: Mapping[str, torch.nn.Parameter], optim: Optim) -> torch.optim.Optimizer:
    """The optimiser that `optim` names, over the parameters in their order."""
    values = list(parameters.values())
    if not all(0 <= beta < 1 for beta in optim.betas):
        raise CastmixError(f"optim.betas must be two numbers of 0 or more and below 1, got {optim.betas}")
    if optim.name == "adamw":
        return torch.optim.AdamW(
            values, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True
        )
    import bitsandbytes

    untyped: Any = bitsandbytes
    eight_bit: torch.optim.Optimizer = untyped.optim.AdamW8bit(
        values, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay
    )
    return eight_bit


def learning_rate(optim: Optim, step: int, steps: int) -> float:
    """The rate at a step (counted from 0): a linear rise over the warm-up, then constant or half a cosine."""
    if step < optim.warmup:
        return optim.lr * (step + 1) / optim.warmup
    if optim.schedule == "constant":
        return optim.lr
    return optim.lr * 0.5 * (1 + math.cos(math.pi * (step - optim.warmup) / max(1, steps - optim.warmup)))


def save(run: Run, done: int) -> None:
    """Write the LoRA as it is now, then the state: a state is never newer than the LoRA beside it."""
    metadata = {**run.metadata, "castmix.steps": str(done)}
    lora = dataclasses.replace(extract(run.denoiser.module, ADAPTER, metadata), tokens=run.tokens)
    save_lora(lora, run.out / LORA, dtype=run.save_dtype)
    save_checkpoint(run.out, done, run.settings, run.parameters, run.optimizer)


def _gradients(run: Run, step: int, stop: threading.Event) -> tuple[dict[str, float], bool]:
    """Fill the adapter's gradients with those of the whole batch; its mean losses, and whether to stop.

    Latent shapes are run one after the other, and processes add up their shares by hand: they may have
    different numbers of shapes, which DistributedDataParallel would wait for forever.
    """
    mix, accelerator = run.mix, run.accelerator
    sums = torch.zeros(3, device=accelerator.device)  # loss of new rows, of kept rows, who wants to stop
    for batch in draw(mix, step, run.sigma, run.shift, accelerator.process_index, accelerator.num_processes):
        with _attention(accelerator.device, batch.latents):
            losses = _losses(run, batch, run.loss)
            (losses.sum() / mix.batch_size).backward()  # type: ignore[no-untyped-call]
        kept = batch.kept.to(losses.device)
        sums[:2] += torch.stack([losses.detach()[~kept].sum(), losses.detach()[kept].sum()])
    sums[2] += stop.is_set()
    if accelerator.num_processes > 1:
        own = [p.grad if p.grad is not None else torch.zeros_like(p) for p in run.parameters.values()]
        flat = accelerator.reduce(torch.cat([*(part.flatten() for part in own), sums]), "sum")
        shares = flat[:-3].split([part.numel() for part in own])
        for parameter, share in zip(run.parameters.values(), shares, strict=True):
            parameter.grad = share.view_as(parameter)
        sums = flat[-3:]
    new, kept_loss, stopping = sums.tolist()
    rows, kept_rows = mix.batch_size - mix.kept_rows(step), mix.kept_rows(step)
    found = {"loss": new / rows} if rows else {}  # a step of few rows may have none of one kind
    if kept_rows:
        found["loss_preserve"] = kept_loss / kept_rows
    return found, stopping > 0


def _losses(run: Run, batch: Batch, loss: Callable[[Denoiser, Batch], Tensor]) -> Tensor:
    batch = batch.to(run.accelerator.device)
    mixed = run.precision != torch.float32
    with torch.autocast(run.accelerator.device.type, run.precision) if mixed else contextlib.nullcontext():
        return loss(run.denoiser, batch)


def _attention(device: torch.device, latents: Tensor) -> contextlib.AbstractContextManager[None]:
    """On a CPU the backward pass of fused attention is slow: plain attention where its matrix is small.

    It took 14 % off a bfloat16 step of the sandbox (120 tokens). Blocks that are computed again in the
    backward pass must meet the same kernel, so the context spans both passes.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    cells = latents[0, 0].numel()  # four of them are a token
    if device.type == "cpu" and cells <= 4096:
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


def _check_finite(run: Run, step: int, losses: dict[str, float], norm: Tensor) -> None:
    if all(map(math.isfinite, [*losses.values(), float(norm)])):
        return
    saved = (run.out / STATE).is_file()
    last = f"the last good state is kept in {run.out / STATE}" if saved else "nothing was saved yet"
    loss = sum(losses.values())
    raise CastmixError(
        f"step {step + 1}: the loss is {loss:g} and the gradient {float(norm):g}, not finite; "
        f"{last}. Usual causes: optim.lr {run.optim.lr:g} is too high, or a latent that is not finite"
    )


def _look(run: Run, done: int, metrics: Metrics | None) -> None:
    """Validate and make videos, if it is time for it."""
    last = done == run.steps
    every = run.watch.validate_every
    if run.held and every and (last or done % every == 0):
        losses = _validate(run)
        if metrics is not None:
            metrics.write(done, losses)
    every = run.watch.sample_every
    if run.preview is not None and run.accelerator.is_main_process and every and (last or done % every == 0):
        run.preview(run.denoiser, done)


@torch.no_grad()
def _validate(run: Run) -> dict[str, float]:
    """Mean error of the velocity of the clips held back, in all and at each noise level.

    Whatever the objective is: so runs of different ones can be compared.
    """
    accelerator, levels = run.accelerator, VALIDATION_LEVELS
    rank, processes = accelerator.process_index, accelerator.num_processes
    sums = torch.zeros(levels, device=accelerator.device)
    sigmas: list[float] = []
    for batch in validation(
        run.held, levels, run.sigma, run.shift, run.mix.seed, rank, processes, run.mix.worded
    ):
        sums += _losses(run, batch, velocity)
        sigmas = batch.sigma.tolist()
    means = (accelerator.reduce(sums, "sum") / len(run.held)).tolist()
    names = [f"val_loss/sigma_{sigma:.2f}" for sigma in sigmas]
    return {"val_loss": sum(means) / levels, **dict(zip(names, means, strict=False))}
