"""Trains the sandbox's VAE, starting from the latents that `linear_codec` defines.

For a third of the steps, the encoder is trained to predict these latents. The decoder reconstructs the video
from them, or from the encoder's latents. Afterwards both are trained to reconstruct the video, and the
latents may move away from their definition a little. Latents get a little noise before they are decoded,
which makes the decoder robust to the DiT's errors.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.core.errors import CastmixError
from toolkit.core.files import save_torch
from toolkit.models.pixels import frames_to_video
from toolkit.models.precision import autocast
from toolkit.sandbox.base_model.architecture import vae_decode, vae_encode
from toolkit.sandbox.base_model.history import load_state
from toolkit.sandbox.base_model.linear_codec import LinearCodec
from toolkit.sandbox.base_model.muon import Muon

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the peak signal-to-noise ratio of two videos in [-1, 1] in dB."""
    return -10 * math.log10(((a.clamp(-1, 1) - b.clamp(-1, 1)) / 2).square().mean().item())


def first_and_other_frames(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Return the PSNR of the first frame and of the other frames of videos (B, 3, F, H, W), in dB."""
    return psnr(a[:, :, :1], b[:, :, :1]), psnr(a[:, :, 1:], b[:, :, 1:])


def learning_rate(step: int, steps: int, peak: float, warmup: int = 50) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay to 2 % of `peak`."""
    return peak * min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def channels_last(vae: nn.Module) -> None:
    """Convert convolution weights to channels-last in place. This saves a quarter of the time on a CPU."""
    for p in vae.parameters():
        if p.ndim in (4, 5):
            form = torch.channels_last_3d if p.ndim == 5 else torch.channels_last
            p.data = p.data.contiguous(memory_format=form)


class ConvMuon:
    """Muon for convolution weights, each viewed as one matrix (out, in * kernel), and AdamW for the rest.

    This needs far fewer steps than AdamW alone. The weights must be channels-last (see `channels_last`).
    """

    def __init__(self, module: nn.Module, lr: float) -> None:
        self.weights = [p for p in module.parameters() if p.ndim in (4, 5) and len(p) > 1]
        self.flat = [nn.Parameter(self._matrix(p.data)) for p in self.weights]  # views of the same memory
        known = set(map(id, self.weights))
        rest = [p for p in module.parameters() if id(p) not in known]
        self.optims = [
            Muon(self.flat, lr=lr),
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    @staticmethod
    def _matrix(weight: Tensor) -> Tensor:
        return weight.permute(0, *range(2, weight.ndim), 1).reshape(len(weight), -1)

    def step(self, lr: float) -> None:
        """Update the parameters with their gradients, then clear the gradients."""
        for matrix, weight in zip(self.flat, self.weights, strict=True):
            matrix.grad = None if weight.grad is None else self._matrix(weight.grad)
            weight.grad = None
        for optim in self.optims:
            for group in optim.param_groups:
                group["lr"] = lr
            optim.step()
            optim.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the states of both optimisers."""
        return [optim.state_dict() for optim in self.optims]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Load what `state_dict` returned."""
        for optim, state in zip(self.optims, states, strict=True):
            optim.load_state_dict(state)


def losses(
    vae: AutoencoderKLWan,
    codec: LinearCodec,
    frames: NDArray[np.uint8],
    g: torch.Generator,
    *,
    progress: float,
    device: str,
) -> tuple[Tensor, Tensor]:
    """Return the training loss of clips (B, F, H, W, 3), and the mean squared error of the reconstruction.

    The loss is the MSE of the video, plus the MSE of the latents with a weight that falls from 0.3 to 0.03
    over the first third of the run. The decoder gets latents with noise of std 0.06.

    progress: Share of the steps done, 0 to 1.
    """
    video = frames_to_video(frames).to(device).contiguous(memory_format=torch.channels_last_3d)
    target = codec.encode(torch.from_numpy(frames)).to(device)
    noise = 0.06 * torch.randn(target.shape, generator=g).to(device)
    with autocast(device):
        latents = vae_encode(vae, video)
        source = latents.float()
        if progress < 1 / 3:
            own = (torch.rand(len(frames), generator=g) < 0.5).view(-1, 1, 1, 1, 1).to(device)
            source = torch.where(own, source, target)
        decoded = vae_decode(vae, source + noise)
    error = (decoded.float() - video).square().mean()
    latent_error = (latents.float() - target).square().mean()
    return error + max(0.03, 0.3 - 0.81 * progress) * latent_error, error


def train_vae(
    frames: NDArray[np.uint8],
    codec: LinearCodec,
    vae: AutoencoderKLWan,
    state_file: Path,
    *,
    steps: int,
    batch_size: int = 2,
    lr: float = 2e-3,
    seed: int = 0,
    device: str = "cpu",
    save_every: int = 25,
    fast: bool = False,
) -> Generator[tuple[int, float, nn.Module], None, None]:
    """Train on clips (N, F, H, W, 3) uint8 up to `steps` steps, resuming from `state_file` if it exists.

    Args:
        frames: The clips.
        codec: Defines the target latents.
        vae: The VAE, with its initial weights.
        state_file: Training state, saved every `save_every` steps, and when the caller closes the iterator.
        steps: Total number of steps.
        batch_size: Clips per step.
        lr: Peak learning rate.
        seed: Random seed.
        device: Device to train on.
        save_every: Interval of saved states, in steps.
        fast: Compile encoder and decoder. On a CPU this takes minutes.

    Yields:
        (step, mean squared error of the video, vae) after every step.
    """
    vae = vae.to(device)
    channels_last(vae)
    optim = ConvMuon(vae, lr)
    start = _restore(state_file, vae, optim, device)
    if fast:
        vae.encoder.compile()
        vae.decoder.compile()
    for step in range(start, steps):
        g = torch.Generator().manual_seed(seed * 1_000_003 + step)
        pick = frames[torch.randint(len(frames), (batch_size,), generator=g).numpy()]
        loss, error = losses(vae, codec, pick, g, progress=step / steps, device=device)
        if not math.isfinite(loss.item()):
            raise CastmixError(f"the loss is {loss.item()} at step {step}, training of the VAE diverged")
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optim.step(learning_rate(step, steps, lr))
        if (step + 1) % save_every == 0 or step + 1 == steps:
            _save(state_file, step + 1, vae, optim)
        try:
            yield step + 1, error.item(), vae
        except GeneratorExit:
            _save(state_file, step + 1, vae, optim)
            raise


def _save(path: Path, step: int, vae: nn.Module, optim: ConvMuon) -> None:
    save_torch({"vae": vae.state_dict(), "optim": optim.state_dict(), "step": step}, path)


def _restore(path: Path, vae: nn.Module, optim: ConvMuon, device: str) -> int:
    """Load the state that `_save` wrote and return the number of steps done; 0 if there is no file."""
    if (state := load_state(path, device)) is None:
        return 0
    vae.load_state_dict(state["vae"])
    optim.load_state_dict(state["optim"])
    return int(state["step"])
