"""Gradient fusion (VideoMage): a LoRA is trained to predict what several LoRAs predict on their clips."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from toolkit.attention.map_reading import MapLayers, map_layers
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_text
from toolkit.core.progress import say, track
from toolkit.core.signals import stop_signals
from toolkit.fusion.distillation import (
    STUDENT,
    Lesson,
    add_map_gradient,
    add_velocity_gradient,
    compare_maps,
    teacher,
)
from toolkit.fusion.job import Facts, Job
from toolkit.fusion.settings import Distil
from toolkit.fusion.training_clips import Pair, clips_by_part, load_pairs
from toolkit.fusion.weight_merging import concatenate, truncate
from toolkit.lora.file import Lora
from toolkit.lora.layers import attach, extract, trainable
from toolkit.lora.parts import Part, Tensors
from toolkit.models.interfaces import Denoiser
from toolkit.models.registry import default_device, fingerprint, load_denoiser, load_encoders
from toolkit.training.cached_clips import CachedClip, load_empty_prompt
from toolkit.training.checkpoint import load_checkpoint, restore, resumable_step, save_checkpoint
from toolkit.training.metrics_log import Metrics
from toolkit.training.mix import new_mix
from toolkit.training.optimizer import new_optimizer, set_learning_rate
from toolkit.training.prompts import Prompts, embed_special
from toolkit.training.settings import Batches, check_optim

DROPOUT = 0.1
"""Share of clips with an empty prompt, which guidance needs."""


def gradient(parts: Sequence[Part], job: Job) -> tuple[Tensors, Facts]:
    """VideoMage's test-time fusion (eqs. 6 to 8) for any number of LoRAs, in velocities:

        L_fusion = mean over n of E |v_fused(x_n, sigma, c_n) - v_n(x_n, sigma, c_n)|^2
        L_attn   = mean over subjects i of |M_i - mask_i|^2, on clips of several subjects
        L        = L_fusion + 0.6 L_attn

    Training starts from the exact average of the LoRAs. Where eq. 6 leaves a choice: the target is the
    prediction of LoRA n; x_n are the clips that it was trained on; the prompt of a mixed clip is its own
    caption. The LoRAs take turns, one per step. Both losses are means. The maps' noise levels are uniform in
    `distil.map_sigma`. The same command resumes an interrupted run.
    """
    settings, items, pairs = _check(parts, job)
    steps = job.distil.steps
    start = 0 if job.restart else resumable_step(job.work, settings, steps, "distil.steps")
    lesson, parameters = _assemble(parts, job, items, pairs)
    done = _train(lesson, parameters, settings, start)
    if done < steps:
        say(f"stopped after step {done} of {steps}; the same command resumes")
        raise KeyboardInterrupt
    if pairs:
        compare_maps(lesson)
    tensors: Tensors = extract(lesson.denoiser.module, STUDENT).tensors
    return truncate(tensors, job.rank) if job.rank is not None else (tensors, {})


def _check(parts: Sequence[Part], job: Job) -> tuple[dict[str, Any], list[list[CachedClip]], list[Pair]]:
    """Settings that the result depends on, the clips of each LoRA, and the clips of several subjects.

    Raises:
        CastmixError: settings out of range, or missing clips.
    """
    distil, examples = job.distil, job.examples
    _check_distil(distil)
    if distil.attention and examples.pairs is None and len(parts) > 1:
        raise CastmixError(
            "gradient compares attention maps on clips of several subjects: give --pairs (see `castmix "
            "composite --kind pairs`), or --distil.attention 0 to leave the maps out"
        )
    items = clips_by_part(parts, job)
    pairs = []
    if distil.attention and examples.pairs is not None:
        pairs = load_pairs(Path(examples.pairs), job.spec, parts, load_encoders(job.spec))
    loras = [[part.fingerprint, part.weight, *part.subjects] for part in parts]
    clips = [fingerprint_text(",".join(item.fingerprint for item in own)) for own in items]
    settings = {
        "model": fingerprint(job.spec),
        "loras": loras,
        "seed": job.seed,
        "clips": clips,
        "pairs": fingerprint_text(",".join(pair.item.fingerprint for pair in pairs)),
        **_result_settings(job),
    }
    return settings, items, pairs


def _check_distil(distil: Distil) -> None:
    for name in ("steps", "batch_size", "pairs_size"):
        if getattr(distil, name) < 1:
            raise CastmixError(f"distil.{name} must be 1 or more, got {getattr(distil, name)}")
    low, high = distil.map_sigma
    if not 0 <= low < high <= 1:
        raise CastmixError(
            f"distil.map_sigma must be two levels between 0 and 1, low,high; got {low:g},{high:g}"
        )
    if not 0 <= distil.attention < math.inf:
        raise CastmixError(f"distil.attention must be 0 or more, got {distil.attention:g}")
    check_optim(distil.optim)


def _result_settings(job: Job) -> dict[str, Any]:
    """Settings that the result depends on. Old checkpoints have these names: do not change them."""
    distil = dataclasses.asdict(job.distil)
    for name in ("optim", "save_every", "checkpointing"):
        del distil[name]
    if job.distil.optim.schedule != "cosine":
        del distil["steps"]
    distil["sigma"] = distil.pop("map_sigma")
    groups: dict[str, dict[str, Any]] = {
        "distil": distil,
        "optim": dataclasses.asdict(job.distil.optim),
        "sigma": dataclasses.asdict(job.examples.sigma),
    }
    return {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}


def _assemble(
    parts: Sequence[Part], job: Job, items: Sequence[Sequence[CachedClip]], pairs: Sequence[Pair]
) -> tuple[Lesson, dict[str, torch.nn.Parameter]]:
    """The lesson, and the tensors of the LoRA that is trained."""
    batches = Batches(job.distil.batch_size, caption_dropout=DROPOUT)
    captions = [item.text for item in (*itertools.chain(*items), *(pair.item for pair in pairs))]
    empty = load_empty_prompt(Path(job.examples.clips[0]), job.spec)
    special = embed_special(captions, [part.lora for part in parts], job.spec)
    denoiser, parameters = new_network(parts, job)
    module: Any = denoiser.module
    layers = map_layers(int(module.config.num_layers))
    lesson = Lesson(
        parts=parts,
        mixes=[new_mix(own, [], batches, job.seed) for own in items],
        prompts=Prompts(empty, special),
        pairs=pairs,
        denoiser=denoiser,
        layers=MapLayers(job.distil.layers, layers.temporal) if job.distil.layers else layers,
        job=job,
        shift=job.examples.sigma.shift_or(job.spec.shift),
    )
    return lesson, parameters


def new_network(parts: Sequence[Part], job: Job) -> tuple[Denoiser, dict[str, torch.nn.Parameter]]:
    """The frozen base model with every LoRA and the student, which alone is active; the student's tensors."""
    denoiser = load_denoiser(job.spec, default_device())
    base, share = fingerprint(job.spec), job.distil.start
    for i, part in enumerate(parts):
        attach(denoiser.module, part.lora, teacher(i), base)
    attach(denoiser.module, Lora(concatenate(parts, 1 / len(parts) if share is None else share)), STUDENT)
    module: Any = denoiser.module
    if job.distil.checkpointing:
        module.enable_gradient_checkpointing()
    return denoiser, trainable(denoiser.module, STUDENT)


