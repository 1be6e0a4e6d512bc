from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from toolkit.cli.calls import accept, flexible


@dataclass(frozen=True)
class Sigma:
    shift: float | None = None
    mean: float = 0.0


@dataclass(frozen=True)
class Objective:
    name: Literal["velocity", "motion"] = "velocity"
    sigma: Sigma = Sigma()
    tokens: Path | None = None


@dataclass(frozen=True)
class Optim:
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)


@dataclass(frozen=True)
class Adapter:
    rank: int = 32
    targets: tuple[str, ...] = ("attn1", "attn2")
    save_dtype: Literal["float32", "bfloat16"] = "float32"


def learn(
    data: list[Path],
    out: Path,
    *,
    lora: Sequence[str] = (),
    steps: int = 100,
    objective: Objective = Objective(sigma=Sigma(mean=1.0)),
    optim: Optim = Optim(),
    adapter: Adapter = Adapter(),
) -> dict[str, Any]:
    """Learn from clips."""
    return dict(locals())


call = flexible(learn)
PLAIN = learn([Path("data")], Path("out"))


def changed(**arguments: Any) -> dict[str, Any]:
    """What `learn` gets when it is called with these arguments besides `data` and `out`."""
    return PLAIN | arguments


def test_signature_and_docstring_stay() -> None:
    assert inspect.signature(call) == inspect.signature(learn)
    assert call.__doc__ == "Learn from clips."
    assert call.__name__ == "learn"


@pytest.mark.parametrize("data", ["data", Path("data"), ["data"], [Path("data")], ("data",), iter(["data"])])
def test_a_single_path_becomes_a_list_and_text_a_path(data: Any) -> None:
    assert call(data, "out") == PLAIN


@pytest.mark.parametrize("lora", ["runs/x:0.8", ["runs/x:0.8"], Path("runs/x:0.8"), [Path("runs/x:0.8")]])
def test_a_single_text_becomes_a_list_and_a_path_text(lora: Any) -> None:
    assert call("data", "out", lora=lora) == changed(lora=["runs/x:0.8"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"steps": 10, "lr": 1e-3, "rank": 8}, {"steps": 10, "optim": Optim(1e-3), "adapter": Adapter(8)}),
        ({"learning_rate": 1e-3, "max_train_steps": 9}, {"optim": Optim(1e-3), "steps": 9}),
        ({"objective": "motion"}, {"objective": Objective("motion", Sigma(mean=1.0))}),
        ({"shift": 3.0}, {"objective": Objective(sigma=Sigma(3.0, 1.0))}),
        ({"sigma": Sigma(2.0)}, {"objective": Objective(sigma=Sigma(2.0))}),
        ({"shift": 3.0, "sigma": Sigma(2.0, 5.0)}, {"objective": Objective(sigma=Sigma(3.0, 5.0))}),
        ({"sigma": {"shift": 3.0}}, {"objective": Objective(sigma=Sigma(3.0, 1.0))}),
        ({"objective": Objective("motion"), "shift": 3.0}, {"objective": Objective("motion", Sigma(3.0))}),
        ({"lr": 1.0, "optim": Optim(2.0, (0.5, 0.5))}, {"optim": Optim(1.0, (0.5, 0.5))}),
        ({"optim.lr": 1.0}, {"optim": Optim(1.0)}),
        ({"tokens": "a"}, {"objective": Objective(sigma=Sigma(mean=1.0), tokens=Path("a"))}),
        ({"targets": "attn1"}, {"adapter": Adapter(targets=("attn1",))}),
        ({"targets": ["attn1"]}, {"adapter": Adapter(targets=("attn1",))}),
        ({"adapter": Adapter(targets="attn1")}, {"adapter": Adapter(targets=("attn1",))}),  # type: ignore[arg-type]
        ({"save_dtype": "bf16"}, {"adapter": Adapter(save_dtype="bfloat16")}),
    ],
)
def test_every_accepted_name_sets_its_group(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert call("data", "out", **given) == changed(**expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stps": 1}, "learn() got stps: no such setting, did you mean steps?"),
        ({"optim": {"lrr": 1}}, "learn() got optim.lrr: no such setting, did you mean optim.lr?"),
        ({"optim": Sigma()}, "learn() got optim: optim is of type Optim, not Sigma"),
        ({"optim": 3}, "learn() got optim: is a group of settings: optim.lr, optim.betas"),
        ({"lr": 1, "learning_rate": 2}, "learn() got learning_rate: sets optim.lr a second time"),
        ({"out": "b"}, "learn() got out: sets out a second time"),
        (
            {"num_train_epochs": 2},
            "learn() got num_train_epochs: castmix counts steps, not epochs, use steps",
        ),
    ],
)
def test_a_wrong_name_is_a_type_error(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        call("data", "out", **given)
    assert str(caught.value).endswith(message)


def test_missing_and_superfluous_arguments_are_type_errors() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'out'"):
        call("data")
    with pytest.raises(TypeError, match="too many positional arguments"):
        call("data", "out", "more")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("text", str | list[str]),
        (None, list[str] | None),
        ("a", Literal["a", "b"]),
        ((1, 2), tuple[int, int]),
        ("bf16", str),
        (Path("a"), Path | str),
        (3, Callable[[int], int]),
    ],
)
def test_a_value_of_the_right_type_is_unchanged(value: Any, hint: Any) -> None:
    assert accept(value, hint) is value


def test_sequences_keep_their_type() -> None:
    assert accept(("a",), Sequence[str]) == ("a",)
    assert accept(["a"], Sequence[str]) == ["a"]
    assert accept(["a"], tuple[str, ...]) == ("a",)
    assert accept(0.5, Sequence[float]) == [0.5]
    assert accept(("a",), list[Path] | None) == [Path("a")]
