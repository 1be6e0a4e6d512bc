"""The knobs of training and of evaluation, by subject: each function takes only the group that it uses."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


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
        tokens: A file with the special tokens of the clip's subjects (castmix learn-tokens makes it).
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
