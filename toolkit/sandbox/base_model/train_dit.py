"""Pretrains the sandbox's text encoder and DiT together, from scratch, on latents of generic clips.

Flow matching on velocity, logit-normal sigma (scale 1.1, shift 2), Muon for matrices and AdamW for the rest,
an exponential moving average of the weights, 10 % caption dropout. Two helps, faded out over the last third
of the run, because a CPU affords few samples: a linear reader of a middle block's tokens is trained to tell
whom each token shows and what that creature is and does (so the text must reach the right place even under
heavy noise), and tokens with creatures count more. Every draw comes from (seed, step), so that a run goes on
exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from toolkit.core.errors import CastmixError
from toolkit.core.files import save_torch
from toolkit.models.wan import attend_plainly
from toolkit.sandbox.base_model.architecture import DIM, SHIFT, new_text_encoder, new_transformer
from toolkit.sandbox.base_model.clips import KINDS, MOST, Latents

READ_AT = 5  # the block whose output is read
READING, CREATURES = 0.1, 1.5  # weight of the reader's loss; how much more a token with a creature counts


class TextToVideo(nn.Module):
    """Text encoder and DiT as one module: tokens in, velocity out."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.text_encoder = new_text_encoder(vocab_size)
        self.transformer = new_transformer()
        for name, p in self.transformer.named_parameters():
            if name.startswith("proj_out"):
                nn.init.zeros_(p)  # start from predicting nothing
        self.reader = nn.Sequential(
            nn.LayerNorm(DIM), nn.Linear(DIM, MOST + 1 + sum(map(len, KINDS.values())))
        )
        self.seen: dict[str, Tensor] = {}
        self.transformer.blocks[READ_AT].register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.seen["tokens"] = output

    def forward(self, latents: Tensor, sigma: Tensor, ids: Tensor) -> Tensor:
        """Velocity of latents (B, C, f, h, w) at sigma (B,) in 0..1, for token ids (B, L)."""
        mask = (ids != 0).to(torch.int64)
        embeds = self.text_encoder(ids, mask).last_hidden_state
        embeds = embeds * mask[..., None]  # zero after the real tokens, like Wan
        velocity: Tensor = self.transformer(latents, sigma * 1000, embeds, return_dict=False)[0]
        return velocity


