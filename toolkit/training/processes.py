"""Several training processes: each computes some rows of a batch; gradients and losses are added up."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set on any process."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor([float(flag)], device=accelerator.device), "sum") > 0)


def sum_over_processes(
    accelerator: Accelerator, parameters: Collection[torch.nn.Parameter], losses: Tensor
) -> Tensor:
    """Add up the gradients of these parameters, in place, and the losses, which are returned.

    Processes may have different numbers of latent shapes, and so of backward passes.
    DistributedDataParallel would wait for them forever.
    """
    if accelerator.num_processes == 1:
        return losses
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    parts = [*(gradient.flatten() for gradient in gradients), losses]
    sums = accelerator.reduce(torch.cat(parts), "sum").split([part.numel() for part in parts])
    for parameter, gradient in zip(parameters, sums, strict=False):
        parameter.grad = gradient.view_as(parameter)
    total: Tensor = sums[-1]
    return total
