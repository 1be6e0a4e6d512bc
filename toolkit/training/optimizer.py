"""The optimiser and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from toolkit.training.settings import Optim


def new_optimizer(parameters: Mapping[str, torch.nn.Parameter], optim: Optim) -> torch.optim.Optimizer:
    """The optimiser that `optim` names, over the parameters in their order."""
    values = list(parameters.values())
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
    """The learning rate of a step, counted from 0: a linear warm-up, then constant or half a cosine to 0."""
    if step < optim.warmup:
        return optim.lr * (step + 1) / optim.warmup
    if optim.schedule == "constant":
        return optim.lr
    return optim.lr * 0.5 * (1 + math.cos(math.pi * (step - optim.warmup) / max(1, steps - optim.warmup)))


def set_learning_rate(optimizer: torch.optim.Optimizer, optim: Optim, step: int, steps: int) -> float:
    """Give the optimiser the learning rate of a step, and return it."""
    rate = learning_rate(optim, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate
