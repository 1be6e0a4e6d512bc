from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.lora import layers as adapters
from toolkit.lora.file import Lora
from toolkit.lora.settings import Adapter
from toolkit.models import registry as models


@pytest.fixture
def denoiser(tiny_wan: Path) -> models.Denoiser:
    return models.load_denoiser(str(tiny_wan))


def run(denoiser: models.Denoiser) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 16, 3, 4, 6, generator=generator)
    embeds = torch.randn(2, 32, 24, generator=generator)
    with torch.no_grad():
        return denoiser(latents, torch.tensor([0.2, 0.7]), embeds)


def some_lora(denoiser: models.Denoiser, seed: int, rank: int = 3) -> Lora:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in ("blocks.0.attn1.to_q", "blocks.1.attn2.to_out.0", "blocks.1.ffn.net.2"):
        layer = denoiser.module.get_submodule(name)
        a = torch.randn(rank, layer.in_features, generator=generator)
        tensors[name] = (0.3 * a, torch.randn(layer.out_features, rank, generator=generator))
        rank += 1  # every layer another rank
    return Lora(tensors)


def state_of(module: torch.nn.Module) -> list[object]:
    from peft.tuners.lora import LoraLayer

    layers = [part for part in module.modules() if isinstance(part, LoraLayer)]
    return [
        [(layer.active_adapters, dict(layer.scaling), layer.disable_adapters) for layer in layers],
        [parameter.requires_grad for parameter in module.parameters()],
        [part.training for part in module.modules()],
    ]


def test_a_fresh_adapter_changes_neither_output_nor_random_state(denoiser: models.Denoiser) -> None:
    before, random = run(denoiser), torch.random.get_rng_state()
    adapters.add(denoiser.module, "a", Adapter(rank=4), seed=1)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not any(parameter.requires_grad for parameter in denoiser.module.parameters())
    with adapters.activate(denoiser.module, {"a": 1}):
        assert torch.equal(run(denoiser), before)


def test_the_seed_determines_the_adapter(denoiser: models.Denoiser, tiny_wan: Path) -> None:
    other = models.load_denoiser(str(tiny_wan))
    adapters.add(denoiser.module, "a", Adapter(rank=4), seed=1)
    adapters.add(other.module, "first", Adapter(rank=2), seed=7)
    adapters.add(other.module, "b", Adapter(rank=4), seed=1)
    one, two = adapters.extract(denoiser.module, "a"), adapters.extract(other.module, "b")
    assert all(torch.equal(one.tensors[name][0], two.tensors[name][0]) for name in one.tensors)
    a = one.tensors["blocks.0.attn1.to_q"][0]
    assert a.abs().max() < a.shape[1] ** -0.5
    assert not torch.equal(a, one.tensors["blocks.1.attn1.to_q"][0])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_the_adapter_gets_gradients(denoiser: models.Denoiser, checkpointing: bool) -> None:
    if checkpointing:
        denoiser.module.enable_gradient_checkpointing()  # type: ignore[operator]
    adapters.add(denoiser.module, "other", Adapter(rank=2), seed=0)
    adapters.add(denoiser.module, "a", Adapter(rank=2), seed=0)
    parameters = adapters.trainable(denoiser.module, "a")
    denoiser(torch.randn(1, 16, 1, 4, 4), torch.tensor(0.5), torch.randn(1, 8, 24)).square().mean().backward()
    assert len(parameters) == 2 * 20
    wanted = {id(parameter) for parameter in parameters.values()}
    for parameter in denoiser.module.parameters():
        assert parameter.requires_grad == (id(parameter) in wanted)
        assert (parameter.grad is not None) == (id(parameter) in wanted)
    assert all(parameter.grad.any() for name, parameter in parameters.items() if name.endswith("B"))  # type: ignore[union-attr]


def test_several_adapters_add_their_changes(denoiser: models.Denoiser) -> None:
    one, two = some_lora(denoiser, 1), some_lora(denoiser, 2, rank=5)
    adapters.attach(denoiser.module, one, "one")
    adapters.attach(denoiser.module, two, "two")
    both = {
        name: (torch.cat([a, two.tensors[name][0]]), torch.cat([0.5 * b, -1.5 * two.tensors[name][1]], dim=1))
        for name, (a, b) in one.tensors.items()
    }
    adapters.attach(denoiser.module, Lora(both), "both")
    with adapters.activate(denoiser.module, {"one": 0.5, "two": -1.5}):
        summed = run(denoiser)
    with adapters.activate(denoiser.module, {"both": 1}):
        assert torch.allclose(run(denoiser), summed, atol=1e-5)
    assert not torch.allclose(run(denoiser), summed, atol=1e-2)


def test_activate_restores_the_network_even_after_an_error(denoiser: models.Denoiser) -> None:
    base = run(denoiser)
    adapters.attach(denoiser.module, some_lora(denoiser, 1), "one")
    assert torch.equal(run(denoiser), base)  # attached, not active
    adapters.add(denoiser.module, "trained", Adapter(rank=2, alpha=7), seed=0)
    adapters.trainable(denoiser.module, "trained")
    before = state_of(denoiser.module)
    with contextlib.suppress(KeyboardInterrupt), adapters.activate(denoiser.module, {"one": 0.3}):
        assert not torch.equal(run(denoiser), base)
        with adapters.activate(denoiser.module, {}):
            assert torch.equal(run(denoiser), base)
        raise KeyboardInterrupt
    assert state_of(denoiser.module) == before
    with adapters.activate(denoiser.module, {"one": 0, "trained": 0}):
        assert torch.equal(run(denoiser), base)


