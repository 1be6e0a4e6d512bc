"""The second part of training: load the model, add the adapter, make the optimiser, embed the prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from toolkit.attention.temporal_heads import head_shares, temporal_heads
from toolkit.core.errors import CastmixError
from toolkit.core.progress import say
from toolkit.core.seeds import generator_for
from toolkit.lora.layers import add, restrict_to_heads, trainable
from toolkit.lora.settings import TOKENS
from toolkit.models.flow_matching import interpolate
from toolkit.models.interfaces import Denoiser
from toolkit.models.precision import fast_dtype
from toolkit.models.registry import load_denoiser
from toolkit.models.wan import use_math_attention
from toolkit.training.appearance_prompt import compare_with_empty, embed_appearance
from toolkit.training.cached_clips import CachedClip, load_empty_prompt
from toolkit.training.checkpoint import load_checkpoint, restore
from toolkit.training.loop import ADAPTER, Run
from toolkit.training.lora_metadata import lora_metadata
from toolkit.training.objectives import OBJECTIVES
from toolkit.training.optimizer import new_optimizer
from toolkit.training.plan import Plan
from toolkit.training.previews import previewer
from toolkit.training.prompts import Prompts, embed_special
from toolkit.training.settings import Memory

Heads = dict[int, tuple[int, ...]]
"""Attention heads by block."""

HEAD_CLIPS = 4
"""Number of clips on which temporal heads are measured."""

HEAD_LEVELS = (0.6, 0.85)
"""Noise levels at which they are measured."""


def assemble(plan: Plan) -> Run:
    """All that training needs, with the state of the run that is resumed.

    Raises:
        CastmixError: missing model files, or an adapter that does not fit the model.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    device, seed, sigma = accelerator.device, plan.mix.seed, plan.objective.sigma
    shift, precision = sigma.shift_or(plan.spec.shift), _precision(plan.memory, device)
    prompts = _embed_prompts(plan, device)
    appearance = None
    if plan.objective.name == "motion":
        appearance = embed_appearance(plan.objective.motion, plan.spec, device)
    denoiser = load_denoiser(plan.spec, device, precision)
    facts: dict[str, Any] = {"model_fingerprint": plan.result_settings["model"]}
    if appearance is not None:
        facts["explained"] = compare_with_empty(
            denoiser, plan.clips[0], appearance, prompts.empty, sigma, shift, seed
        )
    heads = _find_temporal_heads(denoiser, plan.clips, seed) if plan.adapter.heads else None
    parameters = _add_adapter(denoiser, plan, heads)
    optimizer = new_optimizer(parameters, plan.optim)
    if plan.start:
        restore(load_checkpoint(plan.out), parameters, optimizer)
        say(f"resumes after step {plan.start} of {plan.steps}")
    return Run(
        plan=plan,
        accelerator=accelerator,
        denoiser=denoiser,
        parameters=parameters,
        optimizer=optimizer,
        prompts=prompts,
        criterion=OBJECTIVES[plan.objective.name](plan.objective, appearance),
        shift=shift,
        precision=precision,
        metadata=_metadata(plan, heads),
        preview=_preview(plan, device) if accelerator.is_main_process else None,
        facts=facts,
    )


def _precision(memory: Memory, device: torch.device) -> torch.dtype:
    """Precision of the forward and backward pass."""
    if memory.precision == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if memory.precision == "bfloat16" and (fast := fast_dtype(device)) != torch.bfloat16:
        say("note: this CPU would emulate bfloat16, many times slower: computing in float32")
        return fast
    return torch.bfloat16 if memory.precision == "bfloat16" else torch.float32


def _embed_prompts(plan: Plan, device: torch.device) -> Prompts:
    """Embeddings that the clips' caches do not have."""
    empty = load_empty_prompt(plan.data[0], plan.spec)
    if plan.tokens is None:
        return Prompts(empty)
    captions = [clip.text for clip in (*plan.clips, *plan.held, *plan.preserved)]
    return Prompts(empty, embed_special(captions, [plan.tokens], plan.spec, device))


def _find_temporal_heads(denoiser: Denoiser, clips: Sequence[CachedClip], seed: int) -> Heads:
    """The temporal heads of each block, measured on a few clips: see `toolkit.attention.temporal_heads`.

    Raises:
        CastmixError: there are none.
    """
    shares = []
    for row, clip in enumerate(clips[:HEAD_CLIPS]):
        latents, embeds = clip.load()
        noise = torch.randn(latents.shape, generator=generator_for(seed, row, "heads/noise"))
        for sigma in map(torch.tensor, HEAD_LEVELS):
            x = interpolate(latents, noise, sigma).unsqueeze(0)
            shares.append(head_shares(denoiser, x, sigma, embeds.unsqueeze(0), seed=seed))
    heads = temporal_heads(torch.stack(shares).mean(0))
    count, every = sum(map(len, heads.values())), shares[0][..., 0].numel()
    say(f"{count} of {every} heads attend along time: the LoRA changes attn1 in these")
    if count == every:
        say("note: these are all heads, so adapter.heads changes nothing")
    if not count:
        raise CastmixError("no head of this model attends along time: leave out adapter.heads")
    return heads


def _add_adapter(denoiser: Denoiser, plan: Plan, heads: Heads | None) -> dict[str, torch.nn.Parameter]:
    """Add a new adapter to the frozen base, limited to these heads; the adapter's tensors."""
    module: Any = denoiser.module
    add(module, ADAPTER, plan.adapter, plan.mix.seed)
    if plan.memory.checkpointing:
        module.enable_gradient_checkpointing()
    if plan.memory.compile:
        if denoiser.device.type == "cpu":  # a third faster on the short clips that a CPU can train on
            use_math_attention(module)
        module.compile_repeated_blocks()
    parameters = trainable(module, ADAPTER)
    if heads is not None:
        restrict_to_heads(parameters, heads, int(module.config.attention_head_dim))
    return parameters


def _metadata(plan: Plan, heads: Heads | None) -> dict[str, str]:
    """Metadata of the trained file, with that of the special tokens that it contains."""
    base, name = plan.result_settings["model"], plan.objective.name
    metadata = lora_metadata(plan.spec, base, plan.adapter, plan.clips, heads=heads, objective=name)
    return metadata if plan.tokens is None else {**metadata, TOKENS: plan.tokens.metadata[TOKENS]}


def _preview(plan: Plan, device: torch.device) -> Callable[[Denoiser, int], None] | None:
    """Makes sample videos, if there are prompts for them."""
    watch = plan.watch
    if not (watch.sample_prompts and watch.sample_every):
        return None
    loras = [] if plan.tokens is None else [plan.tokens]
    shape = plan.clips[0].shape
    return previewer(plan.spec, watch.sample_prompts, shape, device, watch, plan.out, loras)
