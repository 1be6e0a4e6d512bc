"""Settings of LoRAs. Light: the command line reads it without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolkit.core.errors import CastmixError

TOKENS = "castmix.tokens"
"""Metadata key of special tokens: JSON, {token: {noun, kind}}. In a file each has its vector, too."""

LORA_FILE = "lora.safetensors"
"""The LoRA in the folder of a run."""

Role = Literal["lora", "subject", "motion"]
"""What a LoRA is for: everything (lora), or one branch of collaborative sampling."""

TARGETS: dict[str, str] = {
    "attn1": r"blocks\.\d+\.attn1\.(to_q|to_k|to_v|to_out\.0)",
    "attn2": r"blocks\.\d+\.attn2\.(to_q|to_k|to_v|to_out\.0)",
    "ffn": r"blocks\.\d+\.ffn\.(net\.0\.proj|net\.2)",
    # Which layers hold motion? DreamRelation: queries and keys; values hold appearance. SMRABooth, on
    # Wan 2.1: values and output. There is a preset for each.
    "motion-qk": r"blocks\.\d+\.attn1\.(to_q|to_k)",
    "motion-vo": r"blocks\.\d+\.(attn1\.(to_v|to_out\.0)|ffn\.(net\.0\.proj|net\.2))",
    "subject": r"blocks\.\d+\.(attn2\.(to_q|to_k|to_v|to_out\.0)|ffn\.(net\.0\.proj|net\.2))",
}
"""Patterns of layer names, by target."""


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


def check_adapter(adapter: Adapter) -> None:
    """Check the settings of a new LoRA.

    Raises:
        CastmixError: a rank below 1, or an unknown target.
    """
    if adapter.rank < 1:
        raise CastmixError(f"adapter.rank must be 1 or more, got {adapter.rank}")
    if unknown := sorted(set(adapter.targets) - set(TARGETS)):
        raise CastmixError(
            f"adapter.targets: unknown {', '.join(unknown)}; choose among {', '.join(TARGETS)}"
        )
