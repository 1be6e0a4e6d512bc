"""Settings of training, grouped by subject. Light: the command line reads them without torch."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolkit.core.errors import CastmixError
from toolkit.lora.settings import Adapter


@dataclass(frozen=True)
class Optim:
    """The optimiser.

    Attributes:
        name: adamw, or adamw8bit (bitsandbytes), whose state takes a quarter of the memory.
        lr: Learning rate after the warm-up.
        betas: AdamW's beta1 and beta2.
        weight_decay: AdamW's weight decay.
        warmup: Steps over which the learning rate rises linearly from 0.
        schedule: Learning rate after the warm-up: constant, or a cosine that falls to 0 at the last step.
        grad_clip: Largest norm of the gradient; larger gradients are scaled down to it. 0 turns clipping off.
    """

    name: Literal["adamw", "adamw8bit"] = "adamw"
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 20
    schedule: Literal["constant", "cosine"] = "constant"
    grad_clip: float = 1.0


def check_optim(optim: Optim) -> None:
    """Check the settings of the optimiser.

    Raises:
        CastmixError: betas out of range.
    """
    if not all(0 <= beta < 1 for beta in optim.betas):
        raise CastmixError(f"optim.betas must be two numbers of 0 or more and below 1, got {optim.betas}")


@dataclass(frozen=True)
class Sigma:
    """Distribution of the noise levels: sigmoid(normal(mean, std)), then shifted.

    Attributes:
        mean: Mean of the normal distribution. A higher mean gives higher noise levels.
        std: Standard deviation of the normal distribution.
        shift: Moves noise levels towards 1 (pure noise). Default: the model's setting.
    """

    mean: float = 0.0
    std: float = 1.0
    shift: float | None = None

    def shift_or(self, default: float) -> float:
        """The shift, or `default` (the model's setting) if none is set."""
        return default if self.shift is None else self.shift


@dataclass(frozen=True)
class Batches:
    """What a batch contains.

    Attributes:
        batch_size: Clips per step, over all processes.
        preserve: Folder of cached clips that look like the base model's own training data. Training on some
            of them preserves what the base model knows.
        preserve_share: Share of these clips in the batches, from 0 to below 1. 0.2 equals VideoMage's lambda
            of 0.25.
        composites: Ratio of composites to originals: 0.1 is one composite for ten originals, 0 leaves
            composites out. Default: all clips are drawn alike.
        caption_dropout: Share of clips trained with an empty prompt, which guidance needs.
        holdout: Clips of each folder held out for validation: a share below 1, or a number of clips.
    """

    batch_size: int = 4
    preserve: Path | None = None
    preserve_share: float = 0.2
    composites: float | None = None
    caption_dropout: float = 0.1
    holdout: float = 0.1


@dataclass(frozen=True)
class Motion:
    """How a motion is learned without the appearance of its clip (objective motion).

    Attributes:
        omega: Strength of the negative guidance: (1 + omega) times the true velocity, minus omega times the
            base model's prediction for the appearance prompt, is the training target. 0 is plain training.
        appearance: Prompt describing the clip's static appearance; the base model's prediction for it is
            subtracted from the training target. {subjects} is replaced by the special tokens.
        tokens: LoRA file with the special tokens of the clip's subjects (see castmix learn-tokens).
        debiased: Weight of the error relative to a random frame, in which errors common to all frames cancel
            in part (MotionDirector uses 1).
        adjacent: Weight of 1 - cos between the frame-to-frame changes of prediction and target.
    """

    omega: float = 0.5
    appearance: str = "A static video of {subjects}."
    tokens: Path | None = None
    debiased: float = 0.0
    adjacent: float = 0.0


ObjectiveName = Literal["velocity", "motion"]


@dataclass(frozen=True)
class Objective:
    """The training objective.

    Attributes:
        name: velocity trains on clips as they are; motion trains on their motion without their appearance.
        sigma: Distribution of the noise levels.
        motion: Settings of the objective motion.
    """

    name: ObjectiveName = "velocity"
    sigma: Sigma = Sigma()
    motion: Motion = Motion()


@dataclass(frozen=True)
class Memory:
    """Memory against time.

    Attributes:
        checkpointing: Recompute each block's activations in the backward pass instead of keeping them.
        precision: Precision of the forward and backward pass. auto is bfloat16 on a GPU and float32 on a CPU.
            A CPU that only emulates bfloat16 computes in float32. The LoRA is always float32.
        compile: Compile the blocks with torch.compile. The first step takes longer.
    """

    checkpointing: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False


def can_compile() -> bool:
    """Whether torch.compile finds the C++ compiler that it needs on a CPU."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


@dataclass(frozen=True)
class Watch:
    """Checkpoints, validation and sample videos. They do not change the result.

    Attributes:
        save_every: Steps between checkpoints. One is also saved at the end and on Ctrl-C. 0: only those.
        validate_every: Steps between validations on the clips held out, which also run before the first step
            and at the end. 0: never.
        sample_prompts: Prompts of the sample videos.
        sample_every: Steps between sample videos, which are also made before the first step and at the end.
            0: never.
        sample_steps: Denoising steps of a sample video. Default: the model's setting.
    """

    save_every: int = 100
    validate_every: int = 100
    sample_prompts: tuple[str, ...] = ()
    sample_every: int = 250
    sample_steps: int | None = None


@dataclass(frozen=True)
class MotionTraining:
    """How `castmix learn-motion` trains the LoRA.

    Attributes:
        batch_size: Noise levels per step.
        adapter: The LoRA.
        optim: The optimiser.
        sigma: Distribution of the noise levels. By default high levels, which decide the motion.
        motion: How the appearance is subtracted.
        memory: Memory against time.
    """

    batch_size: int = 4
    adapter: Adapter = Adapter(targets=("motion-qk",))
    optim: Optim = Optim()
    sigma: Sigma = Sigma(shift=5.0)
    motion: Motion = Motion()
    memory: Memory = Memory()


@dataclass(frozen=True)
class Textual:
    """How a subject's special token is learned from a picture (textual inversion).

    Attributes:
        kind: output adds the learned vector to the text encoder's output for the class noun. input adds it to
            the encoder's input, so the encoder runs in every step.
        steps: Optimiser steps for each subject.
        lr: Learning rate, relative to the size of the noun's embedding.
        batch_size: Noise levels per step.
        background: Weight of the loss on the white background. 1 is plain textual inversion.
        prompt: Prompt of the picture; {subject} is replaced by the token.
        frames: Length of the still video made from the picture, 4k+1 frames. Wan accepts single pictures; the
            sandbox's base model was only trained on clips of 17 frames.
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
    """How a verb's special token is learned from clips of the motion.

    Attributes:
        steps: Optimiser steps for each verb.
        lr: Learning rate, relative to the size of the words' embeddings. It falls in a cosine.
        batch_size: Noise levels per step.
        repeat: How many times the initial words are repeated. Each repetition adds vectors to learn.
    """

    steps: int = 250
    lr: float = 0.05
    batch_size: int = 6
    repeat: int = 3
