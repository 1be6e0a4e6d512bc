"""A studio: the model is loaded once, LoRAs change, and a pipeline in memory is given back as it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import toolkit as castmix
from toolkit.commands.fuse import fuse
from toolkit.core.errors import CastmixError
from toolkit.footage.video import read_video
from toolkit.lora import layers
from toolkit.lora.file import Lora, save_lora
from toolkit.lora.settings import Adapter
from toolkit.models.registry import fingerprint, load_denoiser
from toolkit.sampling import session

SIZE: dict[str, Any] = {"steps": 2, "num_frames": 9, "height": 32, "width": 48}
PROMPT = "[Character: Pixo], jumps over the moon. [Character: Bruk], walks."


@pytest.fixture(scope="module")
def loras(tiny_wan: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three random LoRAs, and a masked fusion of two of them."""
    folder = tmp_path_factory.mktemp("loras")
    found = {}
    for seed, name in enumerate(("pixo", "bruk", "wave")):
        denoiser = load_denoiser(str(tiny_wan))
        layers.add(denoiser.module, "a", Adapter(rank=2), seed=seed)
        made = layers.extract(denoiser.module, "a")
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            key: (a, 0.3 * torch.randn(b.shape, generator=generator)) for key, (a, b) in made.tensors.items()
        }
        found[name] = folder / f"{name}.safetensors"
        save_lora(Lora(tensors, {"castmix.base_fingerprint": fingerprint(str(tiny_wan))}), found[name])
    both = [str(found["pixo"]), str(found["bruk"])]
    found["masked"] = fuse(both, folder / "masked.safetensors", method="masked", subjects=["Pixo", "Bruk"])
    return found


def test_two_calls_load_the_model_once(
    tiny_wan: Path, loras: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    true_load = session.load_denoiser

    def counted(*given: Any, **more: Any) -> Any:
        loads.append("denoiser")
        return true_load(*given, **more)

    monkeypatch.setattr(session, "load_denoiser", counted)
    with castmix.load(str(tiny_wan)) as studio:
        first = studio.generate("a red cat", seed=1, **SIZE)
        vae, text_encoder = studio.encoders.vae, studio.encoders.text_encoder  # type: ignore[attr-defined]
        studio.use(lora=[loras["pixo"]])
        changed = studio.generate("a red cat", seed=1, **SIZE)
        studio.use()
        again = studio.generate("a red cat", seed=1, **SIZE)
        assert vae is studio.encoders.vae  # type: ignore[attr-defined]
        assert text_encoder is studio.encoders.text_encoder  # type: ignore[attr-defined]
    assert loads == ["denoiser"]
    assert (first.frames == again.frames).all()
    assert (first.frames != changed.frames).any()


@pytest.mark.parametrize(
    ("wearing", "more"),
    [
        ({}, {}),
        ({"lora": ["pixo:0.5", "bruk"]}, {}),
        ({"lora": ["masked"]}, {}),
        (
            {"subject": ["masked"], "motion": "wave", "sampler": "scs", "words": ["Pixo=cat", "Bruk=dog"]},
            {"motion_prompt": "a cat jumps over the moon and a dog walks"},
        ),
    ],
)
def test_a_studio_makes_what_the_command_makes(
    tiny_wan: Path, loras: dict[str, Path], tmp_path: Path, wearing: dict[str, Any], more: dict[str, Any]
) -> None:
    def path(text: str) -> str:
        name, colon, weight = text.partition(":")
        return f"{loras[name]}{colon}{weight}"

    wearing = {
        role: [path(one) for one in given] if role in ("lora", "subject") else given
        for role, given in wearing.items()
    }
    if "motion" in wearing:
        wearing["motion"] = path(wearing["motion"])
    castmix.generate(PROMPT, tmp_path / "a.mp4", model=str(tiny_wan), seed=3, **SIZE, **wearing, **more)
    with castmix.load(str(tiny_wan), **wearing) as studio:
        video = studio.generate(PROMPT, seed=3, **SIZE, **more)
    video.save(tmp_path / "b.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.steps.jsonl").exists() == (tmp_path / "b.steps.jsonl").exists()


def test_a_lora_that_does_not_fit_changes_nothing(
    tiny_wan: Path, loras: dict[str, Path], tmp_path: Path
) -> None:
    wide = tmp_path / "wide.safetensors"
    save_lora(Lora({"blocks.0.attn1.to_q": (torch.ones(2, 64), torch.ones(64, 2))}), wide)
    with castmix.load(str(tiny_wan), lora=[loras["pixo"]]) as studio:
        before = studio.generate("a red cat", **SIZE)
        with pytest.raises(CastmixError, match="does not fit this model"):
            studio.use(lora=[loras["bruk"], wide])
        with pytest.raises(CastmixError, match="no file"):
            studio.use(lora=["nothing"])
        after = studio.generate("a red cat", **SIZE)
    assert (before.frames == after.frames).all()
    assert before.facts["loras"] == after.facts["loras"]


def test_a_lora_that_does_not_fit_is_refused_by_load(tiny_wan: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide.safetensors"
    save_lora(Lora({"blocks.0.attn1.to_q": (torch.ones(2, 64), torch.ones(64, 2))}), wide)
    with pytest.raises(CastmixError, match="does not fit this model"):
        castmix.load(str(tiny_wan), lora=wide)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sampler": "SCS"}, "no sampler 'SCS': use euler, scs, scs-lite"),
        ({"sampler": "scs"}, "there is no --subject and no --motion"),
        ({"motion_clip": Path("nope.mp4")}, "nope.mp4: no such file"),
        ({"words": ["=cat"]}, "expected NAME=NOUN"),
    ],
)
def test_settings_are_checked_before_anything_changes(
    tiny_wan: Path, loras: dict[str, Path], given: dict[str, Any], message: str
) -> None:
    with castmix.load(str(tiny_wan), lora=[loras["pixo"]]) as studio:
        before = studio.loras
        with pytest.raises(CastmixError, match=message):
            studio.use(**given)
        assert studio.loras is before
        assert studio.sampler == "euler"


