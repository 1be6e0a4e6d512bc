"""The sandbox base: sizes of a tiny Wan, and how its parts become a standard `WanPipeline` folder.

Canvas 64x96 (H x W), 17 frames: latents (48, 5, 8, 12), 120 tokens. 48 channels because detail must survive
the VAE.
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

# Pieces that stay whole. A bare word is the same token in prose and inside a tag; all else is spelled out.
_GLUE = ("▁a", "▁and", "▁in", "▁on", "▁the", "▁with", "▁[Character:", "▁[scene-style:", "],", "].", "▁style")


def new_tokenizer(words: Iterable[str]) -> T5Tokenizer:
    """Word pieces for `words`, single characters for anything else: a new name is spelled, never unknown."""
    pieces = dict.fromkeys([*sorted({w.lower() for text in words for w in text.split()}), *_GLUE])
    letters = [chr(c) for c in range(33, 127)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab += [(piece, -1.0) for piece in pieces if len(piece) > 1]
    vocab += [(letter, -8.0) for letter in letters]
    return T5Tokenizer(vocab=vocab, extra_ids=0)


def new_text_encoder(vocab_size: int) -> UMT5EncoderModel:
    """A small text encoder of Wan's kind."""
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
    """A small Wan transformer."""
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
    """A small Wan VAE.

    Its latents are normalised by construction, so mean 0 and std 1 stand in the config.
    """
    return AutoencoderKLWan(
        base_dim=12,
        decoder_base_dim=12,
        z_dim=CHANNELS,
        dim_mult=[2, 3, 6],  # the narrow end must carry 48 signed numbers through a SiLU
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
) -> None:
    """Write a `WanPipeline` folder in 16 bits, beside the old one first, then in its place.

    `settings` become its castmix.json.
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
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def vae_encode(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """(B, 3, F, H, W) -> latent means.

    As `vae.encode` does it, but in two chunks instead of one a latent frame: faster, equal.
    """
    x = patchify(video, vae.config.patch_size)
    cache: list[object] = [None] * vae._cached_conv_counts["encoder"]
    first = vae.encoder(x[:, :, :1], feat_cache=cache, feat_idx=[0])
    rest = vae.encoder(x[:, :, 1:], feat_cache=cache, feat_idx=[0])
    mean: Tensor = vae.quant_conv(torch.cat([first, rest], 2))[:, :CHANNELS]
    return mean


def vae_decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Latents -> (B, 3, F, H, W), unclamped; the two-chunk counterpart of `vae.decode`."""
    z = vae.post_quant_conv(latents)
    cache: list[object] = [None] * vae._cached_conv_counts["decoder"]
    first = vae.decoder(z[:, :, :1], feat_cache=cache, feat_idx=[0], first_chunk=True)
    rest = vae.decoder(z[:, :, 1:], feat_cache=cache, feat_idx=[0])
    video: Tensor = unpatchify(torch.cat([first, rest], 2), vae.config.patch_size)
    return video
