from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.core.errors import CastmixError
from toolkit.models import registry as models

PROMPTS = ["a red cat  walks", "", "Pixo jumps &amp;amp; the dog walks\n over the moon "]


@pytest.fixture(scope="module")
def pipe(tiny_wan: Path) -> Any:
    from diffusers import WanPipeline

    pipe = WanPipeline.from_pretrained(tiny_wan)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def encoders(tiny_wan: Path) -> models.Encoders:
    return models.load_encoders(str(tiny_wan))


def test_prompt_embeddings_equal_the_pipelines(pipe: Any, encoders: models.Encoders) -> None:
    with torch.no_grad():  # attention kernels differ in the last bit with and without gradients
        theirs, _ = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False, max_sequence_length=512)
    ours = encoders.encode_text(PROMPTS)
    assert ours.shape == (3, 512, 24)
    assert torch.equal(ours, theirs)
    tokens = [encoders.count_tokens(prompt) for prompt in PROMPTS]
    assert [int(row.abs().sum(-1).gt(0).sum()) for row in ours] == tokens
    assert tokens[1] == 1


def test_prompt_embeddings_are_the_same_after_freeing_the_encoder(encoders: models.Encoders) -> None:
    before = encoders.encode_text(PROMPTS[:1])
    encoders.release_text_encoder()
    assert torch.equal(encoders.encode_text(PROMPTS[:1]), before)


def test_latents_are_normalised_as_the_pipeline_expects(pipe: Any, encoders: models.Encoders) -> None:
    video = torch.rand(1, 3, 9, 32, 48) * 2 - 1
    latents = encoders.encode_video(video)
    assert latents.shape == (1, *models.latent_shape(str(pipe.config._name_or_path), 9, 32, 48))
    mode = pipe.vae.encode(video).latent_dist.mode()
    mean = torch.tensor(pipe.vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(pipe.vae.config.latents_std).view(1, -1, 1, 1, 1)
    assert torch.allclose(latents * std + mean, mode, atol=1e-6)
    # no denoising step at all: what the pipeline decodes from the latents that it is handed
    decoded = pipe.video_processor.postprocess_video(pipe.vae.decode(mode).sample, output_type="pt")
    assert torch.allclose(encoders.decode_video(latents) / 2 + 0.5, decoded.transpose(1, 2), atol=1e-5)


def test_denoiser_is_the_transformer_at_1000_sigma(pipe: Any, tiny_wan: Path) -> None:
    denoiser = models.load_denoiser(str(tiny_wan))
    latents, embeds = torch.randn(2, 16, 3, 4, 6), torch.randn(2, 512, 24)
    sigma = torch.tensor([0.2, 0.9])
    theirs = pipe.transformer(latents, sigma * 1000, embeds).sample
    assert torch.allclose(denoiser(latents, sigma, embeds), theirs, atol=1e-6)
    both = denoiser(latents, torch.tensor(0.9), embeds)
    assert torch.allclose(both[1], theirs[1], atol=1e-5)
    assert not torch.allclose(both[0], theirs[0], atol=1e-3)
    assert not any(parameter.requires_grad for parameter in denoiser.module.parameters())


def test_parts_are_loaded_alone(tiny_wan: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_wan, tmp_path / "half", ignore=shutil.ignore_patterns("transformer"))
    assert models.load_encoders(str(tmp_path / "half")).encode_text(["a cat"]).any()
    with pytest.raises(CastmixError, match=r"lacks transformer/config.json, transformer/diffusion_pytorch"):
        models.load_denoiser(str(tmp_path / "half"))
    shutil.copytree(
        tiny_wan, tmp_path / "other", ignore=shutil.ignore_patterns("vae", "text_encoder", "tokenizer")
    )
    models.load_denoiser(str(tmp_path / "other"))
    with pytest.raises(CastmixError, match=r"lacks tokenizer/, text_encoder/config.json"):
        models.load_encoders(str(tmp_path / "other"))


def test_a_local_folder_brings_its_own_settings(tiny_wan: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(tiny_wan, folder)
    spec = models.find_model(str(folder))
    assert (spec.name, spec.text_length, spec.shift, spec.num_frames) == ("mine", 512, 3.0, 81)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 7.0}))
    (folder / "castmix.json").write_text(json.dumps({"text_length": 16, "fps": 8.0}))
    spec = models.find_model(str(folder))
    assert (spec.text_length, spec.shift, spec.fps) == (16, 7.0, 8.0)
    (folder / "castmix.json").write_text(json.dumps({"text_lenght": 16}))
    with pytest.raises(CastmixError, match=r"unknown text_lenght; known settings: .*text_length"):
        models.find_model(str(folder))


def test_wrong_model_names_suggest_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(CastmixError, match=r"Did you mean 'sandbox'"):
        models.find_model("sandbix")
    with pytest.raises(CastmixError, match=r"Did you mean 'wan2.1-t2v-14b'"):
        models.find_model("wan2.1-t2v-14")
    (tmp_path / "vae").mkdir()
    with pytest.raises(CastmixError, match=r"model_index.json is missing \(it has vae\)"):
        models.find_model(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text("{}")
    (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(CastmixError, match="is a FluxPipeline: castmix needs a WanPipeline"):
        models.load_denoiser(str(tmp_path))


@pytest.mark.parametrize("name", ["wan2.1-t2v-1.3b", "wan2.1-t2v-14b"])
def test_missing_weights_name_the_download(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(CastmixError) as error:
        models.load_denoiser(name)
    assert time.monotonic() - began < 20  # no retries for minutes
    for part in ("transformer/", "GB", f"hf download {models.MODELS[name].path}"):
        assert part in str(error.value)


def test_wrong_sizes_suggest_valid_ones(tiny_wan: Path) -> None:
    assert models.latent_shape(str(tiny_wan), 81, 480, 832) == (16, 21, 60, 104)
    for bad, message in {
        (80, 480, 832): "num_frames must be 4k[+]1, got 80: use 77 or 81",
        (0, 480, 832): "got 0: use 1 or 5",
        (81, 100, 832): "height must be a multiple of 16, got 100: use 96 or 112",
        (81, 480, 7): "width must be a multiple of 16, got 7: use 16 or 32",
    }.items():
        with pytest.raises(CastmixError, match=message):
            models.latent_shape(str(tiny_wan), *bad)


def test_fingerprints_change_with_their_files(tiny_wan: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_wan, tmp_path / "copy")
    copy = str(tmp_path / "copy")
    before = {part: models.fingerprint(copy, part) for part in ("transformer", "encoders")}
    assert before == {part: models.fingerprint(str(tiny_wan), part) for part in before}
    weights = tmp_path / "copy" / "transformer" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert models.fingerprint(copy) != before["transformer"]
    assert models.fingerprint(copy, "encoders") == before["encoders"]
    (tmp_path / "copy" / "castmix.json").write_text('{"text_length": 32}')
    assert models.fingerprint(copy, "encoders") != before["encoders"]


def test_plain_attention_does_not_leak_to_another_model(tiny_wan: Path) -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    from toolkit.models.wan import use_math_attention

    one = models.load_denoiser(str(tiny_wan))
    usual, _ = Registry.get_active_backend()
    use_math_attention(one.module)
    assert Registry.get_active_backend()[0] == usual
    told = {
        module.processor._attention_backend.value
        for module in one.module.modules()
        if hasattr(getattr(module, "processor", None), "_attention_backend")
    }
    assert told == {"_native_math"}