def _train(
    lesson: Lesson, parameters: dict[str, torch.nn.Parameter], settings: dict[str, Any], start: int
) -> int:
    """The loop. Returns the number of finished steps, fewer than all after Ctrl-C."""
    work, distil, done = lesson.job.work, lesson.job.distil, start
    optimizer = new_optimizer(parameters, distil.optim)
    if start:
        restore(load_checkpoint(work), parameters, optimizer)
        say(f"resumes after step {start} of {distil.steps}")
    with stop_signals() as stop, contextlib.closing(Metrics(work, start)) as metrics:
        for step in track(range(start, distil.steps), "fusing", distil.steps, start):
            began = time.perf_counter()
            values = train_step(lesson, parameters, optimizer, step)
            done = step + 1
            metrics.write(done, {**values, "seconds": time.perf_counter() - began})
            due = distil.save_every > 0 and done % distil.save_every == 0
            if done == distil.steps or stop.is_set() or due:
                save_checkpoint(work, done, settings, parameters, optimizer)
            if stop.is_set():
                break
    return done


def train_step(
    lesson: Lesson,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    step: int,
) -> dict[str, float]:
    """One training step: the losses and the norm of the gradient."""
    job, optim = lesson.job, lesson.job.distil.optim
    set_learning_rate(optimizer, optim, step, job.distil.steps)
    losses = {f"loss/{lesson.parts[step % len(lesson.parts)].name}": add_velocity_gradient(lesson, step)}
    if lesson.pairs:
        losses["loss_attention"] = add_map_gradient(lesson, step)
    norm = torch.nn.utils.clip_grad_norm_(parameters.values(), optim.grad_clip or math.inf)
    if not all(map(math.isfinite, [*losses.values(), float(norm)])):
        raise CastmixError(
            f"step {step + 1}: losses {losses} and gradient {float(norm):g} are not finite. The last good "
            f"state is kept in {job.work}. Use a lower --optim.lr than {optim.lr:g}"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {**losses, "grad_norm": float(norm)}
