"""How a prompt becomes a video: encode it, denoise from noise to latents, decode them to frames.

`encode_job` and `sample_videos` are called by `session.Studio`, in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from toolkit.captions.cast import read_cast
from toolkit.core.errors import CastmixError
from toolkit.lora.loading import LoraSet
from toolkit.lora.plain_words import class_nouns, in_plain_words
from toolkit.lora.special_tokens import encode_prompts
from toolkit.models.flow_matching import sigma_schedule
from toolkit.models.interfaces import Denoiser, Encoders, Geometry, ModelSpec
from toolkit.models.registry import shape_of
from toolkit.sampling.collaborative import StepReport
from toolkit.sampling.denoise import denoise, initial_noise
from toolkit.sampling.noise_inversion import clip_caption, mix_noise, motion_noise
from toolkit.sampling.output import Video, new_video
from toolkit.sampling.prompt_encoding import EncodedPrompts, encode_request
from toolkit.sampling.request import Request, note_prompts
from toolkit.sampling.samplers import Network, kept_maps, log_lines, velocity_of


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A base model in memory.

    Attributes:
        spec: Its name, path and defaults.
        geometry: How latents relate to frames.
        base: Fingerprint of the network.
        encoders: Text encoder and VAE.
        denoiser: The network with the LoRAs attached.
    """

    spec: ModelSpec
    geometry: Geometry
    base: str
    encoders: Encoders
    denoiser: Denoiser


@dataclass(frozen=True, eq=False)
class Job:
    """Encoded prompts with the settings to sample them.

    Attributes:
        texts: The prompts.
        request: The settings.
        prompts: The encoded prompts.
        caption: (1, L, D), the motion clip's caption; None without a clip.
        inverted: The motion clip's noise, once it has been computed.
    """

    texts: tuple[str, ...]
    request: Request
    prompts: EncodedPrompts
    caption: Tensor | None
    inverted: list[Tensor] = field(default_factory=list)


def encode_job(
    spec: ModelSpec, encoders: Encoders, loras: LoraSet, prompts: Sequence[str], request: Request
) -> Job:
    """Encode prompts. Print notes about prompts that the LoRAs do not know or that are too long.

    Raises:
        CastmixError: a subject is not named, has no noun, or the LoRAs do not fit the sampler.
    """
    note_prompts(prompts, [file.metadata for file in loras.files])
    encoded = encode_request(spec, encoders, prompts, loras, request)
    return Job(tuple(prompts), request, encoded, _caption(encoders, loras, request))


def sample_videos(
    job: Job,
    model: LoadedModel,
    loras: LoraSet,
    rows: range,
    seeds: Sequence[int],
    tick: Callable[[], object],
) -> list[Video]:
    """Videos of some prompts of a job, sampled as one batch.

    rows: Which prompts. seeds: One for each. tick: Called after each step.

    Raises:
        CastmixError: a seed out of range, or a size that the model cannot make.
    """
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise CastmixError(f"seed must be between 0 and 2^63 - 1, got {seed}")
    numbers = job.request.numbers
    noise = initial_noise(seeds, shape_of(model.geometry, *numbers.size))
    if job.caption is not None:
        noise = mix_noise(_inverted(job, model), noise, job.request.collaboration.inversion)
    noise = noise.to(model.denoiser.device)
    sigmas = sigma_schedule(numbers.steps, numbers.shift).to(noise.device)
    reports: list[StepReport] = []
    network = Network(model.denoiser, loras, job.request)
    velocity = velocity_of(network, job.prompts.rows(rows), noise, sigmas, reports.append)
    latents = denoise(velocity, noise, sigmas, lambda step, latents: tick())
    videos = []
    for k, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
        decoded = model.encoders.decode_video(latents[k : k + 1])[0]
        facts = {"prompt": job.texts[row], "seed": seed, **_facts(job, model, loras, row)}
        videos.append(new_video(decoded, model.spec.fps, facts, **_records(job, row, reports, k)))
    return videos


def _caption(encoders: Encoders, loras: LoraSet, request: Request) -> Tensor | None:
    """The motion clip's caption in words that the base model knows, (1, L, D); None without a clip."""
    clip = request.sampling.motion_clip
    if clip is None or request.collaboration.inversion == 0:
        return None
    nouns = {**class_nouns(loras.files, read_cast()), **request.words}
    return encode_prompts(encoders, [in_plain_words(clip_caption(clip), nouns)], ())


def _inverted(job: Job, model: LoadedModel) -> Tensor:
    """The motion clip's noise (1, C, f, h, w), computed once for a job."""
    numbers = job.request.numbers
    clip = job.request.sampling.motion_clip
    assert clip is not None
    assert job.caption is not None
    if not job.inverted:
        noise = motion_noise(
            clip,
            model.spec,
            model.encoders,
            model.denoiser,
            job.caption,
            size=numbers.size,
            steps=numbers.steps,
            shift=numbers.shift,
            iterations=job.request.collaboration.iterations,
        )
        job.inverted.append(noise)
    return job.inverted[0]


def _facts(job: Job, model: LoadedModel, loras: LoraSet, row: int) -> dict[str, Any]:
    """A video's JSON file without prompt and seed: model, settings, LoRAs."""
    prompts, request = job.prompts, job.request
    return {
        **({"motion_prompt": prompts.motion_prompts[row]} if prompts.motion_prompts else {}),
        "model": model.spec.name,
        "model_fingerprint": model.base or None,
        **request.facts(),
        "fps": model.spec.fps,
        "loras": [reference.facts() for reference in loras.references],
        **request.collaboration_facts(),
        **({"masked": asdict(request.masked)} if loras.confined else {}),
    }


def _records(job: Job, row: int, reports: Sequence[StepReport], k: int) -> dict[str, Any]:
    """The log of collaborative sampling of the k-th video of a batch, and its maps if they are kept."""
    if not job.prompts.motion_prompts:
        return {}
    records: dict[str, Any] = {"log": tuple(log_lines(reports, k))}
    if job.request.collaboration.keep_maps:
        records |= {"maps": kept_maps(reports, k), "subjects": job.prompts.branch_subjects[row]}
    return records
