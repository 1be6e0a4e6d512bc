"""Taps into the network's attention: they see what it works with, and change nothing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.lora.layers import activate, add
from toolkit.lora.settings import Adapter
from toolkit.models import registry as models

LAYERS = (0, 1)


@pytest.fixture
def denoiser(tiny_wan: Path) -> Any:
    return models.load_denoiser(str(tiny_wan))


def inputs(rows: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(rows, 16, 3, 4, 6), torch.tensor(0.7), torch.randn(rows, 8, 24)


def with_lora(denoiser: Any) -> None:
    add(denoiser.module, "one", Adapter(rank=2), seed=0)
    for name, parameter in denoiser.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)


def seen_by_attention(denoiser: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Queries and keys (B, heads, N, d) as attention itself is called, block by block, attn1 then attn2."""
    from diffusers.models.transformers import transformer_wan

    calls: list[tuple[Tensor, Tensor]] = []
    original = transformer_wan.dispatch_attention_fn

    def watching(query: Tensor, key: Tensor, value: Tensor, **rest: Any) -> Tensor:
        calls.append((query.transpose(1, 2), key.transpose(1, 2)))
        return original(query, key, value, **rest)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(transformer_wan, "dispatch_attention_fn", watching)
        denoiser(*inputs())
    return calls


@pytest.mark.parametrize("lora", [False, True])
def test_captured_queries_and_keys_are_those_of_attention(
    denoiser: Any, monkeypatch: Any, lora: bool
) -> None:
    with_lora(denoiser)
    with activate(denoiser.module, {"one": 1.0} if lora else {}), torch.no_grad():
        truth = seen_by_attention(denoiser, monkeypatch)
        plain = denoiser(*inputs())
        with denoiser.capture_attention(cross=LAYERS, temporal=LAYERS) as captured:
            assert torch.equal(denoiser(*inputs()), plain)
        assert torch.equal(denoiser(*inputs()), plain)
    for layer in LAYERS:
        for ours, theirs in zip(
            (*captured.temporal[layer], *captured.cross[layer]),
            (*truth[2 * layer], *truth[2 * layer + 1]),
            strict=True,
        ):
            assert torch.equal(ours, theirs)
    assert captured.cross[0][0].shape == captured.temporal[0][1].shape == (2, 2, 18, 16)
    assert captured.cross[0][1].shape == (2, 2, 8, 16)
    assert not captured.maps


def gradients(denoiser: Any, *, checkpointing: bool, reduce: bool, open_in_backward: bool = False) -> Any:
    module = denoiser.module
    (module.enable_gradient_checkpointing if checkpointing else module.disable_gradient_checkpointing)()
    latents, sigma, embeds = inputs()
    latents.requires_grad_()

    def small(kind: str, layer: int, q: Tensor, k: Tensor) -> Tensor:
        return (q[:, :, :3] @ k.mT).softmax(-1).square().mean()

    capture = denoiser.capture_attention(
        cross=LAYERS, temporal=(1,), stop_after=1, reduce=small if reduce else None
    )
    captured = capture.__enter__()
    assert denoiser(latents, sigma, embeds).isnan().all()
    if not open_in_backward:
        capture.__exit__(None, None, None)
    if reduce:
        loss = torch.stack([*captured.maps.values()]).sum()
    else:
        pairs = [
            ("cross", 0, *captured.cross[0]),
            ("cross", 1, *captured.cross[1]),
            ("temporal", 1, *captured.temporal[1]),
        ]
        loss = torch.stack([small(*pair) for pair in pairs]).sum()
    kept = [*captured.maps.values(), *(x for pair in captured.cross.values() for x in pair)]
    (gradient,) = torch.autograd.grad(loss, latents)
    after = [*captured.maps.values(), *(x for pair in captured.cross.values() for x in pair)]
    assert all(one is other for one, other in zip(kept, after, strict=True)), "the backward pass wrote"
    if open_in_backward:
        capture.__exit__(None, None, None)
    return gradient


def test_gradients_are_the_same_under_checkpointing_and_after_the_tap(denoiser: Any) -> None:
    plain = gradients(denoiser, checkpointing=False, reduce=False)
    assert plain.abs().max() > 1e-7
    for checkpointing, reduce, late in itertools.product([False, True], repeat=3):
        other = gradients(denoiser, checkpointing=checkpointing, reduce=reduce, open_in_backward=late)
        assert torch.allclose(other, plain, rtol=1e-5, atol=1e-9), (checkpointing, reduce, late)


