"""The base model that ships: a real pipeline folder, small, and good enough to see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import toolkit
from toolkit.models.pixels import frames_to_video
from toolkit.models.registry import find_model, load_denoiser, load_encoders
from toolkit.sandbox.base_model.train_vae import psnr
from toolkit.sandbox.world import population
from toolkit.sandbox.world.shows import named_looks

BASE = Path(toolkit.__file__).parent / "sandbox" / "base"
NAMED = named_looks()
STRANGERS = population.generic_looks(list(NAMED.values()))


def test_the_base_is_small_and_has_the_fixed_geometry() -> None:
    assert sum(p.stat().st_size for p in BASE.rglob("*") if p.is_file()) <= 16_000_000
    spec = find_model("sandbox")
    assert (spec.num_frames, spec.height, spec.width, spec.fps) == (17, 64, 96, 8)
    assert spec.text_length == 64


def test_diffusers_alone_loads_and_runs_the_base(tmp_path: Path) -> None:
    from diffusers import WanPipeline

    pipeline = WanPipeline.from_pretrained(BASE, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    video = pipeline(
        "a red bear jumps in the meadow, cartoon style",
        height=64,
        width=96,
        num_frames=17,
        num_inference_steps=2,
        max_sequence_length=64,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).frames[0]
    assert video.shape == (17, 64, 96, 3)
    assert np.isfinite(video).all()


def test_the_vae_reconstructs_clips() -> None:
    cast = population.pretraining_cast(STRANGERS)
    clips = np.stack([population.sample_scenario(10**8 + i, STRANGERS, cast).draw()[0] for i in range(4)])
    encoders = load_encoders("sandbox")
    video = frames_to_video(clips)
    with torch.no_grad():
        again = encoders.decode_video(encoders.encode_video(video))
    assert psnr(again, video) > 20


def test_the_base_follows_the_prompts_colour() -> None:
    from toolkit.models.flow_matching import sigma_schedule
    from toolkit.sampling.denoise import denoise, guided_velocity, initial_noise

    spec, encoders, denoiser = find_model("sandbox"), load_encoders("sandbox"), load_denoiser("sandbox")
    prompts = [f"a {c} ball stands still in the snow, cartoon style" for c in ("red", "blue")]
    velocity = guided_velocity(
        denoiser, encoders.encode_text(prompts), encoders.encode_text([""]), spec.guidance_scale
    )
    latents = denoise(velocity, initial_noise([0, 0], (48, 5, 8, 12)), sigma_schedule(6, spec.shift))
    red, blue = encoders.decode_video(latents)[:, :, 8, 16:60, 24:72].mean((2, 3))
    assert red[0] - red[2] > blue[0] - blue[2] + 0.2


def test_a_contact_sheet_has_a_video_in_each_row_and_every_fourth_frame(tmp_path: Path) -> None:
    from PIL import Image

    from toolkit.sandbox.base_model.previews import contact_sheet

    levels = torch.linspace(-1, 1, 17)
    brighter = levels.view(1, -1, 1, 1).expand(3, 17, 64, 96)
    contact_sheet([brighter, -brighter], tmp_path / "a" / "sheet.png")
    with Image.open(tmp_path / "a" / "sheet.png") as picture:
        sheet = np.asarray(picture).astype(float)
    assert sheet.shape == (2 * 64, 5 * 96, 3)
    cells = sheet.reshape(2, 64, 5, 96, 3)
    assert (cells == cells[:, :1, :, :1]).all()  # frames of one colour stay so
    shown = 127.5 * (levels[::4].numpy() + 1)
    np.testing.assert_allclose(cells[0, 0, :, 0, 0], shown, atol=1)
    np.testing.assert_allclose(cells[1, 0, :, 0, 0], shown[::-1], atol=1)
