"""`castmix learn-motion`: from one clip to a LoRA of its motion, without the appearance of its subjects."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import yaml

from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import TAG
from toolkit.commands.cache import cache
from toolkit.commands.learn_tokens import learn_tokens, parse_subjects, parse_verbs, spoken_as
from toolkit.commands.prepare import prepare
from toolkit.commands.segment import segment
from toolkit.commands.train import train
from toolkit.core.errors import CastmixError
from toolkit.core.files import write_atomic
from toolkit.core.progress import say, stage
from toolkit.core.run_record import write_run
from toolkit.footage.clips import Clip, read_clips, write_clip, write_index
from toolkit.footage.masks import accepted_mask_names
from toolkit.models.interfaces import ModelSpec
from toolkit.models.registry import find_model
from toolkit.training.appearance_prompt import check_motion
from toolkit.training.settings import Batches, MotionTraining, Objective, Textual, Verb, Watch

CAPTION = "motion_caption"
"""Field of a clip's JSON file: the caption for training. Until then `text` has names for `segment`."""


@dataclass(frozen=True)
class Masking:
    """How the subjects are segmented: see `castmix segment`.

    Attributes:
        backend: Follows a subject through the clip: sam2, sam2-package, carry or truth.
        detect: Finds a subject in one frame: reference, describe, given or truth.
        checkpoint: SAM 2 model: a folder or a downloaded hub id.
        detector: Open-vocabulary model for describe: a folder or a downloaded hub id.
        prompts: For given: a .jsonl file of boxes and points.
        cast: Folder with your own shows that have the subjects. Default: unknown names are described by their
            class nouns.
    """

    backend: str = "sam2"
    detect: str = "describe"
    checkpoint: str = "facebook/sam2.1-hiera-tiny"
    detector: str | None = None
    prompts: Path | None = None
    cast: Path | None = None


def learn_motion(
    clip: Path,
    out: Path,
    *,
    subject: Sequence[str] = (),
    verb: str = "",
    caption: str = "",
    model: str = "sandbox",
    steps: int = 300,
    seed: int = 0,
    masks: Masking = Masking(),
    textual: Textual = Textual(),
    verbs: Verb = Verb(),
    training: MotionTraining = MotionTraining(),
) -> Path:
    """Learn the motion of one clip without its appearance: segment, learn special tokens, train a LoRA.

    Args:
        clip: A video; or a clip made by `castmix prepare`, or a folder of such clips. Their masks are used.
        out: Folder for all results: data, tokens.safetensors, lora. The same command resumes after Ctrl-C.
        subject: Subject whose appearance is subtracted, and its class noun: "Pixo=a star". Without subjects,
            write an appearance prompt (motion.appearance).
        verb: The motion's words in the caption, and known words to start from: "leans back=sways|ducks"
            learns the token <leans-back>, which the LoRA file then contains. Default: no token.
        caption: What happens, in plain words: "a star chases a dog". Default: the clip's own caption, with
            class nouns in the place of names.
        model: sandbox, wan2.1-t2v-1.3b, wan2.1-t2v-14b, a local folder or a hub id.
        steps: Optimiser steps of the LoRA.
        seed: Random seed.
        masks: How the subjects are segmented.
        textual: How the subjects' tokens are learned.
        verbs: How the verb's token is learned.
        training: How the LoRA is trained.

    Returns:
        The path of lora.safetensors.

    Raises:
        CastmixError: no caption, a subject that is not found, or an error of a stage.
    """
    arguments, out = dict(locals()), Path(out)
    spec, data = find_model(model), out / "data"
    subjects, spoken = _read_names(subject, verb, training)
    stage("1/5 The clip and its caption")
    _gather(Path(clip), data, spec)
    _note_captions(data, caption, subjects)
    write_run(out / "run.yaml", "learn-motion", arguments)
    learn = partial(learn_tokens, data, model=model, seed=seed)
    if subjects:
        _segment(data, out / "cast", subjects, masks)
        training = _learn_appearance(learn, out, subject, textual, training)
    _set_captions(data, spoken)
    cache(data, model=model)
    if spoken:
        training = _learn_verb(learn, out, verb, verbs, training)
    path = _train(data, out / "lora", model, steps, seed, training)
    if spoken:
        say(f"in prompts the motion is {', '.join(spoken)}: {read_clips(data)[0].text!r}")
    return path


