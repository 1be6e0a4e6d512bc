"""Special tokens: where they stand in a prompt, what they add, how they travel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from toolkit.core.errors import CastmixError
from toolkit.lora import special_tokens as tokens
from toolkit.lora.file import Lora, load_lora, save_lora
from toolkit.lora.special_tokens import Kind, Token
from toolkit.models import registry as models
from toolkit.models.interfaces import Encoders

WIDTH = 24


@pytest.fixture(scope="module")
def encoders(tiny_wan: Path) -> Encoders:
    return models.load_encoders(models.ModelSpec(name="tiny", path=str(tiny_wan), text_length=32))


def lora_of(**kinds: Kind) -> Lora:
    """Tokens <a>, <b>, …, all of them dogs, with vectors of their own."""
    made = {
        f"<{name}>": Token("dog", kind, torch.randn(WIDTH, generator=torch.Generator().manual_seed(i)))
        for i, (name, kind) in enumerate(kinds.items())
    }
    return Lora({}, tokens.tokens_metadata(made), {token: one.vector for token, one in made.items()})


def test_the_vector_is_added_at_the_token_only(encoders: Encoders) -> None:
    lora = lora_of(a="output", b="output")
    noun = encoders.encode_text(["a dog jumps over the dog , dog"])
    (found,) = tokens.encode_prompts(encoders, ["a  <b> jumps over the dog , <a>"], [lora])
    (first, last) = encoders.token_positions("a dog jumps over the dog , dog", [(2, 5), (27, 30)])
    assert len(first) == len(last) == 1
    added = found - noun[0]
    assert torch.allclose(added[first[0]], lora.tokens["<b>"], atol=1e-6)
    assert torch.allclose(added[last[0]], lora.tokens["<a>"], atol=1e-6)
    others = [k for k in range(32) if k not in (*first, *last)]
    assert not added[others].any()


def test_a_noun_of_several_tokens_has_the_vector_at_each(encoders: Encoders) -> None:
    vector = torch.randn(WIDTH)
    made = {"<x>": Token("red cat", "output", vector)}
    added = tokens.encode_with_tokens(encoders, ["the <x> walks"], made) - encoders.encode_text(
        ["the red cat walks"]
    )
    assert (added[0].abs().sum(1) > 0).sum() == 2
    assert torch.allclose(added[0].sum(0), 2 * vector, atol=1e-5)


@pytest.mark.parametrize("kind", ["output", "input"])
def test_a_zero_vector_equals_the_noun(encoders: Encoders, kind: Kind) -> None:
    zero = {"<x>": Token("cat", kind, torch.zeros(WIDTH))}
    assert torch.equal(
        tokens.encode_with_tokens(encoders, ["a <x> walks"], zero), encoders.encode_text(["a cat walks"])
    )
    told = tokens.encode_with_tokens(
        encoders, ["a&nbsp;&nbsp;red   &lt;x&gt; walks"], zero
    )  # as WanPipeline reads it
    assert torch.equal(told, encoders.encode_text(["a red cat walks"]))
    prompts = ["a <y> walks", "the moon"]  # no token of these LoRAs
    assert torch.equal(
        tokens.encode_prompts(encoders, prompts, [lora_of(x=kind)]), encoders.encode_text(prompts)
    )


def test_an_input_vector_acts_like_a_new_embedding_row(encoders: Encoders) -> None:
    """Adding the difference of two words' rows to one of them is the other word, in every context."""
    prompt, other = "a cat jumps over the moon", "a dog jumps over the moon"
    table = encoders.text_encoder.get_input_embeddings()  # type: ignore[attr-defined]
    ids = [encoders.tokenizer(text).input_ids for text in (prompt, other)]  # type: ignore[attr-defined]
    (one, two) = next(pair for pair in zip(*ids, strict=True) if pair[0] != pair[1])
    cat, dog = table.weight[one], table.weight[two]
    made = {"<x>": Token("cat", "input", dog - cat)}
    found = tokens.encode_with_tokens(encoders, ["a <x> jumps over the moon"], made)
    assert torch.allclose(found, encoders.encode_text([other]), atol=1e-5)


@pytest.mark.parametrize("kind", ["output", "input"])
def test_gradients_reach_the_vector(encoders: Encoders, kind: Kind) -> None:
    vector = torch.randn(WIDTH, requires_grad=True)
    weights = torch.randn(1, 32, WIDTH)

    def value(v: torch.Tensor) -> torch.Tensor:
        return (
            tokens.encode_with_tokens(encoders, ["a <x> walks"], {"<x>": Token("cat", kind, v)}) * weights
        ).sum()

    (gradient,) = torch.autograd.grad(value(vector), vector)
    direction, step = torch.randn(WIDTH), 1e-2
    with torch.no_grad():
        slope = (value(vector + step * direction) - value(vector - step * direction)) / (2 * step)
    assert float(gradient @ direction) == pytest.approx(float(slope), rel=2e-2, abs=1e-3)


def test_tokens_are_saved_in_the_lora_file(tmp_path: Path) -> None:
    lora = lora_of(a="output", b="input")
    layers = {"blocks.0.attn1.to_q": (torch.randn(2, 8), torch.randn(8, 2))}
    path = tmp_path / "lora.safetensors"
    save_lora(Lora(layers, {**lora.metadata, "castmix.cast": "[]"}, lora.tokens), path)
    assert all("lora" in key for key in load_file(path))  # other loaders refuse any other key
    again = load_lora(path)
    assert again.metadata["castmix.tokens"] == lora.metadata["castmix.tokens"]
    assert set(again.tokens) == {"<a>", "<b>"}
    assert all(torch.equal(again.tokens[token], vector) for token, vector in lora.tokens.items())
    save_lora(again, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    save_lora(lora, path)  # tokens alone
    assert load_lora(path).tensors == {}
    assert load_lora(path).rank == 0


def test_wrong_arguments_are_errors(encoders: Encoders, tmp_path: Path) -> None:
    other = lora_of(b="output", a="output")
    with pytest.raises(CastmixError, match="two LoRAs have different tokens <"):
        tokens.read_tokens([lora_of(a="output"), other])
    assert set(tokens.read_tokens([other, other])) == {"<a>", "<b>"}
    wide = {"<x>": Token("cat", "output", torch.zeros(7))}
    with pytest.raises(CastmixError, match=r"vector of \(7,\), this model's embeddings have 24"):
        tokens.encode_with_tokens(encoders, ["a <x>"], wide)
    with pytest.raises(CastmixError, match=r"vector has the shape \(7,\)"):
        tokens.encode_with_tokens(encoders, ["a <x>"], {"<x>": Token("cat", "input", torch.zeros(7))})
    with pytest.raises(CastmixError, match="<x> is beyond the last token"):
        tokens.encode_with_tokens(
            encoders, ["moon " * 40 + "<x>"], {"<x>": Token("cat", "output", torch.zeros(24))}
        )
    nameless = Lora({}, {}, {"<x>": torch.zeros(3)})
    with pytest.raises(CastmixError, match="expected a noun"):
        tokens.read_tokens([nameless])
    with pytest.raises(CastmixError, match=r"tokens \['<x>'\], but castmix.tokens describes \[\]"):
        save_lora(nameless, tmp_path / "a.safetensors")
