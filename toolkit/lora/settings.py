"""Settings of LoRAs. Light: the command line reads it without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["lora", "subject", "motion"]
"""What a LoRA is for: everything (lora), or one branch of collaborative sampling."""


@dataclass(frozen=True)
class Adapter:
    """The LoRA that is trained.

    Attributes:
        rank: Rank of each layer's change.
        alpha: The change is scaled by alpha / rank.
        targets: Which linear layers of every block: attn1 (self-attention), attn2 (attention to the
            prompt), ffn; or a preset, motion-qk (queries and keys of attn1), motion-vo (values and output of
            attn1, and ffn), subject (attn2 and ffn).
        heads: temporal restricts the change of attn1 to the heads that look along time, found by a look at
            the base model; none takes all.
        save_dtype: Numbers in lora.safetensors; bfloat16 halves the file.
    """

    rank: int = 32
    alpha: float = 32.0
    targets: tuple[str, ...] = ("attn1", "attn2", "ffn")
    heads: Literal["temporal"] | None = None
    save_dtype: Literal["float32", "bfloat16"] = "float32"