def _read_names(
    subject: Sequence[str], verb: str, training: MotionTraining
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Class nouns by subject, and words by the verb's token. Finds errors before anything is learned."""
    subjects = dict((parse_subjects(subject) if subject else {}).values())
    spoken = parse_verbs([verb] if verb else [])
    if not subjects:
        check_motion(training.motion)
    if spoken and training.adapter.tokens is not None:
        raise CastmixError("--verb learns its own token: leave out either --verb or --adapter.tokens")
    return subjects, spoken


def _learn_appearance(
    learn: Callable[..., Path], out: Path, subject: Sequence[str], textual: Textual, training: MotionTraining
) -> MotionTraining:
    """Learn the subjects' tokens. Returns the settings with these tokens in the appearance prompt."""
    stage("3/5 A token for the appearance of each subject")
    tokens = learn(out / "tokens.safetensors", subject=list(subject), textual=textual)
    return replace(training, motion=replace(training.motion, tokens=tokens))


def _learn_verb(
    learn: Callable[..., Path], out: Path, verb: str, verbs: Verb, training: MotionTraining
) -> MotionTraining:
    """Learn the verb's token. Returns the settings with this token for captions."""
    stage(f"4/5 A token for the motion, {verb.partition('=')[0]}")
    tokens = learn(out / "verb.safetensors", verb=[verb], verbs=verbs, sigma=training.sigma)
    return replace(training, adapter=replace(training.adapter, tokens=tokens))


def _train(data: Path, out: Path, model: str, steps: int, seed: int, training: MotionTraining) -> Path:
    stage("5/5 The motion, without the appearance")
    return train(
        [data],
        out,
        model=model,
        steps=steps,
        seed=seed,
        adapter=training.adapter,
        optim=training.optim,
        batches=Batches(batch_size=training.batch_size, caption_dropout=0, holdout=0),
        objective=Objective("motion", training.sigma, training.motion),
        memory=training.memory,
        watch=Watch(sample_every=0),
    )


def _gather(clip: Path, data: Path, spec: ModelSpec) -> None:
    """Fill `data` with the clip: cut from a video, or copied with its JSON file and masks."""
    prepared = clip.parent.name == "clips" and clip.with_suffix(".json").is_file()
    if not (prepared or (clip / "clips").is_dir()):
        prepare([clip], data, fps=spec.fps, num_frames=spec.num_frames, height=spec.height, width=spec.width)
        return
    if prepared:
        # the JSON file last: a clip that has one is complete
        found = [*clip.parent.glob(f"{clip.stem}.*.mask.mkv"), clip, clip.with_suffix(".json")]
    else:
        clips = [one.path for one in read_clips(clip)]
        kinds = ("*.mask.mkv", "*.mp4", "*.json")
        found = [path for kind in kinds for path in sorted((clip / "clips").glob(kind)) if clips]
    (data / "clips").mkdir(parents=True, exist_ok=True)
    for path in found:
        if not (data / "clips" / path.name).exists():
            shutil.copyfile(path, data / "clips" / path.name)
    write_index(data)


def _note_captions(data: Path, caption: str, names: Mapping[str, str]) -> None:
    """Set each clip's caption for training, and leave only names for `segment` in its text."""
    from toolkit.lora.plain_words import in_plain_words

    for clip in read_clips(data):
        text = caption or clip.extra.get(CAPTION) or in_plain_words(clip.text, names)
        if not text:
            raise CastmixError(
                f"{clip.id} has no caption: describe what happens in plain words, with --caption"
            )
        if TAG.search(text):
            raise CastmixError(
                f"{clip.id}: the caption {text!r} names characters that the base model does not know: give "
                "each of them as --subject NAME=NOUN, or a --caption in plain words"
            )
        named = clip.text if TAG.search(clip.text) else ""
        _rewrite(data, clip, named, text)
    write_index(data)


def _set_captions(data: Path, spoken: Mapping[str, Sequence[str]]) -> None:
    """Make each clip's text its caption for training, with tokens in the place of verbs."""
    for clip in read_clips(data):
        text = str(clip.extra[CAPTION])
        for token, words in spoken.items():
            text = spoken_as(text, token, words[0]) or text
        _rewrite(data, clip, text, clip.extra[CAPTION])
    write_index(data)


def _rewrite(data: Path, clip: Clip, text: str, caption: str) -> None:
    changed = replace(clip, text=text, extra={**clip.extra, CAPTION: caption})
    if changed != clip:
        write_clip(data, changed)


def _segment(data: Path, cast: Path, names: Mapping[str, str], masks: Masking) -> None:
    """Segment all subjects, unless their masks exist."""
    stage(f"2/5 Masks of {', '.join(names)}")
    have = {name for clip in read_clips(data) for name in accepted_mask_names(clip)}
    if set(names) <= have:
        return
    unknown = [name for name in names if name not in read_cast(masks.cast).spellings]
    if unknown and masks.cast is None:
        _write_cast(cast, {name: names[name] for name in unknown})
    own = masks.cast or (cast if unknown else None)
    options = {key: value for key, value in vars(masks).items() if key != "cast"}
    segment(data, characters=list(names), cast=own, **options)
    have = {name for clip in read_clips(data) for name in accepted_mask_names(clip)}
    if lost := [name for name in names if name not in have]:
        files = ", ".join(f"clips/{clip.path.name}" for clip in read_clips(data)[:3])
        raise CastmixError(
            f"{', '.join(lost)} got no accepted mask: see {data / 'rejected_masks.jsonl'} and "
            f"{data / 'overlays'}. Try --masks.detect given with boxes (for {files}), or another backend"
        )


def _write_cast(folder: Path, nouns: Mapping[str, str]) -> None:
    """Write a show with the subjects as characters, which `segment` needs."""
    characters = [{"name": name, "description": noun} for name, noun in nouns.items()]
    show = {
        "id": "motion-subjects",
        "name": "Motion subjects",
        "style": "realistic",
        "characters": characters,
    }
    write_atomic(folder / "subjects.yaml", yaml.safe_dump(show, sort_keys=False, allow_unicode=True))
