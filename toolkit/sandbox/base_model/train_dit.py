"""Pretrains the sandbox's text encoder and DiT together, from scratch, on latents of generic clips.

The objective is flow matching: v = noise - x0, sigma from a logit-normal (std 1.1, shift 2), caption dropout
10 %. The optimisers are Muon for matrices and AdamW for the rest. The result is an exponential moving average
of the weights. Random numbers depend on (seed, step), so that a resumed run gives the same result.

Two aids reduce the number of samples needed. Both fade out over the last third of the run.

- An auxiliary linear head on the tokens of a middle block predicts which creature a token shows, its look and
  its action. The text must therefore reach the right tokens even at high noise levels.
- Tokens that show creatures have a higher weight in the loss.
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
from toolkit.models.wan import use_math_attention
from toolkit.sandbox.base_model.architecture import DIM, SHIFT, new_text_encoder, new_transformer
from toolkit.sandbox.base_model.clips import ATTRIBUTE_VALUES, MAX_CREATURES, Latents

AUXILIARY_BLOCK = 5  # block whose output the auxiliary head takes
AUXILIARY_WEIGHT, CREATURE_WEIGHT = (
    0.1,
    1.5,
)  # weight of the reader's loss; how much more a token with a creature counts


class TextToVideo(nn.Module):
    """Text encoder and DiT as one module, with the auxiliary head `reader`."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.text_encoder = new_text_encoder(vocab_size)
        self.transformer = new_transformer()
        for name, p in self.transformer.named_parameters():
            if name.startswith("proj_out"):
                nn.init.zeros_(p)  # the initial prediction is zero
        self.reader = nn.Sequential(
            nn.LayerNorm(DIM), nn.Linear(DIM, MAX_CREATURES + 1 + sum(map(len, ATTRIBUTE_VALUES.values())))
        )
        self.seen: dict[str, Tensor] = {}
        self.transformer.blocks[AUXILIARY_BLOCK].register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.seen["tokens"] = output

    def forward(self, latents: Tensor, sigma: Tensor, ids: Tensor) -> Tensor:
        """Predict the velocity of latents (B, C, f, h, w) at sigma (B,) in [0, 1] for token ids (B, L)."""
        mask = (ids != 0).to(torch.int64)
        embeds = self.text_encoder(ids, mask).last_hidden_state
        embeds = embeds * mask[..., None]  # zero after the real tokens, as in Wan
        velocity: Tensor = self.transformer(latents, sigma * 1000, embeds, return_dict=False)[0]
        return velocity


