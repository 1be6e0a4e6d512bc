"""Captions with special tokens get embeddings with the tokens' vectors."""

from __future__ import annotations

from pathlib import Path

import torch

from toolkit.lora.file import Lora
from toolkit.lora.special_tokens import Token, encode_prompts, tokens_metadata
from toolkit.models import registry as models
from toolkit.training.batches import load
from toolkit.training.cached_clips import CachedClip, Sample, save_sample
from toolkit.training.prompts import captions_with_tokens, embed_special


def token_lora(size: int) -> Lora:
    vector = 3 * torch.randn(size, generator=torch.Generator().manual_seed(0))
    return Lora({}, tokens_metadata({"<mimi>": Token("a cat", "output", vector)}), {"<mimi>": vector})


def test_only_captions_with_tokens_are_embedded(tiny_wan: Path, tmp_path: Path) -> None:
    spec, encoders = models.find_model(str(tiny_wan)), models.load_encoders(str(tiny_wan))
    lora = token_lora(encoders.encode_text(["a"]).shape[-1])
    captions = ["<mimi> jumps", "a dog", "<mimi> jumps", "<otto> jumps"]
    assert captions_with_tokens(captions, [lora, Lora({})]) == ["<mimi> jumps"]
    found = embed_special(captions, [lora, Lora({})], spec)
    assert list(found) == ["<mimi> jumps"]
    torch.testing.assert_close(found["<mimi> jumps"], encode_prompts(encoders, ["<mimi> jumps"], [lora])[0])
    assert not torch.allclose(found["<mimi> jumps"], encoders.encode_text(["<mimi> jumps"])[0], atol=0.1)
    assert embed_special(["a dog"], [lora], spec) == {}

    path = save_sample(tmp_path, Sample("a", torch.zeros(1, 1, 1, 1), torch.zeros(4, 24), "", {}))
    item = CachedClip(path, "<mimi> jumps", "a", (1, 1, 1, 1), "")
    assert torch.equal(load(item, found)[1], found["<mimi> jumps"])  # instead of the cached one
    assert torch.equal(load(item, {})[1], torch.zeros(4, 24))
