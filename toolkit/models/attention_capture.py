"""Looking into a Wan transformer's attention: the queries and keys of chosen blocks.

While it is looked into, the transformer's own forward runs over a shorter list of blocks, in which the
watched ones are wrapped. A wrapped block stays wrapped in the graph: a checkpointed one runs again in the
backward pass exactly as it ran forward, whether the tap is still open or not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.models.interfaces import Read, Taps


@dataclass(eq=False)
class Tap:
    """What is watched, and where it is written to while a forward pass runs (`recording`)."""

    cross: frozenset[int]
    temporal: frozenset[int]
    stop_after: int | None
    read: Read | None
    taps: Taps = field(default_factory=Taps)
    recording: bool = False

    def write(self, kind: str, layer: int, q: Tensor, k: Tensor) -> None:
        """Read what a block showed, and keep it unless the block only runs again for its gradient."""
        shown = (q, k) if self.read is None else self.read(kind, layer, q, k)
        if not self.recording:
            return
        if isinstance(shown, Tensor):
            self.taps.maps[kind, layer] = shown
        else:
            (self.taps.cross if kind == "cross" else self.taps.temporal)[layer] = shown


def new_tap(
    module: Any,
    cross: Collection[int],
    temporal: Collection[int],
    stop_after: int | None,
    read: Read | None,
) -> Tap:
    """A tap for these blocks.

    Raises:
        CastmixError: no such block, one behind the last that runs, or fused projections.
    """
    count = len(module.blocks)
    watched = {*cross, *temporal} | ({stop_after} if stop_after is not None else set())
    if absent := sorted(layer for layer in watched if not 0 <= layer < count):
        raise CastmixError(f"no block {', '.join(map(str, absent))}: this model has blocks 0 to {count - 1}")
    if stop_after is not None and max(watched) > stop_after:
        raise CastmixError(
            f"block {max(watched)} is tapped, but the forward stops after block {stop_after}: "
            f"stop_after must be {max(watched)} or more"
        )
    for layer in sorted({*cross, *temporal}):
        block = module.blocks[layer]
        if any(getattr(part, "fused_projections", False) for part in (block.attn1, block.attn2)):
            raise CastmixError(
                f"block {layer} has fused projections, which LoRA goes past: call unfuse_qkv_projections()"
            )
    return Tap(frozenset(cross), frozenset(temporal), stop_after, read)


@contextlib.contextmanager
def tapped(module: Any, tap: Tap) -> Iterator[None]:
    """Run the transformer over wrapped blocks, up to the last one wanted; what they show is recorded."""
    blocks = module.blocks
    shown = [
        TappedBlock(block, layer, tap) if layer in tap.cross | tap.temporal else block
        for layer, block in enumerate(blocks)
        if tap.stop_after is None or layer <= tap.stop_after
    ]
    module.blocks, tap.recording = torch.nn.ModuleList(shown), True
    try:
        yield
    finally:
        module.blocks, tap.recording = blocks, False


class TappedBlock(torch.nn.Module):
    """A transformer block that shows the queries and keys of its attention; its output is the block's own."""

    def __init__(self, block: Any, layer: int, tap: Tap) -> None:
        super().__init__()
        self.block, self.layer, self.tap = block, layer, tap

    def forward(
        self, hidden_states: Tensor, text: Tensor, temb: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The block, and then what was seen in it, as diffusers calls a block."""
        with contextlib.ExitStack() as stack:
            if getattr(self.block, "_compiled_call_impl", None) is not None:
                # a compiled block would not notice the hooks
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            kinds = {"cross": self.tap.cross, "temporal": self.tap.temporal}
            attention = {"cross": self.block.attn2, "temporal": self.block.attn1}
            seen = {
                kind: stack.enter_context(_watched(attention[kind]))
                for kind, layers in kinds.items()
                if self.layer in layers
            }
            output: Tensor = self.block(hidden_states, text, temb, rotary)
        for kind, (q, k, *_) in seen.items():  # an adapter's gate may run an attention several times
            if kind == "temporal":
                q, k = rotated(q, *rotary), rotated(k, *rotary)
            self.tap.write(kind, self.layer, q.transpose(1, 2), k.transpose(1, 2))
        return output


@contextlib.contextmanager
def _watched(attention: Any) -> Iterator[list[Tensor]]:
    """Queries and keys after their norms, as heads (B, N, heads, d); the list is filled as the layer runs."""
    seen: list[Tensor] = []

    def look(module: torch.nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen.append(output.reshape(*output.shape[:2], attention.heads, -1))

    hooks = [attention.norm_q.register_forward_hook(look), attention.norm_k.register_forward_hook(look)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021) as Wan applies them: neighbouring channels are the pairs.

    x: (B, N, heads, d). cos, sin: (1, N, 1, d), each angle twice.
    """
    even, odd = x[..., 0::2], x[..., 1::2]
    c, s = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([even * c - odd * s, even * s + odd * c], -1).flatten(-2).type_as(x)
