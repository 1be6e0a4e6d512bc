"""Pretrains the sandbox's text encoder and DiT together on latents of generic clips.

The objective is flow matching: v = noise - x0, sigma from a logit-normal (std 1.1, shift 2), caption dropout
10 %. The optimisers are Muon for matrices and AdamW for the rest. The result is an exponential moving average
of the weights. Random numbers depend on (seed, step), so that a resumed run gives the same result.

Two aids reduce the number of samples needed. In a run with an end, both fade out over the last third.

- An auxiliary linear head on the tokens of a middle block predicts which creature a token shows, its look and
  its action. The text must therefore reach the right tokens even at high noise levels.
- Tokens that show creatures have a higher weight in the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from toolkit.core.errors import CastmixError
from toolkit.core.files import save_torch
from toolkit.core.progress import say
from toolkit.models.precision import autocast
from toolkit.models.wan import use_math_attention
from toolkit.sandbox.base_model.architecture import DIM, SHIFT, new_text_encoder, new_transformer
from toolkit.sandbox.base_model.clips import ATTRIBUTE_VALUES, MAX_CREATURES, Latents
from toolkit.sandbox.base_model.history import load_state
from toolkit.sandbox.base_model.muon import Muon

MOST_SKIPPED = 10  # steps in a row without a finite loss
AUXILIARY_BLOCK = 5  # block whose output the auxiliary head takes
AUXILIARY_WEIGHT, CREATURE_WEIGHT = (
    0.1,
    1.5,
)  # weight of the reader's loss; how much more a token with a creature counts


class TextToVideo(nn.Module):
    """Text encoder and DiT as one module, with the auxiliary head `reader`."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
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
        Muon(matrices, lr=lr, weight_decay=0.01),
        torch.optim.AdamW(others, lr=lr, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


@dataclass(frozen=True)
class Schedule:
    """Learning rate and aids of each step, relative to their full values.

    Attributes:
        steps: Total number of steps. None: no end; nothing falls.
        start: Step at which the optimisers started, without any state.
    """

    steps: int | None
    start: int = 0

    def learning_rate(self, step: int, warmup: int = 200, tail: float = 0.3) -> float:
        """Linear warm-up, then constant, then linear decay to 0.02 over the last fraction `tail` of a run."""
        left = (self.steps - step) / (tail * self.steps) if self.steps else 1.0
        return min(1.0, (step - self.start + 1) / warmup, max(0.02, left))

    def averaging(self, step: int) -> float:
        """Decay of the averaged weights after `step` steps. Their mean age is a quarter of the run."""
        done = step - self.start
        return done / (done + 3)

    def aids(self, step: int) -> float:
        """Constant, then linear decay over the last 35 % of a run."""
        return min(1.0, (self.steps - step) / (0.35 * self.steps)) if self.steps else 1.0


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
    with autocast(clips.x0.device):
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
        told = truth[:, k] >= 0  # a batch without any such token would give NaN
        if told.any():
            auxiliary = auxiliary + nn.functional.cross_entropy(answer[clip, token][told], truth[told, k])
    return error.mean(), (weight * error).sum() / weight.expand_as(error).sum(), auxiliary


Source = Callable[[int], tuple[Latents, Tensor]]
"""Returns the clips that a step can use, and the token ids (N, L) of their captions."""


def train_dit(
    source: Source,
    model: TextToVideo,
    state_file: Path,
    schedule: Schedule,
    *,
    batch_size: int = 32,
    lr: float = 1.5e-3,
    ema: float = 0.998,
    seed: int = 0,
    device: str = "cpu",
    save_every: int = 250,
    fast: bool = True,
) -> Generator[tuple[int, tuple[float, float], TextToVideo], None, None]:
    """Train a model, resuming from `state_file` if it exists. The last step is saved, too.

    Args:
        source: The clips of each step.
        model: The model, with its initial weights.
        state_file: Training state, saved every `save_every` steps, and when the caller closes the iterator.
        schedule: Learning rate and aids.
        batch_size: Clips per step.
        lr: Peak learning rate.
        ema: Largest decay of the averaged weights.
        seed: Random seed.
        device: Device to train on.
        save_every: Interval of saved states, in steps.
        fast: Compile the blocks. The first step takes longer, the others a third less time.

    Yields:
        (step, (velocity error, auxiliary loss), averaged model) after every step.
    """
    torch.manual_seed(seed)
    model, average = model.to(device), TextToVideo(model.vocab_size).to(device)
    average.load_state_dict(model.state_dict())
    average.requires_grad_(False)
    optims = optimizers(model, lr)
    step = _restore(state_file, model, average, optims, device) or schedule.start
    skipped = 0
    if fast:
        if device == "cpu":  # takes half the time of flash attention on a CPU, backward included
            use_math_attention(model.transformer)
        model.transformer.compile_repeated_blocks()
    while schedule.steps is None or step < schedule.steps:
        batch = sample_batch(*source(step), batch_size, seed, step, device)
        errors = train_step(model, optims, batch, schedule.aids(step), lr * schedule.learning_rate(step))
        step += 1
        skipped = 0 if errors else skipped + 1
        if errors is None:
            say(f"step {step} is skipped: its loss or its gradients are not finite")
            if skipped == MOST_SKIPPED:
                raise CastmixError(f"{skipped} steps in a row had no finite loss: training has diverged")
            continue
        _update_average(average, model, min(ema, schedule.averaging(step)))
        if step % save_every == 0 or step == schedule.steps:
            _save(state_file, step, model, average, optims)
        try:
            yield step, errors, average
        except GeneratorExit:
            return _save(state_file, step, model, average, optims)


def train_step(
    model: TextToVideo, optims: Sequence[torch.optim.Optimizer], batch: Batch, aids: float, lr: float
) -> tuple[float, float] | None:
    """Update a model once. Returns (velocity error, auxiliary loss).

    Returns None, and does not update the model, if the loss or the gradients are not finite.
    """
    loss, weighted, auxiliary = losses(model, batch, aids * CREATURE_WEIGHT)
    total = weighted + aids * AUXILIARY_WEIGHT * auxiliary
    total.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    finite = math.isfinite(total.item()) and math.isfinite(norm.item())
    for optim in optims:
        for group in optim.param_groups:
            group["lr"] = lr
        if finite:
            optim.step()
        optim.zero_grad(set_to_none=True)
    return (loss.item(), auxiliary.item()) if finite else None


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
    if (state := load_state(path, device)) is None:
        return 0
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    for o, s in zip(optims, state["optims"], strict=True):
        o.load_state_dict(s)
    return int(state["step"])
