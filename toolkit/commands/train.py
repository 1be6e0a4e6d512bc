"""`castmix train`: a LoRA from cached clips. This module checks and assembles; the loop is in trainer.py."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_text
from toolkit.core.progress import say
from toolkit.core.run_record import write_run
from toolkit.core.signals import stop_signals
from toolkit.lora.settings import Adapter
from toolkit.lora.special_tokens import fingerprint_tokens
from toolkit.models.registry import find_model, fingerprint, load_denoiser
from toolkit.training import appearance_prompt as appearance
from toolkit.training.cached_clips import Item, hold_back, load_empty_prompt, load_items
from toolkit.training.lora_metadata import card
from toolkit.training.settings import Batches, Memory, Objective, Optim, Watch

if TYPE_CHECKING:
    import torch

    from toolkit.lora.file import Lora
    from toolkit.models.interfaces import Denoiser
    from toolkit.training.checkpoint import Checkpoint


def train(
    data: list[Path],
    out: Path,
    *,
    model: str = "sandbox",
    steps: int = 500,
    seed: int = 0,
    restart: bool = False,
    adapter: Adapter = Adapter(),
    optim: Optim = Optim(),
    batches: Batches = Batches(),
    objective: Objective = Objective(),
    memory: Memory = Memory(),
    watch: Watch = Watch(),
) -> Path:
    """Train a LoRA on cached clips. The same command again resumes an interrupted run.

    Args:
        data: Folders of clips, each with a cache of this model.
        out: Folder of the run: lora.safetensors, run.yaml, metrics.jsonl, tensorboard, samples.
        model: sandbox, wan2.1-t2v-1.3b, wan2.1-t2v-14b, a local folder or a hub id.
        steps: Total number of optimiser steps.
        seed: Seed of all random numbers.
        restart: Start again from step 0 instead of resuming the run in OUT.
        adapter: The LoRA.
        optim: The optimiser.
        batches: What a batch contains.
        objective: The training objective.
        memory: Memory against time.
        watch: Checkpoints, validation and sample videos. They do not change the result.

    Returns:
        The path of lora.safetensors.

    Raises:
        CastmixError: missing or stale cache, settings that differ from the run in `out`, a loss that is not
            finite.
        KeyboardInterrupt: after Ctrl-C, when the state is saved.
    """
    out = Path(out)
    arguments = dict(locals())
    data, out = [Path(folder) for folder in data], Path(out)
    if steps < 1:
        raise CastmixError(f"steps must be 1 or more, got {steps}")
    spec = find_model(model)
    split = [hold_back(load_items(folder, spec), batches.holdout) for folder in data]
    learned, held = ([item for part in split for item in part[side]] for side in (0, 1))
    kept = load_items(Path(batches.preserve), spec) if batches.preserve is not None else []
    carried = _carried(adapter.tokens)
    if _stills(kept) and not _stills(learned):
        say(
            f"warning: {batches.preserve} has single frames only. They preserve what the base model "
            "draws; only clips preserve how it moves"
        )
    settings = {
        "model": fingerprint(spec),
        "data": _identity([*learned, *held]),
        "preserve": _identity(kept),
        "preserve_share": batches.preserve_share if kept else None,
        "tokens": fingerprint_tokens(carried) if carried else None,
        "steps": steps if optim.schedule == "cosine" else None,
        "memory.precision": memory.precision,
        **{
            name: getattr(batches, name)
            for name in ("batch_size", "composites", "holdout", "caption_dropout")
        },
        "seed": seed,
        **_flat("optim", optim),
        **_flat("sigma", objective.sigma),
        **{f"adapter.{name}": getattr(adapter, name) for name in ("rank", "alpha", "targets", "heads")},
        "adapter.save_dtype": "float32",
        **(
            {"objective": "motion", **appearance.check(objective.motion)}
            if objective.name == "motion"
            else {}
        ),
    }
    state = None if restart else _resumable(out, settings, steps)
    if state is not None and state.step == steps:
        say(f"{out} is finished ({steps} steps). More steps go on from there, --restart begins afresh")
        return out / "lora.safetensors"

    import torch
    from accelerate import Accelerator

    from toolkit.lora.settings import TOKENS
    from toolkit.training import objectives
    from toolkit.training.batches import new_mix
    from toolkit.training.checkpoint import restore
    from toolkit.training.loop import LORA, Run, learn, new_optimizer
    from toolkit.training.previews import previewer

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    texts = [item.text for item in (*learned, *held, *kept)]
    mix = new_mix(
        learned,
        kept,
        load_empty_prompt(data[0], spec),
        batch_size=batches.batch_size,
        preserve_share=batches.preserve_share,
        caption_dropout=batches.caption_dropout,
        seed=seed,
        composites=batches.composites,
        worded=appearance.worded(texts, carried, spec, accelerator.device) if carried else None,
    )
    precision = _precision(accelerator.device, memory)
    shift = objective.sigma.shift_or(spec.shift)
    aim = (
        objectives.Aim()
        if objective.name == "velocity"
        else appearance.new_aim(objective.motion, spec, accelerator.device)
    )
    denoiser = load_denoiser(spec, accelerator.device, precision)
    found = appearance.explained(denoiser, learned[0], aim, mix.empty, objective.sigma, shift, seed)
    heads = appearance.heads_of(denoiser, learned[:4], seed) if adapter.heads else None
    parameters = _adapt(denoiser, adapter, heads, memory, seed)
    videos = watch.sample_prompts and watch.sample_every and accelerator.is_main_process
    run = Run(
        out=out,
        steps=steps,
        save_every=watch.save_every,
        mix=mix,
        held=held,
        sigma=objective.sigma,
        shift=shift,
        optim=optim,
        watch=watch,
        accelerator=accelerator,
        denoiser=denoiser,
        parameters=parameters,
        optimizer=new_optimizer(parameters, optim),
        settings=settings,
        metadata=card(spec, settings["model"], adapter, learned, heads=heads, objective=objective.name)
        | ({TOKENS: carried.metadata[TOKENS]} if carried else {}),
        tokens=carried.tokens if carried else {},
        save_dtype=getattr(torch, adapter.save_dtype),
        precision=precision,
        preview=previewer(
            spec,
            watch.sample_prompts,
            learned[0].shape,
            denoiser.device,
            watch,
            out,
            [carried] if carried else [],
        )
        if videos
        else None,
        loss=lambda denoiser, batch: objectives.OBJECTIVES[objective.name](denoiser, batch, aim),
    )
    if restart and accelerator.is_main_process:
        _forget(out)  # not before everything above has been found in order
    if state is not None:
        restore(state, parameters, run.optimizer)
        say(f"going on after step {state.step} of {steps}")
    if accelerator.is_main_process:
        facts = {"model_fingerprint": settings["model"]} | ({"explained": found} if found else {})
        write_run(out / "run.yaml", "train", {**arguments, "restart": False}, **facts)
    with stop_signals() as stop:
        done = learn(run, state.step if state is not None else 0, stop)
    if done < steps:
        say(f"stopped after step {done} of {steps}; the same command goes on from there")
        raise KeyboardInterrupt
    return out / LORA


def _stills(items: Sequence[Item]) -> bool:
    return bool(items) and all(item.shape[1] == 1 for item in items)


def _carried(tokens: Path | None) -> Lora | None:
    """The file of special tokens that the LoRA brings along."""
    from toolkit.lora.file import load_lora

    return None if tokens is None else load_lora(Path(tokens))


def _identity(items: Sequence[Item]) -> str:
    """Clips and captions in one line, for messages and for comparing."""
    prints = ",".join(item.fingerprint for item in items)
    return f"{len(items)} clips ({fingerprint_text(prints)})"


def _flat(group: str, settings: Any) -> dict[str, Any]:
    return {f"{group}.{name}": value for name, value in dataclasses.asdict(settings).items()}


def _forget(out: Path) -> None:
    """Remove what a run leaves in its folder, and nothing else."""
    for name in ("state.safetensors", "lora.safetensors", "metrics.jsonl", "run.yaml"):
        (out / name).unlink(missing_ok=True)
    for name in ("tensorboard", "samples"):
        shutil.rmtree(out / name, ignore_errors=True)


def _resumable(out: Path, settings: dict[str, Any], steps: int) -> Checkpoint | None:
    """The state in `out` if there is one, of the same settings and not past the last step."""
    from toolkit.training.checkpoint import check_same, load_checkpoint

    state = load_checkpoint(out)
    if state is not None:
        check_same(out, state.settings, settings)
        if state.step > steps:
            raise CastmixError(
                f"{out} is at step {state.step} already, steps is {steps}: ask for more, use another --out, "
                "or --restart to begin afresh"
            )
    return state


def _precision(device: torch.device, memory: Memory) -> torch.dtype:
    import torch

    if memory.precision == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return torch.bfloat16 if memory.precision == "bfloat16" else torch.float32


def _adapt(
    denoiser: Denoiser,
    adapter: Adapter,
    heads: Mapping[int, Collection[int]] | None,
    memory: Memory,
    seed: int,
) -> dict[str, torch.nn.Parameter]:
    """Give the frozen base a fresh adapter, of these heads only if there are any; the adapter's tensors."""
    from toolkit.lora.layers import add, restrict_to_heads, trainable
    from toolkit.models.wan import attend_plainly
    from toolkit.training.loop import ADAPTER

    add(denoiser.module, ADAPTER, adapter, seed)
    module: Any = denoiser.module
    if memory.checkpointing:
        module.enable_gradient_checkpointing()
    if memory.compile:
        if denoiser.device.type == "cpu":  # a third faster there on the short clips that a CPU can train on
            attend_plainly(module)
        module.compile_repeated_blocks()
    parameters = trainable(denoiser.module, ADAPTER)
    if heads is not None:
        restrict_to_heads(parameters, heads, int(module.config.attention_head_dim))
    return parameters
