"""Other names that castmix understands: those of other trainers, and its own old ones.

A setting's other name goes into `_EVERYWHERE`, or into `_TRAINING` or `_SAMPLING` if only verbs that train or
that sample have it. A verb without the setting does not have the other name either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

RENAMED = {"invert": "learn-tokens", "look-attention": "attention-maps", "motion": "learn-motion"}
"""Old names of commands. They and their run.yaml work for one more release."""

_EVERYWHERE = {
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "flow_shift": "shift",
    "discrete_flow_shift": "shift",
    "output_dir": "out",
    "pretrained_model_name_or_path": "model",
    "network_weights": "lora",
    "lora_weights": "lora",
    "gradient_checkpointing": "checkpointing",
    "mixed_precision": "precision",
}

_TRAINING = {
    "learning_rate": "lr",
    "lr_scheduler": "schedule",
    "lr_warmup_steps": "warmup",
    "max_grad_norm": "grad_clip",
    "train_batch_size": "batch_size",
    "max_train_steps": "steps",
    "max_steps": "steps",
    "train_steps": "steps",
    "num_inference_steps": "sample_steps",
    "validation_prompt": "sample_prompts",
    "validation_prompts": "sample_prompts",
    "checkpointing_steps": "save_every",
    "save_steps": "save_every",
    "optimizer": "optim.name",
    "optimizer_type": "optim.name",
    "caption_dropout_rate": "caption_dropout",
    "lora_rank": "rank",
    "network_dim": "rank",
    "lora_alpha": "adapter.alpha",
    "network_alpha": "adapter.alpha",
}

_SAMPLING = {"num_inference_steps": "steps"}

_OLD = {
    "batch_size": "training.batch_size",
    "distil.sigma": "distil.map_sigma",
    "squares.clips": "squares.max_clips",
}
"""castmix's own old names that short names do not cover. They work for one more release."""

_MISSING = {
    "gradient_accumulation": ("castmix has no gradient accumulation, use a larger {}", "batch_size"),
    "gradient_accumulation_steps": ("castmix has no gradient accumulation, use a larger {}", "batch_size"),
    "num_train_epochs": ("castmix counts steps, not epochs, use {}", "steps"),
    "epochs": ("castmix counts steps, not epochs, use {}", "steps"),
    "resume_from_checkpoint": ("castmix resumes on its own, run the same command with the same {}", "out"),
}

VALUES = {"bf16": "bfloat16", "fp32": "float32"}
"""Other words for a choice."""


def synonyms(known: Iterable[str]) -> Mapping[str, str]:
    """Old names, and names that other programs have, for settings of a verb, with castmix's own.

    Args:
        known: Full names of the verb's settings.
    """
    return _OLD | _EVERYWHERE | (_TRAINING if _trains(known) else _SAMPLING)


def missing(known: Iterable[str]) -> Mapping[str, tuple[str, str]]:
    """Settings of other trainers that castmix does not have: the error, and the setting for its ``{}``."""
    return _MISSING if _trains(known) else {}


def _trains(known: Iterable[str]) -> bool:
    """Whether the verb's `steps` are optimiser steps. Else they are denoising steps."""
    return any(name.rpartition(".")[2] in ("lr", "sample_steps") for name in known)