def test_a_closed_studio_says_so(tiny_wan: Path) -> None:
    studio = castmix.load(str(tiny_wan))
    with pytest.raises(CastmixError, match=r"prompt must be one text, got \['a', 'b'\]"):
        studio.generate(["a", "b"])  # type: ignore[arg-type]
    with pytest.raises(CastmixError, match="steps must be a number, got '2'"):
        studio.generate("a", steps="2")  # type: ignore[arg-type]
    studio.close()
    with pytest.raises(CastmixError, match="this studio is closed"):
        studio.generate("a red cat", **SIZE)


def test_a_video_plays_and_says_how_it_was_made(tiny_wan: Path, tmp_path: Path) -> None:
    with castmix.load(str(tiny_wan)) as studio:
        video = studio.generate("a red cat", seed=2, num_inference_steps=2, num_frames=9, height=32, width=48)
        same = studio.generate("a red cat", seed=2, **SIZE)
        with pytest.raises(CastmixError, match="steps is 2 and num_inference_steps 3: give one"):
            studio.generate("a red cat", steps=2, num_inference_steps=3)
        with pytest.raises(CastmixError, match="seed must be between 0"):
            studio.generate("a red cat", seed=-1, **SIZE)
    assert video.frames.shape == (9, 32, 48, 3)
    assert video.frames.dtype == "uint8"
    assert video.fps == 16
    assert (video.frames == same.frames).all()
    assert "<video" in video._repr_html_()
    assert "data:video/mp4;base64," in video._repr_html_()
    assert repr(video) == "Video(9 frames of 48x32, 16 fps, 'a red cat')"
    with pytest.raises(CastmixError, match=r"x\.gif: a video is written as \.mp4"):
        video.save(tmp_path / "x.gif")
    video.save(tmp_path / "x.mp4")
    assert read_video(tmp_path / "x.mp4")[0].shape == video.frames.shape
    assert json.loads((tmp_path / "x.json").read_text()) == video.facts
    assert video.facts["ai_generated"] is True


def test_a_pipeline_in_memory_is_used_and_given_back(tiny_wan: Path, loras: dict[str, Path]) -> None:
    from diffusers import WanPipeline

    pipe: Any = WanPipeline.from_pretrained(tiny_wan)
    pipe.set_progress_bar_config(disable=True)

    def state() -> tuple[Any, ...]:
        parts = (pipe.transformer, pipe.vae, pipe.text_encoder)
        modules = [(key, id(part)) for one in parts for key, part in one.named_modules()]
        flags = [(key, p.requires_grad, p.dtype) for one in parts for key, p in one.named_parameters()]
        return modules, flags, hasattr(pipe.transformer, "peft_config"), pipe.scheduler

    def theirs() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        size = {"num_frames": 9, "height": 32, "width": 48, "num_inference_steps": 2}
        found: torch.Tensor = pipe("a red cat", **size, generator=generator, output_type="latent").frames
        return found

    before, latents = state(), theirs()
    studio = castmix.load(pipe, like="wan2.1-t2v-1.3b", lora=[loras["pixo"]])
    assert (studio.spec.steps, studio.spec.text_length, studio.spec.fps) == (50, 512, 16)
    ours = studio.generate("a red cat", seed=1, **SIZE)
    studio.close()
    assert state() == before
    assert torch.equal(theirs(), latents)
    with castmix.load(str(tiny_wan), lora=[loras["pixo"]]) as other:
        assert (other.generate("a red cat", seed=1, **SIZE).frames == ours.frames).all()


def test_load_refuses_wrong_arguments(tiny_wan: Path) -> None:
    with pytest.raises(
        CastmixError, match="takes a model's name, a folder or a diffusers WanPipeline, got a"
    ):
        castmix.load(3)
    with pytest.raises(CastmixError, match="like='sandbox' is for a WanPipeline in memory"):
        castmix.load(str(tiny_wan), like="sandbox")


def test_attention_maps_see_the_network_of_generate(tiny_wan: Path, loras: dict[str, Path]) -> None:
    """A masked fusion: the same video, and maps of each LoRA in its own place, not of their plain sum."""
    from toolkit.sampling.attention_view import AttentionView

    summed = [loras["pixo"], loras["bruk"]]
    with castmix.load(str(tiny_wan), lora=[loras["masked"]]) as studio:
        studio.spec = dataclasses.replace(studio.spec, num_frames=9, height=32, width=48)
        view = AttentionView(studio, PROMPT, ("Pixo", "Bruk"), (0.9, 0.5), (), seed=3)
        seen = view.of_new_video(steps=2)
        video = studio.generate(PROMPT, seed=3, **SIZE)
        studio.use(lora=summed)
        plain = view.of_new_video(steps=2)
        assert (plain.frames == studio.generate(PROMPT, seed=3, **SIZE).frames).all()
    assert (seen.frames == video.frames).all()
    assert (seen.frames != plain.frames).any()
    assert any(not torch.equal(seen.maps[level], plain.maps[level]) for level in seen.maps)
