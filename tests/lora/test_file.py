from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from toolkit.core.errors import CastmixError
from toolkit.lora import layers as adapters
from toolkit.lora.file import Lora, load_lora, save_lora
from toolkit.lora.settings import Adapter
from toolkit.models import registry as models


def random_lora(denoiser: models.Denoiser, rank: int = 4) -> Lora:
    """A LoRA on every target layer of the network, large enough to be seen in its output."""
    adapters.add(denoiser.module, "made", Adapter(rank=rank, alpha=2 * rank), seed=0)
    lora = adapters.extract(denoiser.module, "made")
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: (a, 0.2 * torch.randn(b.shape, generator=generator)) for name, (a, b) in lora.tensors.items()
    }
    return Lora(tensors, {"castmix.cast": '["Pixo"]'})


@pytest.fixture
def lora(tiny_wan: Path) -> Lora:
    return random_lora(models.load_denoiser(str(tiny_wan)))


def equal(one: Lora, other: Lora) -> bool:
    return set(one.tensors) == set(other.tensors) and all(
        torch.equal(x, y)
        for name in one.tensors
        for x, y in zip(one.tensors[name], other.tensors[name], strict=True)
    )


@pytest.mark.parametrize("format", ["comfyui", "diffusers"])
def test_a_saved_lora_is_loaded_unchanged(lora: Lora, tmp_path: Path, format: str) -> None:
    save_lora(lora, tmp_path / "a.safetensors", format)
    again = load_lora(tmp_path / "a.safetensors")
    assert equal(lora, again)
    assert again.metadata["castmix.cast"] == '["Pixo"]'


@pytest.mark.parametrize("format", ["comfyui", "diffusers"])
def test_diffusers_loads_the_file_with_the_same_output(
    tiny_wan: Path, lora: Lora, tmp_path: Path, format: str
) -> None:
    from diffusers import WanPipeline

    path = tmp_path / "a.safetensors"
    save_lora(lora, path, format)
    pipe: Any = WanPipeline.from_pretrained(tiny_wan)
    pipe.load_lora_weights(path)
    denoiser = models.load_denoiser(str(tiny_wan))
    adapters.attach(denoiser.module, load_lora(path), "a")
    latents, embeds, sigma = torch.randn(2, 16, 3, 4, 6), torch.randn(2, 512, 24), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        theirs = pipe.transformer(latents, sigma * 1000, embeds).sample
        base = denoiser(latents, sigma, embeds)
        with adapters.activate(denoiser.module, {"a": 1}):
            ours = denoiser(latents, sigma, embeds)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert (ours - base).abs().max() > 0.01


def test_comfyui_keys_and_deterministic_bytes(lora: Lora, tmp_path: Path) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    many = {f"castmix.{i}": str(i) for i in range(20)}
    backwards = Lora(dict(reversed(lora.tensors.items())), dict(reversed(many.items())))
    save_lora(Lora(lora.tensors, many), paths[0])
    save_lora(backwards, paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    keys = set(load_file(paths[0]))
    for layer in ("self_attn.q", "self_attn.o", "cross_attn.k", "cross_attn.v", "ffn.0", "ffn.2"):
        assert f"diffusion_model.blocks.1.{layer}.lora_A.weight" in keys
        assert f"diffusion_model.blocks.1.{layer}.lora_B.weight" in keys
    assert len(keys) == 2 * 2 * 10


def test_kohya_files_with_alpha_are_the_same_change(lora: Lora, tmp_path: Path) -> None:
    save_lora(lora, tmp_path / "comfy.safetensors")
    kohya = {}
    for key, tensor in load_file(tmp_path / "comfy.safetensors").items():
        layer, half, _ = key.removeprefix("diffusion_model.").rsplit(".", 2)
        flat = "lora_unet_" + layer.replace(".", "_")
        kohya[f"{flat}.{'lora_down' if half == 'lora_A' else 'lora_up'}.weight"] = tensor
        kohya[f"{flat}.alpha"] = torch.tensor(1.0)
    save_file(kohya, tmp_path / "kohya.safetensors")
    again = load_lora(tmp_path / "kohya.safetensors")
    assert set(again.tensors) == set(lora.tensors)
    for name, (a, b) in lora.tensors.items():
        down, up = again.tensors[name]
        assert torch.allclose(up @ down, b @ a / 4, atol=1e-6)  # alpha 1 of rank 4


def test_the_alpha_in_a_diffusers_header_is_applied(lora: Lora, tmp_path: Path) -> None:
    state = {}
    for name, (a, b) in lora.tensors.items():
        state[f"transformer.{name}.lora_A.weight"], state[f"transformer.{name}.lora_B.weight"] = a, b
    header = {
        "transformer.r": 4,
        "transformer.lora_alpha": 2,
        "transformer.target_modules": sorted(lora.tensors),
    }
    save_file(state, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(header)})
    again = load_lora(tmp_path / "a.safetensors")
    name = "blocks.0.attn1.to_q"
    assert torch.equal(again.tensors[name][1], lora.tensors[name][1] / 2)


