"""Settings of the test processes, and fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

# Several test processes share the machine, and torch reads this once, when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test may look for a model on the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest

from toolkit.footage.clips import Clip, write_clip, write_index
from toolkit.footage.video import write_video

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def footage() -> Path:
    """The folder of real footage, or a skip that says how to get it."""
    folder = Path(os.environ.get("CASTMIX_FOOTAGE", REPOSITORY.parent / "shared" / "footage"))
    if not folder.is_dir():
        pytest.skip(f"no real footage at {folder}: set CASTMIX_FOOTAGE to a folder that has it")
    return folder


@pytest.fixture(scope="session")
def tiny_wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random tiny WanPipeline, made by diffusers alone: other sizes than the sandbox base.

    VAE 16 channels, strides (4, 8, 8); DiT of 2 blocks, 2 heads of 16; UniPC scheduler as Wan's own
    folders have. Good for videos of 9 frames, 32x48 pixels: latents (16, 3, 4, 6), 18 tokens.
    """
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

    words = [
        "a",
        "red",
        "cat",
        "dog",
        "walks",
        "jumps",
        "over",
        "the",
        "moon",
        "Pixo",
        "Bruk",
        "Character",
        "style",
    ]
    vocab = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -3.0),
        *((f"▁{word}", -2.0) for word in words),
    ]
    vocab += [
        (character, -4.0) for character in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ[]:,.-&;"
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = UMT5Config(vocab_size=len(vocab), d_model=24, d_kv=12, num_heads=2, d_ff=32, num_layers=1)
        vae = AutoencoderKLWan(
            base_dim=4,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        )
        transformer = WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=16,
            out_channels=16,
            text_dim=24,
            freq_dim=16,
            ffn_dim=48,
            num_layers=2,
        )
        for parameter in transformer.parameters():  # nothing zero: outputs and gradients everywhere
            parameter.data += 0.05 * torch.randn_like(parameter)
        pipe = WanPipeline(
            tokenizer=T5Tokenizer(vocab=vocab, extra_ids=0),
            text_encoder=UMT5EncoderModel(encoder),
            vae=vae,
            transformer=transformer,
            scheduler=UniPCMultistepScheduler(
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                num_train_timesteps=1000,
                flow_shift=3.0,
            ),
        )
    folder = tmp_path_factory.mktemp("models") / "tiny-wan"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_clips() -> Callable[..., Path]:
    """A function that fills a folder with captioned clips of moving squares, 9 frames of 48x32 by default."""

    def make(folder: Path, count: int, *, name: str = "Pixo", num_frames: int = 9, width: int = 48) -> Path:
        for i in range(count):
            random = np.random.default_rng(i)
            frames = np.full((num_frames, 32, width, 3), random.integers(0, 255, 3), np.uint8)
            for t, frame in enumerate(frames):
                frame[8:20, 2 * t : 2 * t + 12] = 255 - frame[0, 0]
            path = folder / "clips" / f"clip-{i:02d}.mp4"
            write_video(path, frames, 8)
            text = f"[Character: {name}], jumps over the {'moon' if i % 2 else 'dog'}. [scene-style:cartoon]"
            write_clip(folder, Clip(path, text, "episode.mp4", i, i + 1, 8.0, num_frames, width, 32, shot=i))
        write_index(folder)
        return folder

    return make
