"""Captures queries and keys of chosen blocks of a Wan transformer.

During a captured forward pass, the transformer's list of blocks is replaced: chosen blocks are wrapped, and
blocks after the last wanted one are left out. The autograd graph refers to the wrapped blocks. A checkpointed
block is therefore recomputed in the backward pass exactly as in the forward pass, even after the capture has
ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.models.interfaces import CapturedAttention, Reduce


@dataclass(eq=False)
class AttentionCapture:
    """The captured blocks, and the result. Results are stored only while `recording`, in the forward pass.

    Attributes:
        cross: Blocks whose cross-attention is captured.
        temporal: Blocks whose self-attention is captured.
        stop_after: Last block that runs, or None for all.
        reduce: Function that reduces q and k to a smaller result, or None to keep q and k.
        captured: The result of the last forward pass.
        recording: True during a forward pass.
    """

    cross: frozenset[int]
    temporal: frozenset[int]
    stop_after: int | None
    reduce: Reduce | None
    captured: CapturedAttention = field(default_factory=CapturedAttention)
    recording: bool = False

    def store(self, kind: str, layer: int, q: Tensor, k: Tensor) -> None:
        """Reduce a block's q and k and store the result. Nothing is stored in a recomputation."""
        kept = (q, k) if self.reduce is None else self.reduce(kind, layer, q, k)
        if not self.recording:
            return
        if isinstance(kept, Tensor):
            self.captured.maps[kind, layer] = kept
        else:
            (self.captured.cross if kind == "cross" else self.captured.temporal)[layer] = kept


def new_capture(
    module: Any,
    cross: Collection[int],
    temporal: Collection[int],
    stop_after: int | None,
    reduce: Reduce | None,
) -> AttentionCapture:
    """Check the block indices and create a capture of these blocks.

    Raises:
        CastmixError: A block does not exist, does not run because of `stop_after`, or has fused projections.
    """
    count = len(module.blocks)
    watched = {*cross, *temporal} | ({stop_after} if stop_after is not None else set())
    if absent := sorted(layer for layer in watched if not 0 <= layer < count):
        raise CastmixError(f"no block {', '.join(map(str, absent))}: this model has blocks 0 to {count - 1}")
    if stop_after is not None and max(watched) > stop_after:
        raise CastmixError(
            f"block {max(watched)} is captured, but the forward pass stops after block {stop_after}: "
            f"stop_after must be {max(watched)} or more"
        )
    for layer in sorted({*cross, *temporal}):
        block = module.blocks[layer]
        if any(getattr(part, "fused_projections", False) for part in (block.attn1, block.attn2)):
            raise CastmixError(
                f"block {layer} has fused projections, which bypass LoRA: call unfuse_qkv_projections() first"
            )
    return AttentionCapture(frozenset(cross), frozenset(temporal), stop_after, reduce)


@contextlib.contextmanager
def capturing(module: Any, capture: AttentionCapture) -> Iterator[None]:
    """Replace the transformer's blocks by wrapped ones, up to `stop_after`, and record their attention."""
    blocks = module.blocks
    kept = [
        CapturingBlock(block, layer, capture) if layer in capture.cross | capture.temporal else block
        for layer, block in enumerate(blocks)
        if capture.stop_after is None or layer <= capture.stop_after
    ]
    module.blocks, capture.recording = torch.nn.ModuleList(kept), True
    try:
        yield
    finally:
        module.blocks, capture.recording = blocks, False


class CapturingBlock(torch.nn.Module):
    """Wraps a transformer block and captures queries and keys of its attention. The output is unchanged."""

    def __init__(self, block: Any, layer: int, capture: AttentionCapture) -> None:
        super().__init__()
        self.block, self.layer, self.capture = block, layer, capture

    def forward(
        self, hidden_states: Tensor, text: Tensor, temb: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Run the block and store its captured attention. The signature is that of diffusers' blocks."""
        with contextlib.ExitStack() as stack:
            if getattr(self.block, "_compiled_call_impl", None) is not None:
                # A compiled block would ignore the hooks.
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            kinds = {"cross": self.capture.cross, "temporal": self.capture.temporal}
            attention = {"cross": self.block.attn2, "temporal": self.block.attn1}
            seen = {
                kind: stack.enter_context(_watched(attention[kind]))
                for kind, layers in kinds.items()
                if self.layer in layers
            }
            output: Tensor = self.block(hidden_states, text, temb, rotary)
        for kind, (q, k, *_) in seen.items():  # a token gate may run an attention layer several times
            if kind == "temporal":
                q, k = rotated(q, *rotary), rotated(k, *rotary)
            self.capture.store(kind, self.layer, q.transpose(1, 2), k.transpose(1, 2))
        return output


@contextlib.contextmanager
def _watched(attention: Any) -> Iterator[list[Tensor]]:
    """Record queries and keys after their norms, (B, N, heads, d). The list fills while the layer runs."""
    seen: list[Tensor] = []

    def record(module: torch.nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen.append(output.reshape(*output.shape[:2], attention.heads, -1))

    hooks = [attention.norm_q.register_forward_hook(record), attention.norm_k.register_forward_hook(record)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary position embeddings (Su et al. 2021) as Wan does, on pairs of neighbouring channels.

    x: (B, N, heads, d). cos, sin: (1, N, 1, d), each angle twice.
    """
    even, odd = x[..., 0::2], x[..., 1::2]
    c, s = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([even * c - odd * s, even * s + odd * c], -1).flatten(-2).type_as(x)
