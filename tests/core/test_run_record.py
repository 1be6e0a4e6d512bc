from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from toolkit import __version__
from toolkit.cli.presets import read_preset
from toolkit.core.errors import CastmixError
from toolkit.core.run_record import write_run


@dataclass(frozen=True)
class Optim:
    """Of the optimiser."""

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)


def learn(data: list[Path], *, seed: int = 0, api_key: str | None = None, optim: Optim = Optim()) -> None:
    """Learn."""


def test_a_run_is_a_preset_of_its_own_verb(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    write_run(path, "learn", {"data": [Path("a/b")], "seed": 7, "optim": Optim(lr=3e-5)}, clips={"one": "0f"})
    assert read_preset(str(path), "learn", learn) == {
        "data": [Path("a/b")],
        "seed": 7,
        "optim.lr": 3e-5,
        "optim.betas": (0.9, 0.99),
    }
    run = yaml.safe_load(path.read_text())
    assert run["castmix"] == __version__
    assert run["clips"] == {"one": "0f"}
    assert set(run["versions"]) >= {"python", "torch", "diffusers"}


def test_secrets_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    write_run(
        path, "learn", {"api_key": "sk-42", "server": "http://me:sk-42@host", "hf_token": "sk-42", "seed": 1}
    )
    assert "sk-42" not in path.read_text()
    assert read_preset(str(path), "learn", learn) == {"seed": 1}


def test_what_yaml_cannot_hold_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CastmixError, match=r"run\.yaml cannot hold <object"):
        write_run(tmp_path / "run.yaml", "learn", {"seed": object()})
    assert list(tmp_path.iterdir()) == []
