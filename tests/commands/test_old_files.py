"""Files of castmix 0.1.0, before its modules moved: a cache, a half-done run and a LoRA are still read.

`data/run_of_0_1_0` has a tiny model, three clips with their cache, a run stopped after step 2 of 4, and the
LoRA that the uninterrupted run ended with.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.cli.presets import read_preset
from toolkit.commands.cache import cache
from toolkit.commands.train import train
from toolkit.lora.file import load_lora
from toolkit.lora.settings import Adapter
from toolkit.training.settings import Batches, Optim, Watch

OLD = Path(__file__).parents[1] / "data" / "run_of_0_1_0"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old files, as the current folder: their paths are relative."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_old_cache_is_up_to_date(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache(Path("data"), model="model")
    assert "0 encoded, 3 unchanged" in capsys.readouterr().err


def test_an_old_run_continues_to_the_same_lora(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {
        "model": "model",
        "batches": Batches(2, holdout=1),
        "watch": Watch(save_every=2),
    }
    adapter, optim = Adapter(rank=2, targets=("attn1",)), Optim(lr=1e-3, warmup=2)
    train([Path("data")], Path("run"), steps=4, adapter=adapter, optim=optim, **settings)
    assert "resumes after step 2 of 4" in capsys.readouterr().err
    ours, theirs = load_lora(Path("run")), load_lora(Path("whole"))
    assert ours.metadata == theirs.metadata
    for name, pair in theirs.tensors.items():
        for mine, its in zip(ours.tensors[name], pair, strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)


def test_an_old_run_yaml_is_a_preset(old: Path) -> None:
    values = read_preset("run/run.yaml", "train", train)
    assert values["steps"] == 2
    assert values["batches.batch_size"] == 2
    assert values["adapter.targets"] == ("attn1",)
    assert values["optim.lr"] == 1e-3
