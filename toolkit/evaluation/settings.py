"""Settings of metrics and judges."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Features:
    """The models whose features are compared.

    Attributes:
        clip: A CLIP model, for clip_t, clip_i and temporal_consistency: a folder, or a hub id that was
            fetched before.
        dino: A DINO or DINOv2 model, for dino_i; likewise.
        device: Where they run: cpu, cuda, cuda:1; left out, a GPU if there is one.
        batch_size: Frames at a time.
    """

    clip: str = "openai/clip-vit-base-patch32"
    dino: str = "facebook/dinov2-base"
    device: str | None = None
    batch_size: int = 32


@dataclass(frozen=True)
class Judge:
    """The vision-language model that judges.

    Attributes:
        model: Its name on the server; else from CASTMIX_VLM_MODEL.
        frames: How many frames of a video it sees, evenly spaced from the first to the last.
        repeats: How often each question is asked, 3 or more. Answers are made at temperature 0: what they
            differ by is the server's own noise.
        timeout: Seconds to wait for one answer.
        retries: How often to ask again after a failure of the server.
    """

    model: str | None = None
    frames: int = 8
    repeats: int = 3
    timeout: float = 120.0
    retries: int = 4
