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
import yaml

from toolkit.cli.click_app import COMMANDS, find_verb
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


FLAT: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "train",
        {
            "objective": "motion", "tokens": "t.safetensors", "composites": 0.1, "holdout": 3,
            "save_every": 7, "sample_prompts": ["a cat"], "sigma": {"shift": 5.0},
            "motion": {"omega": 0.2, "tokens": "m"},
            "optim": {"lr": 0.1}, "adapter": {"rank": 8}, "watch": {"sample_every": 9},
        },
        {
            "objective.name": "motion", "adapter.tokens": Path("t.safetensors"), "batches.composites": 0.1,
            "batches.holdout": 3.0, "watch.save_every": 7, "watch.sample_prompts": ("a cat",),
            "objective.sigma.shift": 5.0, "objective.motion.omega": 0.2, "objective.motion.tokens": Path("m"),
            "optim.lr": 0.1, "adapter.rank": 8, "watch.sample_every": 9,
        },
    ),
    (
        "fuse",
        {
            "rank": 4, "save_dtype": "bfloat16", "clips": ["a", "b"], "pairs": "p", "sigma": {"std": 2.0},
            "optim": {"lr": 0.1, "name": "adamw8bit"}, "squares": {"clips": 9, "draws": 2},
            "distil": {"sigma": [0.1, 0.2], "steps": 9},
        },
        {
            "file.rank": 4, "file.save_dtype": "bfloat16", "examples.clips": (Path("a"), Path("b")),
            "examples.pairs": Path("p"), "examples.sigma.std": 2.0, "distil.optim.lr": 0.1,
            "distil.optim.name": "adamw8bit", "squares.max_clips": 9, "squares.draws": 2,
            "distil.map_sigma": (0.1, 0.2), "distil.steps": 9,
        },
    ),
    (
        "learn-motion",
        {
            "batch_size": 8, "adapter": {"rank": 2}, "optim": {"lr": 0.1}, "sigma": {"shift": 4.0},
            "motion": {"omega": 0.0}, "memory": {"compile": True}, "textual": {"batch_size": 3, "lr": 0.5},
        },
        {
            "training.batch_size": 8, "training.adapter.rank": 2, "training.optim.lr": 0.1,
            "training.sigma.shift": 4.0, "training.motion.omega": 0.0, "training.memory.compile": True,
            "textual.batch_size": 3, "textual.lr": 0.5,
        },
    ),
]  # fmt: skip
"""By command: arguments as a run.yaml of 0.1.0 has them, and the settings that they are now."""


@pytest.mark.parametrize(("verb", "arguments", "settings"), FLAT, ids=[verb for verb, *_ in FLAT])
def test_settings_of_0_1_0_keep_their_meaning(
    verb: str, arguments: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"verb": verb, "arguments": arguments}))
    assert read_preset(str(path), verb, find_verb(COMMANDS[verb])) == settings
