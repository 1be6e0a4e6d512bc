"""Fuses LoRAs by their weights alone: exact sum, truncated SVD, TIES, DARE and masked fusion."""

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
    """The exact weighted sum of the LoRAs, by concatenating ranks. With `job.rank` the same as `svd`."""
    return svd(parts, job) if job.rank is not None else (concatenate(parts), {})


def concatenate(parts: Sequence[Part], share: float = 1.0) -> Tensors:
    """The sum of share * weight * B A over the parts, exact, by concatenating the parts along the rank.

    (Averaging A and B separately would be wrong: mean(B) mean(A) is not mean(B A).) Parts may have different
    ranks and different layers.

    Returns:
        A (r, in) and B (out, r) by layer, where r is the sum of the parts' ranks.
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
    """The weighted sum, with the ranks by which `toolkit.sampling.masked_loras` separates the parts again.

    When sampling, each LoRA acts only where its subject is. (FreeFuse, arXiv 2510.23515, does this for image
    models.)

    Raises:
        CastmixError: A part names no subject, or `job.rank` is given.
    """
    if job.rank is not None:
        raise CastmixError("masked fusion keeps every LoRA at its own rank: leave --rank out")
    unnamed = [part.name for part in parts if not part.subjects]
    if unnamed:
        raise CastmixError(
            f"{', '.join(unnamed)} has no subjects: give --subjects once per LoRA, in the order of the LoRAs"
        )
    ranks = [{layer: a.shape[0] for layer, (a, _) in part.lora.tensors.items()} for part in parts]
    return concatenate(parts), {"ranks": ranks}


def svd(parts: Sequence[Part], job: Job) -> tuple[Tensors, Facts]:
    """The weighted sum, truncated in each layer to rank `job.rank`. Default: the largest rank of the parts.

    The truncated SVD is the nearest matrix of this rank (Eckart and Young 1936).
    """
    rank = _checked_rank(job.rank) or max(part.lora.rank for part in parts)
    return truncate(concatenate(parts), rank)


def truncate(tensors: Tensors, rank: int) -> tuple[Tensors, Facts]:
    """Truncate each layer's B A to the nearest matrix of this rank; also returns the relative error.

    Errors are Frobenius norms. It works on the factors; the full matrix of a layer is never formed.
    """
    made: Tensors = {}
    kept, lost = {}, {}
    for layer, (a, b) in tensors.items():
        # B A = Qb (Rb Ra') Qa', and Rb Ra' is a small (rank, rank) matrix
        qa, ra = torch.linalg.qr(a.double().mT)
        qb, rb = torch.linalg.qr(b.double())
        u, s, vh = torch.linalg.svd(rb @ ra.mT)
        made[layer] = _balanced_factors(qb @ u, s, vh @ qa.mT, rank)
        kept[layer], lost[layer] = (float(part.square().sum()) for part in (s[:rank], s[rank:]))
    return made, _truncation_error(kept, lost)


def ties(parts: Sequence[Part], job: Job) -> tuple[Tensors, Facts]:
    """TIES-Merging (Yadav et al. 2023) of the full matrices B A: trim, elect signs, average agreeing values.

    A value that only one LoRA has is not scaled down. So start with weights of 1 for any number of LoRAs.
    """
    return _sparse_merge(parts, job, "ties")


def dare(parts: Sequence[Part], job: Job) -> tuple[Tensors, Facts]:
    """DARE (Yu et al. 2024) of the full matrices B A: drop values at random, rescale the rest, add."""
    return _sparse_merge(parts, job, "dare_linear")


def _sparse_merge(
    parts: Sequence[Part], job: Job, kind: Literal["ties", "dare_linear"]
) -> tuple[Tensors, Facts]:
    """Merge full matrices, then truncate to `job.rank`. Default: the sum of the parts' ranks."""
    from toolkit.lora.layers import merge

    rank, sparse = _checked_rank(job.rank), job.sparse
    if not 0 < sparse.density <= 1:
        raise CastmixError(f"sparse.density must be above 0 and at most 1, got {sparse.density:g}")
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
        made[layer] = _balanced_factors(u, s, vh, most)
        kept[layer], lost[layer] = (float(part.square().sum()) for part in (s[:most], s[most:]))
    return made, _truncation_error(kept, lost)


def _balanced_factors(u: Tensor, s: Tensor, vh: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r), each with the square root of the singular values; float32 on the CPU."""
    rank = min(rank, len(s))
    root = s[:rank].sqrt()
    return (root.unsqueeze(1) * vh[:rank]).float().cpu(), (u[:, :rank] * root).float().cpu()


def _checked_rank(rank: int | None) -> int | None:
    if rank is not None and rank < 1:
        raise CastmixError(f"rank must be 1 or more, got {rank}")
    return rank


def _truncation_error(kept: Mapping[str, float], lost: Mapping[str, float]) -> Facts:
    """Relative error over all layers, and the layer with the largest relative error.

    kept, lost: sums of squared singular values by layer.
    """
    error = {layer: math.sqrt(lost[layer] / (kept[layer] + lost[layer] or 1.0)) for layer in kept}
    worst = max(error, key=lambda layer: error[layer])
    everything = sum(kept.values()) + sum(lost.values())
    return {
        "relative_error": round(math.sqrt(sum(lost.values()) / (everything or 1.0)), 6),
        "worst_layer": worst,
        "worst_layer_error": round(error[worst], 6),
    }
