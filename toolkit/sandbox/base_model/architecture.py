"""Builds the parts of the sandbox's base model, a tiny Wan, and saves them as a `WanPipeline` folder.

Clips are 64x96 pixels (H x W) with 17 frames. Latents are (48, 5, 8, 12), the transformer has 120 tokens.
With fewer than 48 channels, the VAE would lose detail.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from torch import Tensor
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

CHANNELS, DIM, TEXT_DIM, TEXT_LENGTH = 48, 192, 128, 64
SHIFT = 2.0
TRAINING_FILE = "training.json"

# Further vocabulary entries. A word is the same token in prose and within a tag. All other text is spelled.
_GRAMMAR_PIECES = (
    "▁a",
    "▁and",
    "▁in",
    "▁on",
    "▁the",
    "▁with",
    "▁[Character:",
    "▁[scene-style:",
    "],",
    "].",
    "▁style",
)


def new_tokenizer(words: Iterable[str]) -> T5Tokenizer:
    """Create a tokenizer with one token per word of `words`; other text becomes single characters.

    New names are therefore never unknown tokens.
    """
    pieces = dict.fromkeys([*sorted({w.lower() for text in words for w in text.split()}), *_GRAMMAR_PIECES])
    letters = [chr(c) for c in range(33, 127)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab += [(piece, -1.0) for piece in pieces if len(piece) > 1]
    vocab += [(letter, -8.0) for letter in letters]
    return T5Tokenizer(vocab=vocab, extra_ids=0)


def new_text_encoder(vocab_size: int) -> UMT5EncoderModel:
    """Create a small UMT5 text encoder."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocab_size,
            d_model=TEXT_DIM,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            decoder_start_token_id=0,
        )
    )


def new_transformer() -> WanTransformer3DModel:
    """Create a small Wan transformer."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=DIM // 64,
        attention_head_dim=64,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=128,
        ffn_dim=576,
        num_layers=8,
        cross_attn_norm=True,
        rope_max_seq_len=64,
    )


def new_vae() -> AutoencoderKLWan:
    """Create a small Wan VAE. Its latents are normalised by construction: the config has mean 0 and std 1."""
    return AutoencoderKLWan(
        base_dim=12,
        decoder_base_dim=12,
        z_dim=CHANNELS,
        dim_mult=[2, 3, 6],  # wide enough at the bottleneck for 48 signed values after a SiLU
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
    )


def save_base(
    folder: Path,
    *,
    tokenizer: T5Tokenizer,
    text_encoder: UMT5EncoderModel,
    transformer: WanTransformer3DModel,
    vae: AutoencoderKLWan,
    settings: Mapping[str, object],
    training: Mapping[str, object] | None = None,
) -> None:
    """Save a `WanPipeline` folder in float16. It is written beside an existing folder and then replaces it.

    Args:
        folder: The folder.
        tokenizer: Its tokenizer.
        text_encoder: Its text encoder.
        transformer: Its DiT.
        vae: Its VAE.
        settings: Saved as castmix.json.
        training: Saved as training.json.
    """
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
    )
    pipeline.to(torch.float16)
    pipeline.save_pretrained(fresh)
    (fresh / "castmix.json").write_text(json.dumps(dict(settings), indent=2) + "\n")
    if training:
        (fresh / TRAINING_FILE).write_text(json.dumps(dict(training), indent=2) + "\n")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def vae_encode(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """Encode videos (B, 3, F, H, W) to latent means (B, C, f, h, w).

    The result equals `vae.encode`. It is faster, with two chunks instead of one per latent frame.
    """
    x = patchify(video, vae.config.patch_size)
    cache: list[object] = [None] * vae._cached_conv_counts["encoder"]
    first = vae.encoder(x[:, :, :1], feat_cache=cache, feat_idx=[0])
    rest = vae.encoder(x[:, :, 1:], feat_cache=cache, feat_idx=[0])
    mean: Tensor = vae.quant_conv(torch.cat([first, rest], 2))[:, :CHANNELS]
    return mean


def vae_decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode latents to videos (B, 3, F, H, W), not clamped. Equals `vae.decode`, with two chunks only."""
    z = vae.post_quant_conv(latents)
    cache: list[object] = [None] * vae._cached_conv_counts["decoder"]
    first = vae.decoder(z[:, :, :1], feat_cache=cache, feat_idx=[0], first_chunk=True)
    rest = vae.decoder(z[:, :, 1:], feat_cache=cache, feat_idx=[0])
    video: Tensor = unpatchify(torch.cat([first, rest], 2), vae.config.patch_size)
    return video
