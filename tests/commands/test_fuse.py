from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from click.testing import CliRunner
from torch import Tensor

from toolkit.cli.click_app import castmix
from toolkit.commands.fuse import fuse
from toolkit.core.errors import CastmixError
from toolkit.fusion.job import read_part
from toolkit.fusion.methods import METHODS
from toolkit.fusion.settings import FusedFile, MethodName, Sparse
from toolkit.lora import layers as adapters
from toolkit.lora.file import Lora, load_lora, save_lora
from toolkit.lora.parts import masked_parts
from toolkit.models import registry as models

LAYERS = {
    "blocks.0.attn1.to_q": (32, 32),
    "blocks.0.attn2.to_k": (32, 32),
    "blocks.1.attn1.to_v": (32, 32),
    "blocks.1.ffn.net.0.proj": (48, 32),
}
"""Of the tiny Wan, by name: (out, in)."""


def some_lora(seed: int, rank: int, layers: Sequence[str] = tuple(LAYERS), cast: Sequence[str] = ()) -> Lora:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in layers:
        outputs, inputs = LAYERS[layer]
        a, b = torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator)
        tensors[layer] = (0.3 * a, b)
    return Lora(tensors, {"castmix.cast": json.dumps(list(cast)), "castmix.base": "sandbox"})


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Three LoRAs of different ranks; the third has layers of its own and lacks others."""
    paths = (tmp_path / "a.safetensors", tmp_path / "b" / "lora.safetensors", tmp_path / "c.safetensors")
    save_lora(some_lora(1, 3, cast=["Mimi"]), paths[0])
    save_lora(some_lora(2, 5, list(LAYERS)[:3], ["Otto"]), paths[1])
    save_lora(some_lora(3, 2, list(LAYERS)[2:]), paths[2])
    return paths


def change(lora: Lora, layer: str) -> Tensor:
    """B A, or nothing where the LoRA has no such layer."""
    if layer not in lora.tensors:
        return torch.zeros(LAYERS[layer])
    a, b = lora.tensors[layer]
    return b @ a


def assert_same(made: Lora, wanted: Callable[[str], Tensor], tolerance: float = 1e-5) -> None:
    for layer in LAYERS:
        torch.testing.assert_close(change(made, layer), wanted(layer), rtol=tolerance, atol=tolerance)


def test_every_method_has_its_name() -> None:
    assert set(METHODS) == set(get_args(MethodName))


def test_loras_with_one_character_per_caption_are_reported(
    files: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several = tmp_path / "several.safetensors"
    save_lora(some_lora(4, 2, cast=["Mimi", "Bruno"]), several)
    fuse([str(files[0]), str(several)], tmp_path / "fused.safetensors")
    said = capsys.readouterr()
    assert "the captions of a name one character each" in said.out + said.err
    for alone in ([str(files[0])], [str(several), str(files[2])]):
        fuse(alone, tmp_path / "fused.safetensors")
        said = capsys.readouterr()
        assert "one character each" not in said.out + said.err


def test_weighted_is_the_exact_sum_whatever_the_ranks(files: tuple[Path, ...], tmp_path: Path) -> None:
    words = [f"{files[0]}:0.8", str(files[1].parent), f"{files[2]}:-0.5", f"{files[0]}:0"]
    made = load_lora(fuse(words, tmp_path / "fused.safetensors"))
    loras = [load_lora(path) for path in files]
    assert_same(
        made,
        lambda layer: sum(
            (w * change(lora, layer) for w, lora in zip((0.8, 1, -0.5), loras, strict=True)),
            torch.zeros(LAYERS[layer]),
        ),
    )
    ranks = {layer: a.shape[0] for layer, (a, _) in made.tensors.items()}
    assert ranks == dict(zip(LAYERS, (8, 8, 10, 5), strict=True))
    assert json.loads(made.metadata["castmix.cast"]) == ["Mimi", "Otto"]
    assert made.metadata["modelspec.trigger_phrase"] == "[Character: Mimi], [Character: Otto]"
    record = json.loads(made.metadata["castmix.fusion"])
    assert [(part["name"], part["weight"]) for part in record["parts"]] == [("a", 0.8), ("b", 1), ("c", -0.5)]
    assert yaml.safe_load((tmp_path / "fused.run.yaml").read_text())["arguments"]["method"] == "weighted"


def test_a_fused_file_acts_like_its_parts_together(
    files: tuple[Path, ...], tmp_path: Path, tiny_wan: Path
) -> None:
    denoiser = models.load_denoiser(str(tiny_wan))
    fuse([f"{files[0]}:0.8", str(files[1])], tmp_path / "fused")
    for name, path in {"a": files[0], "b": files[1], "fused": tmp_path / "fused"}.items():
        adapters.attach(denoiser.module, load_lora(path), name)
    latents = torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    embeds = torch.randn(1, 8, 24, generator=torch.Generator().manual_seed(1))
    outputs = []
    for weights in ({"fused": 1.0}, {"a": 0.8, "b": 1.0}, {}):
        with adapters.activate(denoiser.module, weights), torch.no_grad():
            outputs.append(denoiser(latents, torch.tensor(0.7), embeds))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    assert (outputs[0] - outputs[2]).abs().max() > 0.01


@pytest.mark.parametrize("method", ["weighted", "masked", "svd", "ties", "dare"])
def test_fusion_of_one_is_itself(files: tuple[Path, ...], tmp_path: Path, method: MethodName) -> None:
    own = load_lora(files[0])
    made = load_lora(
        fuse([str(files[0])], tmp_path / "x.safetensors", method=method, sparse=Sparse(density=1))
    )
    assert_same(made, lambda layer: change(own, layer))
    if method in ("weighted", "masked"):
        for layer, (a, b) in own.tensors.items():
            assert torch.equal(made.tensors[layer][0], a)
            assert torch.equal(made.tensors[layer][1], b)


def test_svd_is_the_nearest_of_its_rank_and_says_what_it_lost(
    files: tuple[Path, ...], tmp_path: Path
) -> None:
    words = [str(path) for path in files]
    exact = load_lora(fuse(words, tmp_path / "exact.safetensors"))
    made = load_lora(fuse(words, tmp_path / "small", method="svd", file=FusedFile(rank=4)))
    assert made.rank == 4
    lost = torch.zeros(())
    for layer in LAYERS:
        values = torch.linalg.svdvals(change(exact, layer))
        error = (change(exact, layer) - change(made, layer)).norm()
        torch.testing.assert_close(error, values[4:].norm(), rtol=1e-3, atol=1e-4)
        lost += error**2
    whole = torch.stack([change(exact, layer).norm() for layer in LAYERS]).norm()
    told = yaml.safe_load((tmp_path / "small" / "run.yaml").read_text())
    assert told["relative_error"] == pytest.approx(float(lost.sqrt() / whole), rel=1e-3)
    assert told["relative_error"] > 0.1
    same = fuse(words, tmp_path / "again.safetensors", file=FusedFile(rank=4))  # weighted, at a rank
    torch.testing.assert_close(load_lora(same).tensors, made.tensors)


def test_ties_keeps_single_values_and_averages_agreeing_ones(tmp_path: Path) -> None:
    layer = "blocks.0.attn1.to_q"
    rows = [torch.tensor([4.0, -2.0, 0.0, 0.0]), torch.tensor([2.0, 1.0, 3.0, 0.0])]
    for name, row in zip("ab", rows, strict=True):
        save_lora(Lora({layer: (row.unsqueeze(0), torch.ones(1, 1))}), tmp_path / f"{name}.safetensors")
    words = [str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]
    made = load_lora(fuse(words, tmp_path / "x.safetensors", method="ties", sparse=Sparse(density=1)))
    a, b = made.tensors[layer]
    torch.testing.assert_close(b @ a, torch.tensor([[3.0, -2.0, 3.0, 0.0]]))  # mean, the winner's, whole


def test_dare_draws_from_the_seed_alone_and_keeps_the_expectation(
    files: tuple[Path, ...], tmp_path: Path
) -> None:
    word, settings = [str(files[0])], {"method": "dare", "sparse": Sparse(0.5), "file": FusedFile(32)}
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    made = [load_lora(fuse(word, tmp_path / f"{s}", seed=s, **settings)) for s in (0, 0, *range(1, 40))]  # type: ignore[arg-type]
    assert torch.equal(torch.random.get_rng_state(), before)
    layer = "blocks.0.attn1.to_q"
    one, again, other = (change(lora, layer) for lora in made[:3])
    own = change(load_lora(files[0]), layer)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    kept = (one - 2 * own).abs() < 1e-4
    assert torch.equal(kept, ~(one.abs() < 1e-4))  # each number is gone or doubled
    mean = torch.stack([change(lora, layer) for lora in made[1:]]).mean(0)
    assert (mean - own).norm() / own.norm() < 0.3  # 1 / sqrt(40), with room


def test_a_masked_file_can_be_split_into_its_parts(files: tuple[Path, ...], tmp_path: Path) -> None:
    words = [f"{files[0]}:0.5", str(files[1]), str(files[2])]
    out = fuse(words, tmp_path / "x.safetensors", method="masked", subjects=["Mimi", "Otto", "Pip,<pip>"])
    parts = masked_parts(load_lora(out))
    assert parts is not None
    assert "elsewhere this is their plain sum" in load_lora(out).metadata["modelspec.usage_hint"]
    assert [part.subjects for part in parts] == [("Mimi",), ("Otto",), ("Pip", "<pip>")]
    for weight, path, part in zip((0.5, 1, 1), files, parts, strict=True):
        own = load_lora(path)
        assert set(part.lora.tensors) == set(own.tensors)
        assert_same(part.lora, lambda layer, w=weight, own=own: w * change(own, layer))  # type: ignore[misc]
    assert masked_parts(load_lora(fuse(words, tmp_path / "y.safetensors"))) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out": "x.pt"}, "written as .safetensors, or into a folder"),
        ({"method": "weigthed"}, "no method 'weigthed': choose weighted"),
        ({"method": "svd", "file": FusedFile(rank=0)}, "rank must be 1 or more, got 0"),
        ({"method": "ties", "sparse": Sparse(density=0)}, "density must be above 0 and at most 1, got 0"),
        ({"method": "masked"}, "c has no subjects: give --subjects"),
        ({"method": "masked", "file": FusedFile(rank=3)}, "leave --rank out"),
        ({"subjects": ["Mimi"]}, "2 LoRAs and 1 --subjects"),
        ({"loras": ["a.safetensors:0"]}, "nothing to fuse"),
        ({"loras": ["nobody.safetensors:2"]}, "no file nobody.safetensors"),
        ({"loras": ["a.safetensors:nan"]}, "must be a finite number, got nan"),
    ],
)
def test_wrong_arguments_are_errors(
    files: tuple[Path, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CastmixError, match=message):
        fuse(**{"loras": ["a.safetensors", "c.safetensors"], "out": "x.safetensors", **settings})
    assert not Path("x.safetensors").exists()


def test_loras_of_different_models_are_an_error(files: tuple[Path, ...], tmp_path: Path) -> None:
    odd = Lora({"blocks.0.attn1.to_q": (torch.ones(2, 16), torch.ones(32, 2))})
    save_lora(odd, tmp_path / "odd.safetensors")
    with pytest.raises(CastmixError, match=r"odd and a are of different models: layer .* 16→32 .* 32→32"):
        fuse([str(files[0]), str(tmp_path / "odd.safetensors")], tmp_path / "x.safetensors")


def test_a_changed_masked_file_is_an_error(files: tuple[Path, ...], tmp_path: Path) -> None:
    lora = load_lora(fuse([str(files[0]), str(files[1])], tmp_path / "x.safetensors", method="masked"))
    with pytest.raises(CastmixError, match="fuse it again"):
        masked_parts(
            Lora({layer: (a[:4], b[:, :4]) for layer, (a, b) in lora.tensors.items()}, lora.metadata)
        )


def test_lora_weights_are_parsed_like_those_of_generate(files: tuple[Path, ...]) -> None:
    assert read_part(f"{files[1].parent}:0.25").weight == 0.25
    assert read_part(files[1].parent).name == "b"


def test_the_command_line_runs_the_method(files: tuple[Path, ...], tmp_path: Path) -> None:
    out = tmp_path / "fused.safetensors"
    words = ["fuse", f"{files[0]}:0.8", str(files[1]), "--out", str(out), "--method", "svd", "--rank", "2"]
    result = CliRunner().invoke(castmix(), words)
    assert result.exit_code == 0, result.output
    assert load_lora(out).rank == 2


def test_fusions_keep_special_tokens(tmp_path: Path) -> None:
    told = {"castmix.tokens": json.dumps({"<mimi>": {"noun": "cat", "kind": "output"}})}
    with_token = Lora({**some_lora(1, 2).tensors}, told, {"<mimi>": torch.arange(24.0)})
    for name, lora in {"a": with_token, "b": some_lora(2, 2, cast=["Otto"])}.items():
        save_lora(lora, tmp_path / name / "lora.safetensors")
    made = load_lora(fuse([str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "fused", method="masked"))
    assert torch.equal(made.tokens["<mimi>"], torch.arange(24.0))
    assert json.loads(made.metadata["castmix.tokens"])["<mimi>"]["noun"] == "cat"
    parts = masked_parts(made)
    assert parts is not None
    assert [part.subjects for part in parts] == [("<mimi>",), ("Otto",)]
