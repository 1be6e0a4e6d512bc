"""The VAE's part of a pretraining run: its clips, its codec, its training with progress on held-back clips.

Files in the folder of the run: `pixels/` (clips), `codec.pt`, `vae.state` (training state), `vae.jsonl`
(history), `sheets/`.
"""

from __future__ import annotations

import threading
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray

from toolkit.core.files import partial_file
from toolkit.core.progress import say, track
from toolkit.core.signals import raise_if_set
from toolkit.models.pixels import frames_to_video
from toolkit.sandbox.base_model import history
from toolkit.sandbox.base_model.architecture import vae_decode, vae_encode
from toolkit.sandbox.base_model.clips import draw_pixels
from toolkit.sandbox.base_model.linear_codec import LinearCodec
from toolkit.sandbox.base_model.previews import contact_sheet
from toolkit.sandbox.base_model.train_vae import first_and_other_frames, train_vae

CLIPS, HELD_OUT_CLIPS = 4000, 16
PART, FIRST_CLIP = 250, 10**7  # clips per file; index of the first, far from those of the DiT
MEASURE_EVERY = 100  # steps


def vae_clips(folder: Path, stop: threading.Event | None = None) -> NDArray[np.uint8]:
    """Return the clips of the VAE (N, F, H, W, 3). Missing ones are drawn.

    Raises:
        StoppedError: The signal to stop arrived before all are drawn.
    """
    paths = [folder / "pixels" / f"{part:03d}.npy" for part in range(-(-CLIPS // PART))]
    for part, path in enumerate(track(paths, "clips for the VAE")):
        if not path.exists():
            raise_if_set(stop)
            first = FIRST_CLIP + part * PART
            with partial_file(path) as partial, partial.open("wb") as file:
                np.save(file, draw_pixels(range(first, first + min(PART, CLIPS - part * PART))))
    return np.concatenate([np.load(path) for path in paths])


def load_codec(folder: Path) -> LinearCodec:
    """Load the codec of a run."""
    return LinearCodec(**torch.load(folder / "codec.pt", weights_only=True))


def train_vae_in(
    folder: Path,
    vae: AutoencoderKLWan,
    steps: int,
    *,
    seed: int,
    device: str = "cpu",
    stop: threading.Event | None = None,
) -> None:
    """Train a VAE, in place, on the codec of a run.

    Args:
        folder: Folder of the run.
        vae: The VAE with its initial weights, on the CPU.
        steps: Total number of steps.
        seed: Random seed.
        device: Device to train on.
        stop: Signal to stop.

    Raises:
        StoppedError: The signal to stop arrived. The state is saved.
    """
    frames = vae_clips(folder, stop)
    training = train_vae(
        frames[:-HELD_OUT_CLIPS],
        load_codec(folder),
        deepcopy(vae),
        folder / "vae.state",
        steps=steps,
        seed=seed,
        device=device,
    )
    for step, _, trained in track(training, "VAE", steps, history.saved_step(folder / "vae.state")):
        if step % MEASURE_EVERY == 0 or step == steps:
            vae.load_state_dict({name: value.cpu() for name, value in trained.state_dict().items()})
            _measure(folder, vae, frames[-HELD_OUT_CLIPS:], step)
        if stop is not None and stop.is_set():
            training.close()  # saves the state
            raise_if_set(stop)
    vae.load_state_dict(torch.load(folder / "vae.state", map_location="cpu", weights_only=True)["vae"])


def _measure(folder: Path, vae: AutoencoderKLWan, frames: NDArray[np.uint8], step: int) -> None:
    """Write a row of `vae.jsonl`, and a contact sheet of held-back clips, each above its reconstruction."""
    video = frames_to_video(frames)
    with torch.no_grad():
        drawn = vae_decode(vae, vae_encode(vae, video))
    first, others = (round(db, 2) for db in first_and_other_frames(drawn, video))
    history.go_on_from(folder / "vae.jsonl", step - 1)
    history.append(folder / "vae.jsonl", {"step": step, "first_frame_psnr": first, "psnr": others})
    say(f"VAE step {step}: first frame {first} dB, other frames {others} dB on held-back clips")
    pairs = [clip for pair in zip(video[:4], drawn[:4], strict=True) for clip in pair]
    contact_sheet(pairs, folder / "sheets" / f"vae-{step:06d}.png")