def test_a_compiled_network_gives_the_same_capture(denoiser: Any) -> None:
    with torch.no_grad():
        with denoiser.capture_attention(cross=(1,), temporal=(0,)) as captured:
            plain = denoiser(*inputs())
        denoiser.module.compile_repeated_blocks(backend="eager")
        compiled = denoiser(*inputs())
        with denoiser.capture_attention(cross=(1,), temporal=(0,)) as again:
            output = denoiser(*inputs())
    assert torch.allclose(output, plain, atol=1e-6)
    assert torch.allclose(compiled, plain, atol=1e-6)
    assert torch.allclose(again.cross[1][0], captured.cross[1][0], atol=1e-6)
    assert torch.allclose(again.temporal[0][1], captured.temporal[0][1], atol=1e-6)
    plain_gradient = gradients(denoiser, checkpointing=False, reduce=True)
    assert torch.allclose(gradients(denoiser, checkpointing=True, reduce=True), plain_gradient, atol=1e-9)
    torch.compiler.reset()


def test_stopping_early_runs_no_more_blocks(denoiser: Any) -> None:
    ran = []
    hooks = [
        block.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, block in enumerate(denoiser.module.blocks)
    ]
    with torch.no_grad(), denoiser.capture_attention(cross=(0,), stop_after=0) as captured:
        stopped = denoiser(*inputs())
    assert ran == [0]
    assert list(captured.cross) == [0]
    assert stopped.isnan().all()
    assert stopped.shape == inputs()[0].shape
    with torch.no_grad():
        assert denoiser(*inputs()).isfinite().all()
    assert ran == [0, 0, 1]
    for hook in hooks:
        hook.remove()


def test_a_failed_forward_pass_restores_the_network(denoiser: Any) -> None:
    blocks = denoiser.module.blocks

    def bad(kind: str, layer: int, q: Tensor, k: Tensor) -> Tensor:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"), denoiser.capture_attention(cross=(0,), reduce=bad):
        denoiser(*inputs())
    assert denoiser.module.blocks is blocks
    assert not blocks[0].attn2.norm_q._forward_hooks
    with denoiser.capture_attention(cross=(0,)):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cross": (2,)}, "no block 2: this model has blocks 0 to 1"),
        ({"temporal": (-1,)}, "no block -1"),
        ({"cross": (1,), "stop_after": 0}, "block 1 is captured, but the forward pass stops after block 0"),
        ({"stop_after": 7}, "no block 7"),
    ],
)
def test_impossible_captures_are_refused(denoiser: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CastmixError, match=message), denoiser.capture_attention(**arguments):
        pass


def test_fused_projections_and_taps_in_taps_are_refused(denoiser: Any) -> None:
    with (
        pytest.raises(CastmixError, match="already captured"),
        denoiser.capture_attention(cross=(0,)),
        denoiser.capture_attention(cross=(1,)),
    ):
        pass
    denoiser.module.fuse_qkv_projections()
    with (
        pytest.raises(CastmixError, match="block 0 has fused projections"),
        denoiser.capture_attention(cross=(0,)),
    ):
        pass


def test_spans_are_the_tokens_of_whole_words(tiny_wan: Path) -> None:
    encoders = models.load_encoders(str(tiny_wan))
    prompt = "[Character: Pixo], jumps over  Mimi &amp; the cat. Pixo's dog"
    tokenizer: Any = encoders.tokenizer  # type: ignore[attr-defined]
    pieces = tokenizer.convert_ids_to_tokens(
        tokenizer(prompt.replace("  ", " ").replace("&amp;", "&")).input_ids
    )
    pixo, mimi, cat, dog, over = encoders.token_spans(
        prompt, ["Pixo", "Mimi", "the  cat", "dog", "jumps over"]
    )
    assert [pieces[i] for i in pixo] == ["▁Pixo", "▁Pixo"]
    assert "".join(pieces[i] for i in mimi).strip("▁") == "Mimi"
    assert len(mimi) >= 4
    assert [pieces[i] for i in cat] == ["▁the", "▁cat"]
    assert [pieces[i] for i in over] == ["▁jumps", "▁over"]
    assert dog == (len(pieces) - 2,)
    for absent in ("Bruk", "ca", "pixo", ""):
        with pytest.raises(CastmixError, match="is not in the prompt"):
            encoders.token_spans(prompt, [absent])


def test_spans_of_a_prompt_that_is_cut_off(tiny_wan: Path) -> None:
    encoders = models.load_encoders(models.ModelSpec("tiny", str(tiny_wan), text_length=8))
    prompt = "cat " * 12 + "dog"
    assert encoders.count_tokens(prompt) == 14
    assert encoders.prompt_length(prompt) == 8
    assert encoders.prompt_length("a cat") == 3
    assert encoders.token_spans(prompt, ["cat"]) == [tuple(range(7))]  # the last position is the end mark's
    with pytest.raises(CastmixError, match="is cut off: the model takes 8 tokens"):
        encoders.token_spans(prompt, ["dog"])
