"""Adapters that act on some video tokens only."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from toolkit.core.errors import CastmixError
from toolkit.lora.layers import (
    _lora_layers,
)

_ON_VIDEO = re.compile(
    r"blocks\.\d+\.(attn1\.(to_q|to_k|to_v|to_out\.0)|attn2\.(to_q|to_out\.0)|ffn\.(net\.0\.proj|net\.2))|proj_out"
)


_ON_PROMPT = re.compile(r"(blocks\.\d+\.attn2)\.(to_k|to_v)")


@contextlib.contextmanager
def gate(module: torch.nn.Module, shares: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Inside, each adapter acts on a video token only by that token's share: 0 not at all, 1 as it is.

    Its change of every layer that works on video tokens is multiplied by the share. Keys and values of the
    prompt have no place in the picture; so a block's attention to the prompt is computed once with each
    adapter's own, and every token takes its share of each. Activate the adapters too; one without shares
    acts everywhere. Where one has all the shares, the network is exactly that of this adapter alone.

    shares: (B, N) by adapter, N tokens in the network's order (frame, row, column). A batch may be several
        copies of these rows, one behind the other, as guidance runs it.
    """
    whole = bool(shares) and bool((torch.stack(list(shares.values())).sum(0) == 1).all())
    acting: list[str | None] = [None]  # whose keys and values of the prompt; None is everybody's

    def on_video(share: torch.Tensor) -> Any:
        return lambda layer, inputs, output: output * _fitted(share, output)

    def on_prompt(name: str) -> Any:
        return lambda layer, inputs, output: output if acting[0] in (None, name) else 0 * output

    def apart(layer: Any, inputs: Any, named: Any, output: torch.Tensor) -> torch.Tensor:
        def alone(name: str) -> torch.Tensor:
            acting[0] = name
            seen: torch.Tensor = layer.forward(*inputs, **named)
            return seen

        try:
            base = torch.zeros_like(output) if whole else alone("")
            changes = [_fitted(share, output) * (alone(name) - base) for name, share in shares.items()]
            return base + torch.stack(changes).sum(0)
        finally:
            acting[0] = None

    handles = []
    blocks = set()
    for name, share in shares.items():
        for key, layer in _lora_layers(module, name).items():
            prompted = _ON_PROMPT.fullmatch(key)
            if prompted:
                blocks.add(prompted[1])
            if prompted or _ON_VIDEO.fullmatch(key):
                hook = on_prompt(name) if prompted else on_video(share)
                handles.append(layer.lora_B[name].register_forward_hook(hook))
    attentions = [module.get_submodule(key) for key in sorted(blocks)]
    handles += [layer.register_forward_hook(apart, with_kwargs=True) for layer in attentions]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fitted(share: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Shares (B, N) for a batch of copies, (copies B, N, 1)."""
    copies = len(output) // len(share)
    if output.shape[:2] != (copies * len(share), share.shape[1]):
        raise CastmixError(
            f"shares are for {tuple(share.shape)} (batch, tokens), the network has {tuple(output.shape[:2])}"
        )
    return share.to(output).repeat(copies, 1).unsqueeze(-1)
