"""Fuses LoRAs by least squares: each fused layer reproduces every LoRA's effect on that LoRA's own inputs.

The inputs of a layer are recorded while each LoRA runs on clips of its own subjects.
"""

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
from toolkit.fusion.training_clips import clips_by_part
from toolkit.fusion.weight_merging import truncate
from toolkit.lora.layers import activate, attach
from toolkit.lora.parts import Part, Tensors
from toolkit.models.flow_matching import interpolate
from toolkit.models.interfaces import Denoiser
from toolkit.models.registry import default_device, fingerprint, load_denoiser
from toolkit.training.batches import validation
from toolkit.training.cached_clips import CachedClip
from toolkit.training.prompts import embed_special


def least_squares(parts: Sequence[Part], job: Job) -> tuple[Tensors, Facts]:
    """The gradient fusion of Mix-of-Show (Gu et al. 2023, eq. 7), solved exactly instead of by L-BFGS:

        min over W of the sum over parts n of |W X_n - w_n B_n A_n X_n|^2 + (mu / N) |W - w_n B_n A_n|^2

    X_n are the layer's inputs while LoRA n (of N, with weight w_n) runs on its own clips, scaled to the mean
    over tokens. The rank of the solution is the sum of the parts' ranks. With G_n = X_n X_n',

        W = sum over n of w_n B_n A_n (G_n + mu/N) (sum over m of G_m + mu)^-1

    So each B is kept and only A changes. A single part is returned unchanged.

    Raises:
        CastmixError: A setting of `job.squares` is out of range, or as `clips_by_part`.
    """
    squares = job.squares
    if squares.ridge <= 0 or squares.draws < 1 or squares.memory <= 0:
        raise CastmixError(
            "squares.ridge and squares.memory must be above 0 and squares.draws must be 1 or more, got "
            f"{squares.ridge:g}, {squares.memory:g} and {squares.draws}"
        )
    items = [_evenly_picked(own, squares.max_clips) for own in clips_by_part(parts, job)]
    captions = [item.text for item in itertools.chain(*items)]
    special = embed_special(captions, [part.lora for part in parts], job.spec)
    denoiser = load_denoiser(job.spec, default_device())
    for i, part in enumerate(parts):
        attach(denoiser.module, part.lora, f"part{i}", fingerprint(job.spec))
    made: Tensors = {}
    residuals = Residuals()
    for layers in _layer_groups(parts, squares.memory):
        grams = []
        for i, (part, own) in enumerate(zip(parts, items, strict=True)):
            with activate(denoiser.module, {f"part{i}": part.weight}):
                grams.append(_gram_matrices(denoiser, layers, own, job, part.name, special))
        for layer in layers:
            made[layer], of_layer = solve(parts, layer, [gram[layer] for gram in grams], squares.ridge)
            residuals += of_layer
    facts: Facts = {"left_over": round(residuals.relative(residuals.solution), 6)}
    facts["left_over_by_average"] = round(residuals.relative(residuals.average), 6)
    if job.rank is not None:
        made, lost = truncate(made, job.rank)
        facts |= lost
    return dict(sorted(made.items())), facts


@dataclass(frozen=True)
class Residuals:
    """Sums of squared differences to the outputs that the LoRAs produce.

    Attributes:
        total: Of no change at all, which is the squared norm of the LoRAs' outputs.
        solution: Of the least-squares solution.
        average: Of the plain average of the LoRAs.
    """

    total: float = 0.0
    solution: float = 0.0
    average: float = 0.0

    def __add__(self, other: Residuals) -> Residuals:
        return Residuals(
            self.total + other.total, self.solution + other.solution, self.average + other.average
        )

    def relative(self, squares: float) -> float:
        """A residual relative to `total`, as a norm."""
        return math.sqrt(squares / (self.total or 1.0))


def solve(
    parts: Sequence[Part], layer: str, grams: Sequence[Tensor], ridge: float
) -> tuple[tuple[Tensor, Tensor], Residuals]:
    """Solve one layer in float64; returns A, B and the residuals.

    Args:
        parts: The LoRAs.
        layer: Name of the layer.
        grams: G_n of each part, (in, in): mean over tokens of x x'.
        ridge: mu of `least_squares`, in units of the mean square of the inputs.
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
    present = [one for one in own if one is not None]
    ups, downs = torch.cat([b for _, b, _ in present], 1), torch.cat([down for _, _, down in present])
    gram_of_ups, offset = ups.mT @ ups, 0
    residuals = Residuals()
    for one, gram in zip(own, grams, strict=True):
        mine = torch.zeros_like(downs)
        if one is not None:
            mine[offset : offset + len(one[0])] = one[0]
            offset += len(one[0])

        def squares(change: Tensor, gram: Tensor = gram) -> float:
            return float(((change @ gram @ change.mT) * gram_of_ups).sum().clamp(min=0))

        average = torch.cat([a for a, _, _ in present]) / count
        residuals += Residuals(squares(mine), squares(downs - mine), squares(average - mine))
    return (downs.float().cpu(), ups.float().cpu()), residuals


@torch.no_grad()
def _gram_matrices(
    denoiser: Denoiser,
    layers: Sequence[str],
    items: Sequence[CachedClip],
    job: Job,
    name: str,
    special: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """G of each layer: mean over tokens of x x' for its inputs x, (in, in) float32.

    Noise levels are spread evenly over the training distribution. `special` are prompt embeddings of
    captions with special tokens, by caption.
    """
    sums: dict[str, Tensor] = {}
    tokens = dict.fromkeys(layers, 0)
    shift = job.examples.sigma.shift_or(job.spec.shift)

    def hook(layer: str) -> Any:
        def add(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().flatten(0, -2).float()
            square = x.mT @ x
            sums[layer] = sums[layer].add_(square) if layer in sums else square
            tokens[layer] += len(x)

        return add

    handles = [
        denoiser.module.get_submodule(layer).register_forward_pre_hook(hook(layer)) for layer in layers
    ]
    try:
        draws, sigma = job.squares.draws, job.examples.sigma
        batches = validation(items, draws, sigma, shift, job.seed, special=special)
        for batch in track(batches, f"recording inputs of {name}", len(items)):
            denoiser(interpolate(batch.latents, batch.noise, batch.sigma), batch.sigma, batch.prompt_embeds)
    finally:
        for handle in handles:
            handle.remove()
    return {layer: sums[layer] / tokens[layer] for layer in layers}


def _evenly_picked(items: Sequence[CachedClip], most: int) -> list[CachedClip]:
    """At most `most` items, evenly spaced; all items if `most` is 0."""
    if not 0 < most < len(items):
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


def _layer_groups(parts: Sequence[Part], memory: float) -> Iterator[list[str]]:
    """Groups of layers whose Gram matrices fit into `memory` GiB together, at least one layer each."""
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
