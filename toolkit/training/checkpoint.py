"""The state of a training run in one file, so that it is there completely or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.core.files import read_safetensors, safetensors_bytes, write_atomic

STATE = "state.safetensors"
Settings = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands. No random state: every draw is a function of the seed and the step.

    `step` is the number of steps done, `settings` are those that the result depends on, `tensors` are the
    adapter's and the optimiser's, by name.
    """

    step: int
    settings: Settings
    tensors: dict[str, Tensor]


def save_checkpoint(
    out: Path,
    step: int,
    settings: Settings,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write OUT/state.safetensors. parameters: in the order in which the optimiser has them."""
    tensors = {f"parameter/{name}": parameter.data for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            # 8-bit AdamW shares one table among all tensors; a file has each of its own
            tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value).clone()
    header = {"step": str(step), "settings": json.dumps(settings, sort_keys=True)}
    write_atomic(out / STATE, safetensors_bytes(tensors, header))


def load_checkpoint(out: Path) -> Checkpoint | None:
    """The state of the run in OUT; None if there is none."""
    path = out / STATE
    if not path.is_file():
        return None
    tensors, header = read_safetensors(path)
    return Checkpoint(int(header["step"]), json.loads(header["settings"]), tensors)


def restore(
    checkpoint: Checkpoint,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Put a state back, exactly: the next step is the one that an uninterrupted run would take."""
    optimizer_state: dict[int, dict[str, Any]] = {}
    for index, (name, parameter) in enumerate(parameters.items()):
        parameter.data.copy_(checkpoint.tensors[f"parameter/{name}"])
        prefix = f"optimizer/{name}/"
        values = {
            key.removeprefix(prefix): value
            for key, value in checkpoint.tensors.items()
            if key.startswith(prefix)
        }
        # torch keeps its step as a tensor, bitsandbytes as a whole number
        optimizer_state[index] = {
            key: int(value) if value.dtype == torch.int64 and value.ndim == 0 else value
            for key, value in values.items()
        }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": optimizer_state})


def check_same(out: Path, there: Settings, now: Settings) -> None:
    """Raise a CastmixError that names every setting in which the run in OUT differs from this one."""
    now = json.loads(json.dumps(now))  # as the file has it: no tuples
    differing = [
        f"{name} was {there.get(name)!r} and is {now.get(name)!r}"
        for name in sorted({*there, *now})
        if there.get(name) != now.get(name)
    ]
    if differing:
        raise CastmixError(
            f"{out} holds a run with other settings: {'; '.join(differing)}. "
            "Use the same settings to go on, another --out, or --restart to begin afresh"
        )
