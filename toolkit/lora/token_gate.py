"""Adapters that act on some video tokens only: y_p = W x_p + sum over adapters i of m_i(p) B_i A_i x_p."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from toolkit.core.errors import CastmixError
from toolkit.lora.layers import lora_layers

_VIDEO_LAYER = re.compile(
    r"blocks\.\d+\.(attn1\.(to_q|to_k|to_v|to_out\.0)|attn2\.(to_q|to_out\.0)|ffn\.(net\.0\.proj|net\.2))|proj_out"
)
_PROMPT_LAYER = re.compile(r"(blocks\.\d+\.attn2)\.(to_k|to_v)")


@contextlib.contextmanager
def gate(module: torch.nn.Module, shares: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Inside, each adapter's change of a video token is multiplied by the token's share for this adapter.
    Use it inside `lora.layers.activate`. Active adapters without shares act everywhere.

    Keys and values of the prompt belong to no video token. So each block's attention to the prompt is
    computed once per adapter, with that adapter's keys and values; every token takes its share of each
    result. Where an adapter has share 1 and the others 0, the network is exactly that of this adapter alone.

    Args:
        module: The network.
        shares: (B, N) in [0, 1] by adapter: 0 is no effect, 1 the full effect. The N tokens
            are in the order frame, row, column. The network may get several copies of the B rows, one after
            the other, as in classifier-free guidance.

    Raises:
        CastmixError: the network gets another number of tokens or rows.
    """
    sum_to_one = bool(shares) and bool((torch.stack(list(shares.values())).sum(0) == 1).all())
    # The one adapter whose keys and values of the prompt are computed; "" is none of them, None is all.
    only: list[str | None] = [None]

    def zero_unless_chosen(name: str) -> Any:
        return lambda layer, inputs, output: output if only[0] in (None, name) else 0 * output

    def attend_per_adapter(layer: Any, inputs: Any, named: Any, output: torch.Tensor) -> torch.Tensor:
        def attention_with(name: str) -> torch.Tensor:
            only[0] = name
            result: torch.Tensor = layer.forward(*inputs, **named)
            return result

        try:
            # Shares that sum to 1 cancel the base's attention, so it need not be computed.
            base = torch.zeros_like(output) if sum_to_one else attention_with("")
            changes = [
                _share_of_rows(share, output) * (attention_with(name) - base)
                for name, share in shares.items()
            ]
            return base + torch.stack(changes).sum(0)
        finally:
            only[0] = None

    handles = []
    blocks = set()
    for name, share in shares.items():
        for key, layer in lora_layers(module, name).items():
            prompt_layer = _PROMPT_LAYER.fullmatch(key)
            if prompt_layer:
                blocks.add(prompt_layer[1])
            if prompt_layer or _VIDEO_LAYER.fullmatch(key):
                hook = zero_unless_chosen(name) if prompt_layer else _scale_by_share(share)
                handles.append(layer.lora_B[name].register_forward_hook(hook))
    attentions = [module.get_submodule(key) for key in sorted(blocks)]
    handles += [layer.register_forward_hook(attend_per_adapter, with_kwargs=True) for layer in attentions]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _scale_by_share(share: torch.Tensor) -> Any:
    """A forward hook that multiplies each token of a layer's output by its share."""
    return lambda layer, inputs, output: output * _share_of_rows(share, output)


def _share_of_rows(share: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Shares (B, N) repeated for a batch of copies: (copies * B, N, 1), in the type of the output."""
    copies = len(output) // len(share)
    if output.shape[:2] != (copies * len(share), share.shape[1]):
        raise CastmixError(
            f"shares are for {tuple(share.shape)} (batch, tokens), the network has {tuple(output.shape[:2])}"
        )
    return share.to(output).repeat(copies, 1).unsqueeze(-1)
