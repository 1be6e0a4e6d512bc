"""One LoRA taught by several, on clips of each alone and on maps of clips of them together (VideoMage)."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit.attention.map_reading import MapLayers, map_layers, read_maps, token_grid
from toolkit.attention.maps import normalised
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_text
from toolkit.core.progress import say, track
from toolkit.core.seeds import generator_for
from toolkit.core.signals import stop_signals
from toolkit.fusion.job import Facts, Job
from toolkit.fusion.training_clips import Pair, clips_by_part, embed_captions_with_tokens, load_pairs
from toolkit.fusion.weight_merging import concatenate, truncate
from toolkit.lora.file import Lora
from toolkit.lora.layers import activate, attach, extract, trainable
from toolkit.lora.parts import Part, Tensors
from toolkit.models.flow_matching import interpolate
from toolkit.models.interfaces import Denoiser
from toolkit.models.registry import default_device, fingerprint, load_denoiser, load_encoders
from toolkit.training.batches import Batch, Mix, draw, load, new_mix
from toolkit.training.cached_clips import choose, load_empty_prompt
from toolkit.training.checkpoint import check_same, load_checkpoint, restore, save_checkpoint
from toolkit.training.loop import learning_rate, new_optimizer
from toolkit.training.metrics_log import Metrics

STUDENT = "fused"
CHECKED = 6
"""Pairs whose maps are looked at in the end."""
DROPOUT = 0.1
"""Share of clips with an empty prompt: guidance samples with it, too."""


@dataclass(frozen=True)
class Lesson:
    """All that stays the same from the first step to the last; one mix of clips for each part."""

    parts: Sequence[Part]
    mixes: Sequence[Mix]
    pairs: Sequence[Pair]
    denoiser: Denoiser
    layers: MapLayers
    job: Job
    shift: float


def gradient(parts: Sequence[Part], job: Job) -> tuple[Tensors, Facts]:
    """VideoMage's test-time fusion (eqs. 6 to 8), for any number of LoRAs, in velocities:

        L_fusion = mean over n of E |v_fused(x_n, sigma, c_n) - v_n(x_n, sigma, c_n)|^2
        L_attn   = mean over subjects i of |M_i - mask_i|^2, maps of clips of several subjects
        L        = L_fusion + 0.6 L_attn

    It begins from the exact average of the LoRAs. What eq. 6 leaves open is read so: eps_n is the prediction
    of LoRA n; x_n are the clips that it was trained on; the mixed clip's prompt is its own caption. LoRAs
    take turns, one a step; both losses are means; maps are over their own maximum and noise levels for them
    are drawn evenly from `distil.map_sigma`. The same command goes on where it stopped.
    """
    settings, distil = _checked(parts, job), job.distil
    items = clips_by_part(parts, job)
    pairs = []
    if distil.attention and job.examples.pairs is not None:
        pairs = load_pairs(Path(job.examples.pairs), job.spec, parts, load_encoders(job.spec))
    settings["clips"] = [fingerprint_text(",".join(item.fingerprint for item in own)) for own in items]
    settings["pairs"] = fingerprint_text(",".join(pair.item.fingerprint for pair in pairs))
    state = None if job.restart else load_checkpoint(job.work)
    if state is not None:
        check_same(job.work, state.settings, settings)
        if state.step > distil.steps:
            raise CastmixError(
                f"{job.work} is at step {state.step} already, distil.steps is {distil.steps}: ask for more, "
                "or --restart to begin afresh"
            )
    empty = load_empty_prompt(Path(job.examples.clips[0]), job.spec)
    mentioned = [*itertools.chain(*items), *(pair.item for pair in pairs)]
    with_tokens = embed_captions_with_tokens(mentioned, parts, job.spec)
    mixes = [
        new_mix(
            own,
            [],
            empty,
            batch_size=distil.batch_size,
            preserve_share=0.0,
            caption_dropout=DROPOUT,
            seed=job.seed,
            worded=with_tokens,
        )
        for own in items
    ]
    denoiser, parameters = _network(parts, job)
    layers = map_layers(_blocks(denoiser))
    if distil.layers:
        layers = MapLayers(distil.layers, layers.temporal)
    optimizer = new_optimizer(parameters, distil.optim)
    if state is not None:
        restore(state, parameters, optimizer)
        say(f"going on after step {state.step} of {distil.steps}")
    shift = job.examples.sigma.shift_or(job.spec.shift)
    lesson = Lesson(parts, mixes, pairs, denoiser, layers, job, shift)
    with stop_signals() as stop:
        done = _learn(lesson, parameters, optimizer, settings, state.step if state is not None else 0, stop)
    if done < distil.steps:
        say(f"stopped after step {done} of {distil.steps}; the same command goes on from there")
        raise KeyboardInterrupt
    if pairs:
        tell_maps(lesson)
    tensors: Tensors = extract(denoiser.module, STUDENT).tensors
    return truncate(tensors, job.rank) if job.rank is not None else (tensors, {})


def _checked(parts: Sequence[Part], job: Job) -> dict[str, Any]:
    """What the result depends on beside the clips, for the checkpoint.

    Raises:
        CastmixError: settings out of range, or maps are to be taught without pairs.
    """
    distil = job.distil
    for name, value in (
        ("steps", distil.steps),
        ("batch_size", distil.batch_size),
        ("pairs_size", distil.pairs_size),
    ):
        if value < 1:
            raise CastmixError(f"distil.{name} must be 1 or more, got {value}")
    low, high = distil.map_sigma
    if not 0 <= low < high <= 1:
        raise CastmixError(
            f"distil.map_sigma must be two levels between 0 and 1, low,high; got {low:g},{high:g}"
        )
    if not 0 <= distil.attention < math.inf:
        raise CastmixError(f"distil.attention must be 0 or more, got {distil.attention:g}")
    if distil.attention and job.examples.pairs is None and len(parts) > 1:
        raise CastmixError(
            "gradient teaches maps on clips of several subjects: give --pairs (see `castmix composite --kind "
            "pairs`), or --distil.attention 0 to go without"
        )
    passing = {"save_every", "checkpointing"} | (set() if distil.optim.schedule == "cosine" else {"steps"})
    groups: dict[str, Any] = {"distil": distil, "optim": distil.optim, "sigma": job.examples.sigma}
    flat = {
        f"{group}.{name}": value
        for group, values in groups.items()
        for name, value in dataclasses.asdict(values).items()
        if name not in passing
    }
    flat["distil.sigma"] = flat.pop("distil.map_sigma")  # its name in checkpoints
    del flat["distil.optim"]
    loras = [[part.fingerprint, part.weight, *part.subjects] for part in parts]
    return {"model": fingerprint(job.spec), "loras": loras, "seed": job.seed, **flat}


def _network(parts: Sequence[Part], job: Job) -> tuple[Denoiser, dict[str, torch.nn.Parameter]]:
    """The frozen base with every LoRA, and the one that learns, which is alone active."""
    denoiser = load_denoiser(job.spec, default_device())
    base, share = fingerprint(job.spec), job.distil.start
    for i, part in enumerate(parts):
        attach(denoiser.module, part.lora, _teacher(i), base)
    attach(denoiser.module, Lora(concatenate(parts, 1 / len(parts) if share is None else share)), STUDENT)
    module: Any = denoiser.module
    if job.distil.checkpointing:
        module.enable_gradient_checkpointing()
    return denoiser, trainable(denoiser.module, STUDENT)


def _learn(
    lesson: Lesson,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    settings: dict[str, Any],
    start: int,
    stop: threading.Event,
) -> int:
    """The loop; returns the steps done, fewer than all if `stop` was set."""
    job, done = lesson.job, start
    distil = job.distil
    with contextlib.closing(Metrics(job.work, start)) as metrics:
        for step in track(range(start, distil.steps), "fusing", distil.steps, start):
            began = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(distil.optim, step, distil.steps)
            losses = {f"loss/{lesson.parts[step % len(lesson.parts)].name}": teach(lesson, step)}
            if lesson.pairs:
                losses["loss_attention"] = attend(lesson, step)
            norm = torch.nn.utils.clip_grad_norm_(parameters.values(), distil.optim.grad_clip or math.inf)
            if not all(map(math.isfinite, [*losses.values(), float(norm)])):
                raise CastmixError(
                    f"step {step + 1}: {losses}, gradient {float(norm):g}: not finite. The last good state "
                    f"is kept in {job.work}; use a lower --optim.lr than {distil.optim.lr:g}"
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            metrics.write(done, {**losses, "grad_norm": float(norm), "seconds": time.perf_counter() - began})
            every = distil.save_every
            if done == distil.steps or stop.is_set() or (every > 0 and done % every == 0):
                save_checkpoint(job.work, done, settings, parameters, optimizer)
            if stop.is_set():
                break
    return done


def teach(lesson: Lesson, step: int) -> float:
    """Add the gradient of L_fusion for the LoRA whose turn it is; its loss."""
    turn, count = step % len(lesson.parts), len(lesson.parts)
    total = 0.0
    for batch in draw(lesson.mixes[turn], step // count, lesson.job.examples.sigma, lesson.shift):
        x = interpolate(batch.latents, batch.noise, batch.sigma)
        with activate(lesson.denoiser.module, {_teacher(turn): lesson.parts[turn].weight}), torch.no_grad():
            wanted = _velocity(lesson, batch, x)
        squares = (_velocity(lesson, batch, x) - wanted).square().flatten(1).mean(1)
        loss = squares.sum() / lesson.mixes[turn].batch_size
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def attend(lesson: Lesson, step: int) -> float:
    """Add the gradient of the weighted L_attn on this step's clips of several subjects; L_attn itself."""
    distil, seed = lesson.job.distil, lesson.job.seed
    size = distil.pairs_size
    low, high = distil.map_sigma
    levels = low + (high - low) * torch.rand(size, generator=generator_for(seed, step, "pairs/sigma"))
    places = range(step * size, (step + 1) * size)
    total = 0.0
    for row, k in enumerate(choose(len(lesson.pairs), places, seed=seed, what="pairs")):
        pair = lesson.pairs[k]
        latents, embeds = (half.unsqueeze(0) for half in load(pair.item, lesson.mixes[0].worded))
        noise = torch.randn(latents.shape, generator=generator_for(seed, step, f"pairs/noise/{row}"))
        sigma = levels[row : row + 1]
        loss = (
            map_loss(lesson.denoiser, interpolate(latents, noise, sigma), sigma, embeds, pair, lesson.layers)
            / size
        )
        (distil.attention * loss).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def map_loss(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, prompt_embeds: Tensor, pair: Pair, layers: MapLayers
) -> Tensor:
    """Mean over subjects and tokens of (M - mask)^2, each M over its maximum, which is a constant (eq. 7).

    x: (1, C, f, h, w). sigma: (1,). prompt_embeds: (1, L, D).
    """
    maps = read_maps(
        denoiser, x, sigma, prompt_embeds, spans=pair.spans, real=pair.real, layers=layers, kind="token"
    )
    target = pair.targets(token_grid(denoiser, x)).to(maps)
    return (normalised(maps)[0] - target).square().mean()


