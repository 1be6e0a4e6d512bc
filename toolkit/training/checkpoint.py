"""The state of a training run, in one file. It is written whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import read_safetensors, safetensors_bytes, write_atomic
from toolkit.lora.settings import LORA_FILE
from toolkit.training.metrics_log import BOARD, METRICS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STATE = "state.safetensors"
Settings = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run. There is no random state: every draw is a function of the seed and the step.

    Attributes:
        step: Number of finished steps.
        settings: The settings that the result depends on, by name.
        tensors: The adapter's and the optimiser's tensors, by name.
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
    """Write OUT/state.safetensors. parameters: in the optimiser's order."""
    import torch

    tensors = {f"parameter/{name}": parameter.data for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            # clone: 8-bit AdamW shares one table among all tensors, a file needs separate ones
            tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value).clone()
    header = {"step": str(step), "settings": json.dumps(settings, sort_keys=True)}
    write_atomic(out / STATE, safetensors_bytes(tensors, header))


def load_checkpoint(out: Path) -> Checkpoint:
    """The state of the run in OUT.

    Raises:
        CastmixError: there is none.
    """
    tensors, header = read_safetensors(out / STATE)
    return Checkpoint(int(header["step"]), json.loads(header["settings"]), tensors)


def resumable_step(out: Path, settings: Settings, steps: int, option: str = "steps") -> int:
    """Number of finished steps of the run in OUT; 0 if there is no run. Reads the header only, without torch.

    steps: total number of steps now. option: its name in messages.

    Raises:
        CastmixError: the run has other settings, or is past the last step.
    """
    from safetensors import safe_open

    if not (out / STATE).is_file():
        return 0
    with safe_open(out / STATE, framework="numpy") as file:
        header = file.metadata()
    step = int(header["step"])
    check_same(out, json.loads(header["settings"]), settings)
    if step > steps:
        raise CastmixError(
            f"{out} is at step {step} already, {option} is {steps}: use more steps, another --out, or "
            "--restart to start again"
        )
    return step


def check_same(out: Path, before: Settings, now: Settings) -> None:
    """Check that the run in OUT has the present settings.

    Raises:
        CastmixError: names every setting that differs.
    """
    now = json.loads(json.dumps(now))  # as in the file: lists instead of tuples
    differing = [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if differing:
        raise CastmixError(
            f"{out} holds a run with other settings: {'; '.join(differing)}. "
            "Use the same settings to resume it, another --out, or --restart to start again"
        )


def restore(
    checkpoint: Checkpoint,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Restore a state exactly: the next step equals the next step of an uninterrupted run."""
    import torch

    optimizer_state: dict[int, dict[str, Any]] = {}
    for index, (name, parameter) in enumerate(parameters.items()):
        parameter.data.copy_(checkpoint.tensors[f"parameter/{name}"])
        prefix = f"optimizer/{name}/"
        values = {
            key.removeprefix(prefix): value
            for key, value in checkpoint.tensors.items()
            if key.startswith(prefix)
        }
        # torch stores its step as a tensor, bitsandbytes as an int
        optimizer_state[index] = {
            key: int(value) if value.dtype == torch.int64 and value.ndim == 0 else value
            for key, value in values.items()
        }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": optimizer_state})


def delete_run(out: Path) -> None:
    """Delete what a training run writes into its folder, and nothing else."""
    for name in (STATE, LORA_FILE, METRICS, "run.yaml"):
        (out / name).unlink(missing_ok=True)
    for name in (BOARD, "samples"):
        shutil.rmtree(out / name, ignore_errors=True)
