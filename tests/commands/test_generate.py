from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toolkit import generate
from toolkit.core.errors import CastmixError
from toolkit.footage.video import probe, read_video
from toolkit.lora import layers as adapters
from toolkit.lora.file import Lora, load_lora, save_lora
from toolkit.lora.loading import LoraReference, parse_lora
from toolkit.lora.settings import Adapter
from toolkit.models import registry as models

SMALL: dict[str, Any] = {"steps": 3, "num_frames": 9, "height": 32, "width": 48}


@pytest.fixture(scope="module")
def lora(tiny_wan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA that does something."""
    denoiser = models.load_denoiser(str(tiny_wan))
    adapters.add(denoiser.module, "a", Adapter(rank=2), seed=0)
    made = adapters.extract(denoiser.module, "a")
    tensors = {name: (a, torch.full_like(b, 0.2)) for name, (a, b) in made.tensors.items()}
    path = tmp_path_factory.mktemp("lora") / "pixo v1.5.safetensors"
    save_lora(Lora(tensors, {"castmix.base_fingerprint": models.fingerprint(str(tiny_wan))}), path)
    return path


def test_videos_are_marked_as_generated_with_their_settings(
    tiny_wan: Path, lora: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.mp4"
    made = generate("a red cat", out, model=str(tiny_wan), lora=[f"{lora}:0.5"], seed=7, shift=5, **SMALL)
    assert made == [out]
    info = probe(out)
    assert (info.num_frames, info.height, info.width, info.fps) == (9, 32, 48, 16)
    assert "AI-generated" in info.metadata["comment"]
    told = json.loads((tmp_path / "x.json").read_text())
    assert json.loads(info.metadata["castmix"]) == told
    assert told["ai_generated"] is True
    assert (told["prompt"], told["seed"], told["steps"], told["shift"]) == ("a red cat", 7, 3, 5)
    assert (told["guidance_scale"], told["model"], told["width"]) == (5.0, "tiny-wan", 48)
    assert told["model_fingerprint"] == models.fingerprint(str(tiny_wan))
    assert told["loras"][0]["path"] == lora.as_posix()
    assert told["loras"][0]["weight"] == 0.5
    assert len(told["loras"][0]["fingerprint"]) == 16
    assert "torch" in told["versions"]


def test_the_same_seed_is_the_same_bytes(tiny_wan: Path, lora: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": str(tiny_wan), "lora": [str(lora)], **SMALL}
    (one,) = generate("a red cat", tmp_path / "1.mp4", seed=1, **settings)
    (again,) = generate(["a red cat"], tmp_path / "2.mp4", seed=1, **settings)
    (other,) = generate("a red cat", tmp_path / "3.mp4", seed=2, **settings)
    assert one.read_bytes() == again.read_bytes()
    assert one.read_bytes() != other.read_bytes()
    many = generate(["the moon", "a red cat"], tmp_path / "many", seed=0, **settings)
    assert [path.name for path in many] == ["000.mp4", "001.mp4"]
    assert many[1].read_bytes() == one.read_bytes()  # a prompt does not depend on its neighbours
    assert "the moon" in (tmp_path / "many" / "run.yaml").read_text()
    batched = generate(["the moon", "a red cat"], tmp_path / "batch", seed=0, batch_size=2, **settings)
    difference = np.subtract(read_video(batched[1])[0], read_video(one)[0], dtype=float)
    assert np.abs(difference).max() <= 2


def test_loras_and_their_weights_change_the_video(tiny_wan: Path, lora: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": str(tiny_wan), **SMALL}

    def video(name: str, *loras: str) -> bytes:
        (path,) = generate("a cat", tmp_path / f"{name}.mp4", lora=loras, **settings)
        return read_video(path)[0].tobytes()

    base = video("base")
    assert video("zero", f"{lora}:0") == base
    assert video("one", str(lora)) != base
    assert video("one", str(lora)) != video("half", f"{lora}:0.5")
    assert video("twice", f"{lora}:0.5", f"{lora}:-0.5") == base  # they cancel


def test_a_prompt_without_a_known_character_is_reported(
    tiny_wan: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = tmp_path / "known.safetensors"
    one = load_lora(lora)
    save_lora(Lora(one.tensors, {**one.metadata, "castmix.cast": '["Tom", "Jerry"]'}), known)
    settings: dict[str, Any] = {"model": str(tiny_wan), "lora": known, **SMALL}
    for prompt, said in (
        ("Tom chases Jerry, cartoon style", "did you mean '[Character: Tom], chases [Character: Jerry]."),
        ("a red cat", "has no [Character: <name>], the LoRAs know Jerry, Tom"),
        ("[Character: Spike], barks.", "names Spike, the LoRAs know Jerry, Tom"),
    ):
        generate(prompt, tmp_path / "x.mp4", **settings)
        assert said in capsys.readouterr().err.replace("\n", " ")
    generate("[Character: Tom], naps.", tmp_path / "x.mp4", **settings)
    assert "note:" not in capsys.readouterr().err
    generate("[Charater: Tom], naps.", tmp_path / "x.mp4", **settings)
    assert "'[Charater:' is not the start of a tag" in capsys.readouterr().err.replace("\n", " ")
    generate("[Character: Tom], <hops>.", tmp_path / "x.mp4", **settings)
    assert "no LoRA has the special token <hops>" in capsys.readouterr().err.replace("\n", " ")
    generate(["a red cat", "a blue cat", "a dog"], tmp_path / "many", **settings)
    told = capsys.readouterr().err.replace("\n", " ")
    assert told.count("note:") == 1
    assert "'a red cat' has no [Character: <name>] (and 2 more like it)" in told


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": 2**70}, "seed must be between"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be finite"),
    ],
)
def test_impossible_numbers_are_errors(
    tiny_wan: Path, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(CastmixError, match=message):
        generate("a cat", tmp_path / "x.mp4", model=str(tiny_wan), **wrong)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_videos_equal_those_of_the_diffusers_pipeline(
    tiny_wan: Path, tmp_path: Path, guidance: float
) -> None:
    """A folder with the Euler scheduler: the same pixels as diffusers for one seed."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    folder = tmp_path / "euler"
    shutil.copytree(tiny_wan, folder)
    FlowMatchEulerDiscreteScheduler(shift=7.0).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    pipe: Any = WanPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        prompt="a red cat",
        height=32,
        width=48,
        num_frames=9,
        num_inference_steps=3,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(4),
    ).frames[0]
    settings: dict[str, Any] = {"model": str(folder), "guidance_scale": guidance, "seed": 4, **SMALL}
    (path,) = generate("a red cat", tmp_path / "x.mp4", **settings)
    assert json.loads(path.with_suffix(".json").read_text())["shift"] == 7.0
    from toolkit.footage.video import write_video

    write_video(tmp_path / "theirs.mp4", (theirs * 255).round().astype(np.uint8), 16)
    difference = np.subtract(read_video(path)[0], read_video(tmp_path / "theirs.mp4")[0], dtype=float)
    assert np.abs(difference).mean() < 0.05