@torch.no_grad()
def tell_maps(lesson: Lesson) -> tuple[float, float]:
    """Say how far the maps of pairs are from their masks after learning, and in the base alone; both errors.

    On a few pairs, at noise levels and under noise that never change. Too high a rate makes them worse.
    """
    job, denoiser = lesson.job, lesson.denoiser
    low, high = job.distil.map_sigma
    levels = [low + (high - low) * share for share in (0.25, 0.5, 0.75)]
    errors = []
    for adapters in ({STUDENT: 1.0}, {}):
        losses = []
        for row, pair in enumerate(lesson.pairs[:CHECKED]):
            latents, embeds = (half.unsqueeze(0) for half in load(pair.item, lesson.mixes[0].worded))
            noise = torch.randn(latents.shape, generator=generator_for(job.seed, row, "pairs/check"))
            for level in levels:
                sigma = torch.tensor([level])
                with activate(denoiser.module, adapters):
                    x = interpolate(latents, noise, sigma)
                    losses.append(float(map_loss(denoiser, x, sigma, embeds, pair, lesson.layers)))
        errors.append(sum(losses) / len(losses))
    learnt, base = errors
    say(f"maps of {len(lesson.pairs[:CHECKED])} pairs: error {learnt:.3f}, in the base alone {base:.3f}")
    if learnt >= base:
        say(
            f"warning: the maps are worse than the base's. Learn them more slowly (--optim.lr below "
            f"{job.distil.optim.lr:g}) or less (--distil.attention below {job.distil.attention:g})"
        )
    return learnt, base


def _velocity(lesson: Lesson, batch: Batch, x: Tensor) -> Tensor:
    """(B, C, f, h, w) float32 on the network's device; on a GPU the network runs in mixed precision."""
    device = lesson.denoiser.device
    with torch.autocast(device.type, torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext():
        return lesson.denoiser(x.to(device), batch.sigma, batch.prompt_embeds).float()


def _teacher(number: int) -> str:
    return f"part{number}"


def _blocks(denoiser: Denoiser) -> int:
    module: Any = denoiser.module
    return int(module.config.num_layers)
