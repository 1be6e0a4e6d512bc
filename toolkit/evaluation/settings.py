"""Settings of the CLIP and DINO metrics and of the VLM judge."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Features:
    """The models of the CLIP and DINO metrics.

    Attributes:
        clip: CLIP model for clip_t, clip_i and temporal_consistency: a folder, or the hub id of a downloaded
            model.
        dino: DINO or DINOv2 model for dino_i, likewise.
        device: Device of the models: cpu, cuda, cuda:1. Default: a GPU if there is one.
        batch_size: Frames per forward pass.
    """

    clip: str = "openai/clip-vit-base-patch32"
    dino: str = "facebook/dinov2-base"
    device: str | None = None
    batch_size: int = 32


@dataclass(frozen=True)
class Judge:
    """The vision-language model that grades videos.

    Attributes:
        model: Name of the model on the server. Default: CASTMIX_VLM_MODEL.
        frames: Number of frames that it sees, evenly spaced from the first to the last.
        repeats: How often each question is asked, 3 or more. Answers are sampled at temperature 0, so they
            differ only by the server's nondeterminism.
        timeout: Seconds to wait for one answer.
        retries: Number of retries after a server failure.
    """

    model: str | None = None
    frames: int = 8
    repeats: int = 3
    timeout: float = 120.0
    retries: int = 4
