"""Fusions that look at nothing but the weights: sum, compression, and sparse sums."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.core.progress import track
from toolkit.fusion.job import Facts, Job
from toolkit.lora.parts import Part, Tensors
from toolkit.models.registry import default_device


def weighted(parts: Sequence[Part], job: Job) -> tuple[Tensors, Facts]:
    """The exact weighted sum of all changes, by joining ranks; `job.rank` truncates it as `svd` does."""
    return svd(parts, job) if job.rank is not None else (concatenate(parts), {})


def concatenate(parts: Sequence[Part], share: float = 1.0) -> Tensors:
    """Sum of share * weight * B A over the parts, exact: their ranks stand one behind the other.

    Averaging A and B apart would be another thing: mean(B) mean(A) is not mean(B A). Parts may have different
    ranks and different layers; one of weight 0 takes no place.
    """
    found: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    for part in parts:
        scale = share * part.weight
        for layer, (a, b) in part.lora.tensors.items():
            downs, ups = found.setdefault(layer, ([], []))
            downs.append(a)
            ups.append(b if scale == 1 else b * scale)
    return {layer: (torch.cat(downs), torch.cat(ups, 1)) for layer, (downs, ups) in sorted(found.items())}


def masked(parts: Sequence[Part], job: Job) -> tuple[Tensors, Facts]:
    """The weighted sum, with what `toolkit.sampling.masked_loras` needs to tell the parts apart again.

    FreeFuse (arXiv 2510.23515) does this to image models: each LoRA acts only where its subject is.

    Raises:
        CastmixError: a part names no subject, or a rank was asked for.
    """
    if job.rank is not None:
        raise CastmixError("masked keeps the LoRAs apart, so there is no rank to choose: leave --rank out")
    unnamed = [part.name for part in parts if not part.subjects]
    if unnamed:
        raise CastmixError(
            f"{', '.join(unnamed)} does not say whom it knows: give --subjects once for each LoRA, in order"
        )
    ranks = [{layer: a.shape[0] for layer, (a, _) in part.lora.tensors.items()} for part in parts]
    return concatenate(parts), {"ranks": ranks}


def svd(parts: Sequence[Part], job: Job) -> tuple[Tensors, Facts]:
    """The weighted sum at a smaller rank: the nearest there is in each layer (Eckart and Young 1936).

    job.rank: Of every layer; the largest of the parts' if left out.
    """
    rank = _rank(job.rank) or max(part.lora.rank for part in parts)
    return truncate(concatenate(parts), rank)


def truncate(tensors: Tensors, rank: int) -> tuple[Tensors, Facts]:
    """Each layer's nearest change of this rank, and what was lost relative to what was there (Frobenius).

    Works on the factors: a layer's full matrix is never formed.
    """
    made: Tensors = {}
    kept, lost = {}, {}
    for layer, (a, b) in tensors.items():
        # B A = Qb (Rb Ra') Qa', and the middle is as small as the rank
        qa, ra = torch.linalg.qr(a.double().mT)
        qb, rb = torch.linalg.qr(b.double())
        u, s, vh = torch.linalg.svd(rb @ ra.mT)
        made[layer] = _factors(qb @ u, s, vh @ qa.mT, rank)
        kept[layer], lost[layer] = (float(part.square().sum()) for part in (s[:rank], s[rank:]))
    return made, _losses(kept, lost)


def ties(parts: Sequence[Part], job: Job) -> tuple[Tensors, Facts]:
    """Trim, elect a sign, average those that agree (TIES-Merging, Yadav et al. 2023), on whole changes B A.

    Where only one LoRA has a say it stays whole, so 1 is the weight to begin with for any number of them.
    """
    return _sparse(parts, job, "ties")


def dare(parts: Sequence[Part], job: Job) -> tuple[Tensors, Facts]:
    """Drop numbers at random, scale up the rest, add (DARE, Yu et al. 2024), on whole changes B A."""
    return _sparse(parts, job, "dare_linear")


def _sparse(parts: Sequence[Part], job: Job, kind: Literal["ties", "dare_linear"]) -> tuple[Tensors, Facts]:
    """A merge of whole matrices, brought back to the sum of the ranks, or to `job.rank`."""
    from toolkit.lora.layers import merge

    rank, sparse = _rank(job.rank), job.sparse
    if not 0 < sparse.density <= 1:
        raise CastmixError(f"sparse.density must be above 0 and up to 1, got {sparse.density:g}")
    made: Tensors = {}
    kept, lost = {}, {}
    device = default_device()
    for layer in track(sorted({layer for part in parts for layer in part.lora.tensors}), kind):
        own = [part for part in parts if layer in part.lora.tensors]
        pairs = [part.lora.tensors[layer] for part in own]
        merged = merge(
            [b @ a for a, b in pairs],
            [part.weight for part in own],
            kind=kind,
            density=sparse.density,
            sign=sparse.sign,
            seed=job.seed,
            what=layer,
        )
        u, s, vh = torch.linalg.svd(merged.to(device), full_matrices=False)
        most = rank or sum(a.shape[0] for a, _ in pairs)
        made[layer] = _factors(u, s, vh, most)
        kept[layer], lost[layer] = (float(part.square().sum()) for part in (s[:most], s[most:]))
    return made, _losses(kept, lost)


def _factors(u: Tensor, s: Tensor, vh: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r), the root of each singular value on either side, float32 on the CPU."""
    rank = min(rank, len(s))
    root = s[:rank].sqrt()
    return (root.unsqueeze(1) * vh[:rank]).float().cpu(), (u[:, :rank] * root).float().cpu()


def _rank(rank: int | None) -> int | None:
    if rank is not None and rank < 1:
        raise CastmixError(f"rank must be 1 or more, got {rank}")
    return rank


def _losses(kept: Mapping[str, float], lost: Mapping[str, float]) -> Facts:
    """The relative error over all layers, and the layer that lost most."""
    error = {layer: math.sqrt(lost[layer] / (kept[layer] + lost[layer] or 1.0)) for layer in kept}
    worst = max(error, key=lambda layer: error[layer])
    everything = sum(kept.values()) + sum(lost.values())
    return {
        "relative_error": round(math.sqrt(sum(lost.values()) / (everything or 1.0)), 6),
        "worst_layer": worst,
        "worst_layer_error": round(error[worst], 6),
    }