def optimizers(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Return Muon for matrices in blocks, and AdamW for embeddings, norms, biases, first and last layers."""
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
    """Return the learning rate of a step.

    Linear warm-up, then constant, then linear decay to 2 % of `peak` over the last fraction `tail` of the
    run.
    """
    left = (steps - step) / (tail * steps)
    return peak * min(1.0, (step + 1) / warmup, max(0.02, left))


@dataclass(frozen=True)
class Batch:
    """The clips of one step: x0 and noise (B, C, f, h, w), sigma (B,), token ids (B, L), and labels."""

    x0: Tensor
    noise: Tensor
    sigma: Tensor
    ids: Tensor
    tokens: Tensor  # (B, tokens): 0 for none, k for the k-th creature
    attributes: Tensor  # (B, creatures, attributes)


def sample_batch(data: Latents, ids: Tensor, size: int, seed: int, step: int, device: str) -> Batch:
    """Sample the batch of one step. A tenth of the captions is replaced by the empty caption."""
    g = torch.Generator().manual_seed(seed * 1_000_003 + step)
    pick = torch.randint(len(data.latents), (size,), generator=g)
    x0 = data.latents[pick].float()
    noise = torch.randn(x0.shape, generator=g)
    u = torch.sigmoid(1.1 * torch.randn(size, generator=g))
    sigma = SHIFT * u / (1 + (SHIFT - 1) * u)
    asked = ids[pick].clone()
    empty = torch.zeros(asked.shape[1], dtype=asked.dtype)
    empty[0] = 1  # </s> only: the tokens of ""
    asked[torch.rand(size, generator=g) < 0.1] = empty
    parts = (x0, noise, sigma, asked, data.tokens[pick].long(), data.attributes[pick])
    return Batch(*(part.to(device) for part in parts))


def losses(model: TextToVideo, clips: Batch, creatures: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return three losses: velocity MSE, the same with weight 1 + `creatures` on creatures, and auxiliary."""
    s = clips.sigma.view(-1, 1, 1, 1, 1)
    with torch.autocast(clips.x0.device.type, torch.bfloat16):
        predicted: Tensor = model((1 - s) * clips.x0 + s * clips.noise, clips.sigma, clips.ids)
        read: Tensor = model.reader(model.seen.pop("tokens"))
    error = (predicted.float() - (clips.noise - clips.x0)).square()
    _, _, f, h, w = error.shape
    shown = clips.tokens > 0
    grid = shown.view(-1, 1, f, h // 2, w // 2).float().repeat_interleave(2, 3).repeat_interleave(2, 4)
    weight = 1 + creatures * grid
    who, *answers = torch.split(read.float(), [MAX_CREATURES + 1, *map(len, ATTRIBUTE_VALUES.values())], -1)
    auxiliary = nn.functional.cross_entropy(who.flatten(0, 1), clips.tokens.flatten())
    clip, token = shown.nonzero(as_tuple=True)
    truth = clips.attributes[clip, clips.tokens[clip, token] - 1]
    for k, answer in enumerate(answers):
        auxiliary = auxiliary + nn.functional.cross_entropy(answer[clip, token], truth[:, k])
    return error.mean(), (weight * error).sum() / weight.expand_as(error).sum(), auxiliary


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
    """Train on clips and their token ids (N, L) up to `steps` steps, resuming from `state_file` if it exists.

    Args:
        data: The clips.
        ids: Token ids of their captions, (N, L).
        vocab_size: Size of the vocabulary.
        state_file: Training state, saved every `save_every` steps.
        steps: Total number of steps.
        batch_size: Clips per step.
        lr: Peak learning rate.
        ema: Decay of the averaged weights.
        seed: Random seed.
        device: Device to train on.
        save_every: Interval of saved states, in steps.
        fast: Compile the blocks. The first step then takes longer, the others take a third less time.

    Yields:
        (step, (velocity error, auxiliary loss), averaged model) after every step.
    """
    torch.manual_seed(seed)
    model, average = TextToVideo(vocab_size).to(device), TextToVideo(vocab_size).to(device)
    average.load_state_dict(model.state_dict())
    average.requires_grad_(False)
    optims = optimizers(model, lr)
    start = _restore(state_file, model, average, optims, device)
    if fast:
        if device == "cpu":  # takes half the time of flash attention on a CPU, backward included
            use_math_attention(model.transformer)
        model.transformer.compile_repeated_blocks()
    for step in range(start, steps):
        aid_weight = min(1.0, (steps - step) / (0.35 * steps))
        clips = sample_batch(data, ids, batch_size, seed, step, device)
        loss, weighted, auxiliary = losses(model, clips, aid_weight * CREATURE_WEIGHT)
        if not math.isfinite(loss.item()):
            raise CastmixError(
                f"the loss is {loss.item()} at step {step}, training diverged: "
                f"the last good state is in {state_file}"
            )
        total = weighted + aid_weight * AUXILIARY_WEIGHT * auxiliary
        total.backward()  # type: ignore[no-untyped-call]
        _update(model, optims, learning_rate(step, steps, lr))
        _update_average(average, model, min(ema, (step + 1) / (step + 10)))
        if (step + 1) % save_every == 0 or step + 1 == steps:
            _save(state_file, step + 1, model, average, optims)
        yield step + 1, (loss.item(), auxiliary.item()), average


def _update(model: nn.Module, optims: Sequence[torch.optim.Optimizer], lr: float) -> None:
    """Clip the gradients, update the parameters, then clear the gradients."""
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for o in optims:
        for group in o.param_groups:
            group["lr"] = lr
        o.step()
        o.zero_grad(set_to_none=True)


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Update the exponential moving average of the weights."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


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
    """Load the state that `_save` wrote and return the number of steps done; 0 if there is no file."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    for o, s in zip(optims, state["optims"], strict=True):
        o.load_state_dict(s)
    return int(state["step"])
