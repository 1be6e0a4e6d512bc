"""The knobs of training and of evaluation, by subject: each function takes only the group that it uses."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


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


@dataclass(frozen=True)
class Optim:
    """How the weights move.

    Attributes:
        name: adamw, or adamw8bit (bitsandbytes) with a quarter of the state.
        lr: Learning rate after the warm-up.
        betas: Of AdamW.
        weight_decay: Of AdamW.
        warmup: Steps over which the rate rises linearly from nothing.
        schedule: After the warm-up: constant, or a cosine down to nothing at the last step.
        grad_clip: Largest norm of the gradient; 0 never clips.
    """

    name: Literal["adamw", "adamw8bit"] = "adamw"
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 20
    schedule: Literal["constant", "cosine"] = "constant"
    grad_clip: float = 1.0


@dataclass(frozen=True)
class Sigma:
    """Which noise levels are trained: sigmoid(normal(mean, std)), then shifted.

    Attributes:
        mean: Of the normal; above 0 means more noise.
        std: Of the normal.
        shift: Moves levels towards noise; none takes the model's own, at which it also samples.
    """

    mean: float = 0.0
    std: float = 1.0
    shift: float | None = None


@dataclass(frozen=True)
class Motion:
    """How a motion is learned without the looks of its clip (objective motion).

    Attributes:
        omega: How much of what the base expects of the appearance prompt is taken away from the target; 0
            is plain training.
        appearance: The appearance prompt: who is there, standing still. {subjects} becomes the tokens.
        tokens: A file with the special tokens of the clip's subjects (castmix invert makes it).
        debiased: Weight of the error relative to a frame drawn at random, in which looks cancel
            (MotionDirector has 1).
        adjacent: Weight of the angle between the changes from frame to frame and what they should be.
    """

    omega: float = 0.5
    appearance: str = "A static video of {subjects}."
    tokens: Path | None = None
    debiased: float = 0.0
    adjacent: float = 0.0


@dataclass(frozen=True)
class Textual:
    """How a special token is learned from a picture (textual inversion).

    Attributes:
        kind: output adds the vector to what the text encoder makes of the class noun; input to what goes into
            it, so that the encoder runs in every step.
        steps: Optimiser steps for each subject.
        lr: Learning rate, relative to the size of the noun's own embedding.
        batch_size: Noise levels a step.
        background: Weight of the loss beside the subject, where the picture is white. 1 is plain textual
            inversion.
        prompt: Of the picture; {subject} is the token.
        frames: How long the picture stands, 4k+1 frames. Wan knows single pictures; the sandbox's base has
            only seen clips of 17 frames.
    """

    kind: Literal["output", "input"] = "output"
    steps: int = 300
    lr: float = 1e-2
    batch_size: int = 4
    background: float = 0.1
    prompt: str = "A picture of {subject} on a white background."
    frames: int = 1


@dataclass(frozen=True)
class Verb:
    """How a special token for a motion is learned from clips.

    Attributes:
        steps: Optimiser steps for each verb.
        lr: Learning rate, relative to the size of the words' own embedding; it falls in a cosine.
        batch_size: Noise levels a step.
        repeat: How often the words that it begins as are written: more vectors that can be learned.
    """

    steps: int = 250
    lr: float = 0.05
    batch_size: int = 6
    repeat: int = 3


@dataclass(frozen=True)
class Memory:
    """Memory against time.

    Attributes:
        checkpointing: Compute each block again in the backward pass instead of keeping its activations.
        precision: Of the forward and backward pass; auto is bfloat16 on a GPU and float32 on a CPU. The
            LoRA itself is float32 always.
        compile: Compile the blocks with torch.compile; the first step waits for it.
    """

    checkpointing: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False


def can_compile() -> bool:
    """Whether torch.compile finds the C++ compiler that it needs on a CPU."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


@dataclass(frozen=True)
class Watch:
    """What is looked at while training; none of it changes the result.

    Attributes:
        validate_every: Steps between losses on the clips held back (also before the first step and at the
            end); 0 never.
        sample_every: Steps between videos of sample_prompts (also at the end); 0 never.
        sample_steps: Denoising steps of such a video; none takes the model's own.
    """

    validate_every: int = 100
    sample_every: int = 250
    sample_steps: int | None = None


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


@dataclass(frozen=True)
class Collaboration:
    """How the subject and the motion branch sample together (sampler scs or scs-lite).

    Attributes:
        eta: How far a guided step moves each branch, relative to its latents' own size.
        alpha: A constant step on the mean squared difference of the maps instead, whatever the resolution
            makes of it. The paper's 1e4 belongs to its own resolution and model.
        freeze: Keep the alpha that eta gave at the first guided step: later pulls shrink as maps agree.
        sigma_window: Noise levels that are guided: above the first, up to the second.
        every: Guide only every k-th step in there.
        beta_subject: Share of the subject branch in each step at noise level 1 and at 0, linear between.
        beta_motion: Share of the motion branch likewise; only the ratio of both counts.
        spatial: The motion branch follows where the subject branch sees the subjects (scs only).
        temporal: The subject branch follows when things move in the motion branch.
        window: Sites around each site in whose frames it looks for what moves; 0 is the site alone.
        inversion: Share of the motion clip's inverted noise in the initial noise.
        iterations: Forwards a level while inverting: 1 next point, 2 or 3 fixed point, more exact.
        checkpointing: Compute blocks again in the backward pass instead of keeping activations; none does
            so on a GPU only.
        keep_maps: Write the spatial maps of guided steps beside the video.
    """

    eta: float = 0.02
    alpha: float | None = None
    freeze: bool = False
    sigma_window: tuple[float, float] = (0.77, 1.0)
    every: int = 1
    beta_subject: tuple[float, float] = (0.5, 0.5)
    beta_motion: tuple[float, float] = (0.5, 0.5)
    spatial: bool = True
    temporal: bool = True
    window: int = 0
    inversion: float = 0.3
    iterations: int = 1
    checkpointing: bool | None = None
    keep_maps: bool = False