def test_a_prompt_that_is_cut_off_is_reported(
    tiny_wan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "short"
    shutil.copytree(tiny_wan, folder)
    (folder / "castmix.json").write_text('{"text_length": 4}')
    generate("a red cat walks over the moon", tmp_path / "x.mp4", model=str(folder), **SMALL)
    assert "has 8 tokens, short takes 4: its end is cut off" in capsys.readouterr().err


def test_lora_paths_are_parsed_with_their_weight(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "lora.safetensors").touch()
    (tmp_path / "a:0.5").touch()
    expected = run / "lora.safetensors"
    assert parse_lora(str(run)) == LoraReference("lora", expected, 1.0)
    assert parse_lora(f"{run}:0.8") == LoraReference("lora", expected, 0.8)
    assert parse_lora(f"{expected}:-1e-1") == LoraReference("lora", expected, -0.1)
    colon = tmp_path / "a:0.5"  # the file's own
    assert parse_lora(str(colon)) == LoraReference("lora", colon, 1.0)
    assert parse_lora(f"{colon}:2") == LoraReference("lora", colon, 2.0)
    with pytest.raises(CastmixError, match=r"no file .*C:\\x.safetensors; expected PATH or PATH:WEIGHT"):
        parse_lora(r"C:\x.safetensors")
    with pytest.raises(CastmixError, match="finite"):
        parse_lora(f"{run}:nan")
    with pytest.raises(CastmixError, match="no file"):
        parse_lora(f"{run}:heavy")


def test_wrong_requests_are_errors(tiny_wan: Path, lora: Path, tmp_path: Path) -> None:
    model = str(tiny_wan)
    for message, given in {
        "num_frames must be 4k[+]1, got 10: use 9 or 13": {"num_frames": 10},
        "height must be a multiple of 16, got 100: use 96 or 112": {"num_frames": 9, "height": 100},
        "steps must be above 0, got 0": {"steps": 0},
        "no file": {"lora": ["nothing.safetensors"]},
    }.items():
        with pytest.raises(CastmixError, match=message):
            generate("a cat", tmp_path / "x.mp4", model=model, **given)  # type: ignore[arg-type]
    with pytest.raises(CastmixError, match="2 prompts need a folder"):
        generate(["a", "b"], tmp_path / "x.mp4", model=model)
    with pytest.raises(CastmixError, match=r"videos are written as \.mp4"):
        generate("a", tmp_path / "x.gif", model=model)
    with pytest.raises(CastmixError, match="no prompt"):
        generate([], tmp_path / "x", model=model)
    assert not list(tmp_path.iterdir())


def test_prompts_are_read_from_a_file(tiny_wan: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"prompt": "the moon"}\n{"prompt": "a red cat"}\n')
    made = generate(f"@{tmp_path / 'mine.jsonl'}", tmp_path / "out", model=str(tiny_wan), **SMALL)
    assert [json.loads(path.with_suffix(".json").read_text())["prompt"] for path in made] == [
        "the moon",
        "a red cat",
    ]
