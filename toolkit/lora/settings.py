"""Settings of LoRAs. Light: the command line reads it without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TOKENS = "castmix.tokens"
"""Metadata key of special tokens: JSON, {token: {noun, kind}}. In a file each has its vector, too."""

LORA_FILE = "lora.safetensors"
"""The LoRA in the folder of a run."""

Role = Literal["lora", "subject", "motion"]
"""What a LoRA is for: everything (lora), or one branch of collaborative sampling."""


def lora_file(path: Path) -> Path:
    """The LoRA file that a path names: the file itself, or the one in the folder of a run."""
    return path / LORA_FILE if path.is_dir() else path


@dataclass(frozen=True)
class Adapter:
    """The LoRA.

    Attributes:
        rank: Rank of each layer's change.
        alpha: Each change is scaled by alpha / rank.
        targets: Linear layers of every block that the LoRA changes: attn1 (self-attention), attn2
            (cross-attention to the prompt), ffn. Or a preset: motion-qk (queries and keys of attn1),
            motion-vo (values and output of attn1, and ffn), subject (attn2 and ffn).
        heads: temporal limits the change of attn1 to heads that attend along time, which castmix measures on
            the base model first. Default: all heads.
        tokens: LoRA file with special tokens that captions use (see castmix learn-tokens). The trained LoRA
            contains them, too.
        save_dtype: Number format of lora.safetensors; bfloat16 halves the file.
    """

    rank: int = 32
    alpha: float = 32.0
    targets: tuple[str, ...] = ("attn1", "attn2", "ffn")
    heads: Literal["temporal"] | None = None
    tokens: Path | None = None
    save_dtype: Literal["float32", "bfloat16"] = "float32"