def optimizers(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for matrices inside blocks, AdamW for embeddings, norms, biases and the ends of the network."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        inner = ".blocks." in name or "encoder.block." in name
        (matrices if inner and p.ndim == 2 and "relative_attention_bias" not in name else others).append(p)
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def learning_rate(step: int, steps: int, peak: float, warmup: int = 200, tail: float = 0.3) -> float:
    """Linear warm-up, constant, then a linear way down to 2 % over the last `tail` of the run."""
    left = (steps - step) / (tail * steps)
    return peak * min(1.0, (step + 1) / warmup, max(0.02, left))


@dataclass(frozen=True)
class Batch:
    """Clips of one step and their noise: x0 and noise (B, C, f, h, w), sigma (B,), token ids (B, L)."""

    x0: Tensor
    noise: Tensor
    sigma: Tensor
    ids: Tensor
    tokens: Tensor  # (B, tokens): 0 nobody, k the k-th creature
    attributes: Tensor  # (B, creatures, kinds)


def batch(data: Latents, ids: Tensor, size: int, seed: int, step: int, device: str) -> Batch:
    """The batch of one step; captions of a tenth of it are emptied."""
    g = torch.Generator().manual_seed(seed * 1_000_003 + step)
    pick = torch.randint(len(data.latents), (size,), generator=g)
    x0 = data.latents[pick].float()
    noise = torch.randn(x0.shape, generator=g)
    u = torch.sigmoid(1.1 * torch.randn(size, generator=g))
    sigma = SHIFT * u / (1 + (SHIFT - 1) * u)
    asked = ids[pick].clone()
    empty = torch.zeros(asked.shape[1], dtype=asked.dtype)
    empty[0] = 1  # </s> alone, what the tokenizer makes of ""
    asked[torch.rand(size, generator=g) < 0.1] = empty
    parts = (x0, noise, sigma, asked, data.tokens[pick].long(), data.attributes[pick])
    return Batch(*(part.to(device) for part in parts))


def losses(model: TextToVideo, clips: Batch, creatures: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean squared error of the velocity; the same, creatures counting 1 + `creatures` times; reading."""
    s = clips.sigma.view(-1, 1, 1, 1, 1)
    with torch.autocast(clips.x0.device.type, torch.bfloat16):
        predicted: Tensor = model((1 - s) * clips.x0 + s * clips.noise, clips.sigma, clips.ids)
        read: Tensor = model.reader(model.seen.pop("tokens"))
    error = (predicted.float() - (clips.noise - clips.x0)).square()
    _, _, f, h, w = error.shape
    shown = clips.tokens > 0
    grid = shown.view(-1, 1, f, h // 2, w // 2).float().repeat_interleave(2, 3).repeat_interleave(2, 4)
    weight = 1 + creatures * grid
    who, *answers = torch.split(read.float(), [MOST + 1, *map(len, KINDS.values())], -1)
    reading = nn.functional.cross_entropy(who.flatten(0, 1), clips.tokens.flatten())
    clip, token = shown.nonzero(as_tuple=True)
    truth = clips.attributes[clip, clips.tokens[clip, token] - 1]
    for k, answer in enumerate(answers):
        reading = reading + nn.functional.cross_entropy(answer[clip, token], truth[:, k])
    return error.mean(), (weight * error).sum() / weight.expand_as(error).sum(), reading


def train_dit(
    data: Latents,
    ids: Tensor,
    vocab_size: int,
    state_file: Path,
    *,
    steps: int,
    batch_size: int = 32,
    lr: float = 1.5e-3,
    ema: float = 0.998,
    seed: int = 0,
    device: str = "cpu",
    save_every: int = 250,
    fast: bool = True,
) -> Iterator[tuple[int, tuple[float, float], TextToVideo]]:
    """Train on clips and their token ids (N, L) until `steps`, continuing from `state_file` if it exists.

    fast: Compile the blocks. The first step then takes longer, the others a third less time.
    Yields (step, (velocity error, reader's error), averaged model) after every step. The state is saved every
    `save_every` steps.
    """
    torch.manual_seed(seed)
    model, average = TextToVideo(vocab_size).to(device), TextToVideo(vocab_size).to(device)
    average.load_state_dict(model.state_dict())
    average.requires_grad_(False)
    optims = optimizers(model, lr)
    start = _restore(state_file, model, average, optims, device)
    if fast:
        if device == "cpu":  # half the time of flash attention there, backward included
            attend_plainly(model.transformer)
        model.transformer.compile_repeated_blocks()
    for step in range(start, steps):
        helped = min(1.0, (steps - step) / (0.35 * steps))
        clips = batch(data, ids, batch_size, seed, step, device)
        loss, weighted, reading = losses(model, clips, helped * CREATURES)
        if not math.isfinite(loss.item()):
            raise CastmixError(
                f"loss is {loss.item()} at step {step}; the last good state is in {state_file}"
            )
        (weighted + helped * READING * reading).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optims:
            for group in o.param_groups:
                group["lr"] = learning_rate(step, steps, lr)
            o.step()
            o.zero_grad(set_to_none=True)
        decay = min(ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            _save(state_file, step + 1, model, average, optims)
        yield step + 1, (loss.item(), reading.item()), average


def _save(
    path: Path, step: int, model: nn.Module, average: nn.Module, optims: Sequence[torch.optim.Optimizer]
) -> None:
    state = {"model": model.state_dict(), "average": average.state_dict(), "step": step}
    state["optims"] = [o.state_dict() for o in optims]
    save_torch(state, path)


def _restore(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optims: Sequence[torch.optim.Optimizer],
    device: str,
) -> int:
    """Load what `_save` wrote. Returns the number of steps done; 0 without a file."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    for o, s in zip(optims, state["optims"], strict=True):
        o.load_state_dict(s)
    return int(state["step"])