def test_bfloat16_halves_the_file_size(lora: Lora, tmp_path: Path) -> None:
    save_lora(lora, tmp_path / "a.safetensors", dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in load_file(tmp_path / "a.safetensors").values()} == {torch.bfloat16}
    assert load_lora(tmp_path / "a.safetensors").tensors["blocks.0.attn1.to_q"][0].dtype == torch.float32


def test_files_that_are_no_wan_lora_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(CastmixError, match="does not exist"):
        load_lora(path)
    path.write_bytes(b"pickle")
    with pytest.raises(CastmixError, match="is not a safetensors file"):
        load_lora(path)
    save_file({"lora_te_text_model.lora_down.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CastmixError, match=r"keys such as lora_te_text_model.lora_down.weight \(known"):
        load_lora(path)
    save_file({}, path)
    with pytest.raises(CastmixError, match="no keys"):
        load_lora(path)
    save_file({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CastmixError, match=r"layer blocks.0.attn1.to_q has no lora_B"):
        load_lora(path)


def test_a_network_of_real_width_is_trained_saved_and_loaded(tmp_path: Path) -> None:
    """The 1.3B's width with two of its thirty blocks: one training step, saved and loaded."""
    from diffusers import WanTransformer3DModel

    from toolkit.models.wan import WanDenoiser

    with torch.device("meta"):
        module = WanTransformer3DModel(
            num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, text_dim=4096, num_layers=2
        )
    module = module.to_empty(device="cpu")
    for parameter in module.parameters():
        parameter.data.uniform_(-0.02, 0.02)
    module.rope = type(module.rope)(128, (1, 2, 2), 1024)  # its tables are no parameters
    denoiser = WanDenoiser(module.requires_grad_(False))
    adapters.add(module, "a", Adapter(), seed=0)
    parameters = adapters.trainable(module, "a")
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    latents, embeds, sigma = torch.randn(1, 16, 1, 4, 4), torch.randn(1, 16, 4096), torch.tensor(0.5)
    before = denoiser(latents, sigma, embeds)
    before.square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        after = denoiser(latents, sigma, embeds)
    assert torch.isfinite(after).all()
    assert not torch.equal(after, before)
    save_lora(adapters.extract(module, "a"), tmp_path / "a.safetensors")
    again = load_lora(tmp_path / "a.safetensors")
    assert again.tensors["blocks.1.ffn.net.0.proj"][1].shape == (8960, 32)
    adapters.attach(module, again, "again")
    with torch.no_grad(), adapters.activate(module, {"again": 1.0}):
        assert torch.equal(denoiser(latents, sigma, embeds), after)


def test_the_14b_model_has_400_adapted_layers() -> None:
    """On the meta device: names and shapes of all 400 layers, without 57 GB."""
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        module = WanTransformer3DModel(text_dim=4096)  # the class's defaults are the 14B's
    adapters.add(module, "a", Adapter(), seed=0)
    parameters = adapters.trainable(module, "a")
    assert len(parameters) == 2 * 40 * 10
    assert parameters["blocks.39.attn2.to_k.A"].shape == (32, 5120)
    assert parameters["blocks.0.ffn.net.0.proj.B"].shape == (13824, 32)
