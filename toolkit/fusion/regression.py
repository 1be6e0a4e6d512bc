"""Layer by layer the change that does to every LoRA's own inputs what that LoRA did to them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.core.progress import track
from toolkit.fusion.job import Facts, Job
from toolkit.fusion.training_clips import own_items, worded
from toolkit.fusion.weight_merging import truncate
from toolkit.lora.layers import activate, attach
from toolkit.lora.parts import Part, Tensors
from toolkit.models.flow_matching import interpolate
from toolkit.models.interfaces import Denoiser
from toolkit.models.registry import default_device, fingerprint, load_denoiser
from toolkit.training.batches import validation
from toolkit.training.cached_clips import Item


def least_squares(parts: Sequence[Part], job: Job) -> tuple[Tensors, Facts]:
    """The gradient fusion of Mix-of-Show (Gu et al. 2023, eq. 7), solved exactly instead of by L-BFGS:

        min over W of the sum over parts n of |W X_n - w_n B_n A_n X_n|^2 + (mu / N) |W - w_n B_n A_n|^2

    X_n are the layer's inputs (each part's scaled to mean over tokens) while LoRA n runs on its own clips.
    The solution has the rank of all parts together. With G_n = X_n X_n',

        W = sum over n of w_n B_n A_n (G_n + mu/N) (sum over m of G_m + mu)^-1

    so every B stays what it is and only A changes; a single part comes out as itself.
    """
    squares = job.squares
    if squares.ridge <= 0 or squares.draws < 1 or squares.memory <= 0:
        raise CastmixError(
            "squares.ridge and squares.memory must be above 0 and squares.draws 1 or more, got "
            f"{squares.ridge:g}, {squares.memory:g} and {squares.draws}"
        )
    items = [_some(own, squares.max_clips) for own in own_items(parts, job)]
    spoken = worded(itertools.chain(*items), parts, job.spec)
    denoiser = load_denoiser(job.spec, default_device())
    for i, part in enumerate(parts):
        attach(denoiser.module, part.lora, f"part{i}", fingerprint(job.spec))
    made: Tensors = {}
    left = Left()
    for layers in _groups(parts, squares.memory):
        grams = []
        for i, (part, own) in enumerate(zip(parts, items, strict=True)):
            with activate(denoiser.module, {f"part{i}": part.weight}):
                grams.append(_gram(denoiser, layers, own, job, part.name, spoken))
        for layer in layers:
            made[layer], one = solve(parts, layer, [gram[layer] for gram in grams], squares.ridge)
            left += one
    facts: Facts = {"left_over": round(left.share(left.solution), 6)}
    facts["left_over_by_average"] = round(left.share(left.average), 6)
    if job.rank is not None:
        made, lost = truncate(made, job.rank)
        facts |= lost
    return dict(sorted(made.items())), facts


@dataclass(frozen=True)
class Left:
    """Squares that remain: of everything that the LoRAs did, by the solution, and by the plain average."""

    whole: float = 0.0
    solution: float = 0.0
    average: float = 0.0

    def __add__(self, other: Left) -> Left:
        return Left(self.whole + other.whole, self.solution + other.solution, self.average + other.average)

    def share(self, what: float) -> float:
        """What remains relative to the whole, as a root of squares."""
        return math.sqrt(what / (self.whole or 1.0))


def solve(
    parts: Sequence[Part], layer: str, grams: Sequence[Tensor], ridge: float
) -> tuple[tuple[Tensor, Tensor], Left]:
    """A and B of a layer, from the parts' mean squares of its inputs G_n (in, in), float64 inside.

    ridge: mu of `least_squares` in units of the inputs' mean square.
    """
    count, device = len(parts), grams[0].device
    grams = [gram.double() for gram in grams]
    mu = ridge * float(sum(gram.diagonal().mean() for gram in grams))
    eye = mu * torch.eye(len(grams[0]), dtype=torch.float64, device=device)
    factor = torch.linalg.cholesky(torch.stack(grams).sum(0) + eye)
    own: list[tuple[Tensor, Tensor, Tensor] | None] = []
    for part, gram in zip(parts, grams, strict=True):
        if layer not in part.lora.tensors:
            own.append(None)
            continue
        a, b = (half.to(device, torch.float64) for half in part.lora.tensors[layer])
        # A (G + mu/N) S^-1 = (S^-1 (G + mu/N) A')', both symmetric
        own.append((a, part.weight * b, torch.cholesky_solve((gram + eye / count) @ a.mT, factor).mT))
    there = [one for one in own if one is not None]
    ups, downs = torch.cat([b for _, b, _ in there], 1), torch.cat([down for _, _, down in there])
    gram_of_ups, offset = ups.mT @ ups, 0
    left = Left()
    for one, gram in zip(own, grams, strict=True):
        mine = torch.zeros_like(downs)
        if one is not None:
            mine[offset : offset + len(one[0])] = one[0]
            offset += len(one[0])

        def squares(change: Tensor, gram: Tensor = gram) -> float:
            return float(((change @ gram @ change.mT) * gram_of_ups).sum().clamp(min=0))

        average = torch.cat([a for a, _, _ in there]) / count
        left += Left(squares(mine), squares(downs - mine), squares(average - mine))
    return (downs.float().cpu(), ups.float().cpu()), left


@torch.no_grad()
def _gram(
    denoiser: Denoiser,
    layers: Sequence[str],
    items: Sequence[Item],
    job: Job,
    name: str,
    spoken: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Mean over tokens of x x' of each layer's inputs x, (in, in) float32, at equally likely noise levels."""
    sums: dict[str, Tensor] = {}
    seen = dict.fromkeys(layers, 0)
    shift = job.examples.sigma.shift_or(job.spec.shift)

    def hook(layer: str) -> Any:
        def add(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().flatten(0, -2).float()
            square = x.mT @ x
            sums[layer] = sums[layer].add_(square) if layer in sums else square
            seen[layer] += len(x)

        return add

    handles = [
        denoiser.module.get_submodule(layer).register_forward_pre_hook(hook(layer)) for layer in layers
    ]
    try:
        batches = validation(items, job.squares.draws, job.examples.sigma, shift, job.seed, worded=spoken)
        for batch in track(batches, f"inputs of {name}", len(items)):
            denoiser(interpolate(batch.latents, batch.noise, batch.sigma), batch.sigma, batch.prompt_embeds)
    finally:
        for handle in handles:
            handle.remove()
    return {layer: sums[layer] / seen[layer] for layer in layers}


def _some(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many, evenly spread."""
    if not 0 < most < len(items):
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


def _groups(parts: Sequence[Part], memory: float) -> Iterator[list[str]]:
    """Layers whose sums over inputs fit into so many GiB together, at least one at a time."""
    sizes = {layer: a.shape[1] for part in parts for layer, (a, _) in part.lora.tensors.items()}
    group: list[str] = []
    used = 0.0
    for layer, inputs in sorted(sizes.items()):
        need = 4 * len(parts) * inputs**2 / 2**30
        if group and used + need > memory:
            yield group
            group, used = [], 0.0
        group.append(layer)
        used += need
    yield group
