from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.core.errors import CastmixError
from toolkit.training.checkpoint import check_same, load_checkpoint, restore, resumable_step, save_checkpoint
from toolkit.training.optimizer import new_optimizer
from toolkit.training.settings import Optim

Parameters = dict[str, torch.nn.Parameter]


def new_parameters() -> Parameters:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (32, 192), "b": (192, 32), "c": (32, 10)}  # 8-bit AdamW keeps small ones in 32 bits
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()
    }


def step(parameters: Parameters, optimizer: torch.optim.Optimizer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_a_restored_optimiser_continues_exactly(name: Any, tmp_path: Path) -> None:
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    one, two, three = (new_parameters() for _ in range(3))
    optim = Optim(name=name)
    straight, stopped = new_optimizer(one, optim), new_optimizer(two, optim)
    for number in range(6):
        step(one, straight, number)
    for number in range(3):
        step(two, stopped, number)
    save_checkpoint(tmp_path, 3, {"seed": 1}, two, stopped)
    state = load_checkpoint(tmp_path)
    assert (state.step, state.settings) == (3, {"seed": 1})
    resumed = new_optimizer(three, optim)
    restore(state, three, resumed)
    for number in range(3, 6):
        step(three, resumed, number)
    assert all(torch.equal(one[key], three[key]) for key in one)


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    assert resumable_step(tmp_path, {"seed": 1}, 9) == 0
    with pytest.raises(CastmixError, match=r"state\.safetensors does not exist"):
        load_checkpoint(tmp_path)
    check_same(tmp_path, {"betas": [0.9, 0.99]}, {"betas": (0.9, 0.99)})
    with pytest.raises(CastmixError, match=r"optim.lr was 1 and is 2; seed was None and is 3\. Use the same"):
        check_same(tmp_path, {"optim.lr": 1}, {"optim.lr": 2, "seed": 3})