def test_extract_is_the_inverse_of_attach(denoiser: models.Denoiser) -> None:
    lora = some_lora(denoiser, 1)
    adapters.attach(denoiser.module, lora, "one")
    again = adapters.extract(denoiser.module, "one", {"castmix.base": "tiny"})
    assert again.metadata == {"castmix.base": "tiny"}
    for name, (a, b) in lora.tensors.items():
        assert torch.equal(again.tensors[name][0], a)
        assert torch.equal(again.tensors[name][1], b)


def test_alpha_is_folded_into_b(denoiser: models.Denoiser) -> None:
    adapters.add(denoiser.module, "a", Adapter(rank=2, alpha=6), seed=0)
    with torch.no_grad():
        for name, parameter in adapters.trainable(denoiser.module, "a").items():
            if name.endswith("B"):
                parameter.fill_(0.1)
    with adapters.activate(denoiser.module, {"a": 1}):
        out = run(denoiser)
    lora = adapters.extract(denoiser.module, "a")
    assert lora.tensors["blocks.0.attn1.to_q"][1].unique() == pytest.approx(0.3)
    adapters.attach(denoiser.module, lora, "again")
    with adapters.activate(denoiser.module, {"again": 1}):
        assert torch.allclose(run(denoiser), out, atol=1e-6)


def test_a_lora_of_another_base_names_both_bases(
    denoiser: models.Denoiser, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = some_lora(denoiser, 1)
    known = {"castmix.base": "wan2.1-t2v-14b", "castmix.base_fingerprint": "aaaa"}
    wide = {"blocks.0.attn1.to_q": (torch.zeros(2, 5120), torch.zeros(5120, 2))}
    with pytest.raises(CastmixError, match=r"5120→5120, which here is 32→32.*14b \(fingerprint aaaa\).*bbbb"):
        adapters.attach(denoiser.module, Lora(wide, known), "x", "bbbb")
    deep = {"blocks.9.attn1.to_q": lora.tensors["blocks.0.attn1.to_q"]}
    with pytest.raises(CastmixError, match=r"blocks.9.attn1.to_q is 32→32, which here does not exist"):
        adapters.attach(denoiser.module, Lora(deep), "x")
    adapters.attach(denoiser.module, replace(lora, metadata=known), "x", "bbbb")
    assert "warning: the LoRA 'x' was trained on wan2.1-t2v-14b" in capsys.readouterr().err
    with pytest.raises(CastmixError, match="an adapter 'x' in this model already"):
        adapters.attach(denoiser.module, lora, "x")
    with (
        pytest.raises(CastmixError, match="no adapter y in this model; it has x"),
        adapters.activate(denoiser.module, {"y": 1}),
    ):
        pass
    with pytest.raises(CastmixError, match="unknown to_q; choose among attn1, attn2, ffn"):
        adapters.add(denoiser.module, "z", Adapter(targets=("to_q",)), seed=0)


def test_target_presets_name_layers(denoiser: models.Denoiser) -> None:
    def layers(name: str, *targets: str) -> set[str]:
        adapters.add(denoiser.module, name, Adapter(rank=1, targets=targets), seed=0)
        found = adapters.extract(denoiser.module, name).tensors
        return {key.partition(".")[2].partition(".")[2] for key in found}

    feed = {"ffn.net.0.proj", "ffn.net.2"}
    assert layers("qk", "motion-qk") == {"attn1.to_q", "attn1.to_k"}
    assert layers("vo", "motion-vo") == {"attn1.to_v", "attn1.to_out.0"} | feed
    assert layers("s", "subject") == {f"attn2.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")} | feed


def test_only_the_chosen_heads_are_changed(denoiser: models.Denoiser) -> None:
    """Also after steps of an optimiser that decays weights: what the file holds is M B A and B A M."""
    adapters.add(denoiser.module, "a", Adapter(rank=2), seed=0)
    parameters = adapters.trainable(denoiser.module, "a")
    adapters.restrict_to_heads(parameters, {0: (1,)}, 16)  # two heads of 16; none in block 1
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        velocity = denoiser(torch.randn(1, 16, 2, 4, 4), torch.tensor(0.5), torch.randn(1, 8, 24))
        velocity.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    tensors = adapters.extract(denoiser.module, "a").tensors
    for part in ("to_q", "to_k", "to_v", "to_out.0"):
        for block in (0, 1):
            a, b = tensors[f"blocks.{block}.attn1.{part}"]
            change = b @ a if part != "to_out.0" else (b @ a).T
            assert not change[:16].any()
            assert bool(change[16:].any()) == (block == 0)
    assert tensors["blocks.1.attn2.to_q"][1].any()
    assert tensors["blocks.1.ffn.net.2"][1].any()
