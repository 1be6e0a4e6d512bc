"""`castmix learn-motion`: from one clip to a LoRA of its motion, without the looks of who moves in it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from toolkit.training import appearance_prompt as appearance
from toolkit.training.settings import Batches, MotionTraining, Objective, Textual, Verb, Watch

CAPTION = "motion_caption"
"""In a clip's json: its caption in training. Before, `text` names characters for `segment`, or is empty."""


@dataclass(frozen=True)
class Masking:
    """How the subjects are found in the clip: see `castmix segment`.

    Attributes:
        backend: sam2, sam2-package, carry or truth.
        detect: reference, describe, given or truth.
        checkpoint: The SAM 2 model: a folder, or a hub id that was fetched before.
        detector: The open-vocabulary model for describe, likewise.
        prompts: For given, a .jsonl file of boxes and points.
        cast: A folder of your own shows that the subjects are of. Left out, names that nobody knows are
            described by their nouns.
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

    Finished steps are kept: after Ctrl-C the same command resumes.

    Args:
        clip: A video; or a clip made by `castmix prepare`, or a folder of such clips. Their masks are used.
        out: Folder for all results: data, tokens.safetensors, lora.
        subject: A subject whose appearance is subtracted, with a class noun: "Pixo=a star". Without subjects,
            write the appearance prompt yourself (motion.appearance).
        verb: The motion's words in the caption, and known words to start from. "leans back=sways|ducks" first
            learns the token <leans-back>, which the LoRA file then contains. Default: no token.
        caption: What happens, in plain words with the class nouns: "a star chases a dog in the room".
            Default: the clip's own caption, with names replaced by nouns.
        model: sandbox, wan2.1-t2v-1.3b, wan2.1-t2v-14b, a local folder or a hub id.
        steps: Optimiser steps of the LoRA.
        seed: Seed of all random numbers.
        masks: How the subjects are segmented.
        textual: How the subjects' tokens are learned.
        verbs: How the verb's token is learned.
        training: How the LoRA is trained.

    Returns:
        The path of lora.safetensors.

    Raises:
        CastmixError: no caption, a subject that is not found, or an error of one of the stages.
        KeyboardInterrupt: after Ctrl-C.
    """
    arguments, out, spec = dict(locals()), Path(out), find_model(model)
    wanted = parse_subjects(subject) if subject else {}
    if not wanted:
        appearance.check(training.motion)  # not after an hour
    names, verbal = dict(wanted.values()), parse_verbs([verb] if verb else [])
    if verbal and training.adapter.tokens is not None:
        raise CastmixError("--verb learns a token of its own: leave out either --verb or --adapter.tokens")
    data, tokens = out / "data", out / "tokens.safetensors"
    stage("1/5 The clip and its caption")
    _gather(Path(clip), data, spec)
    _note_captions(data, caption, names)
    write_run(out / "run.yaml", "learn-motion", arguments)
    if wanted:
        stage(f"2/5 Where {', '.join(names)} can be seen")
        _segment(data, out / "cast", names, masks)
        stage("3/5 A token for the looks of each")
        learn_tokens(data, tokens, subject=list(subject), model=model, textual=textual, seed=seed)
    _set_captions(data, verbal)
    cache(data, model=model)
    spoken = None
    if verbal:
        (said,) = verbal
        stage(f"4/5 A token for the motion, {said}")
        spoken = learn_tokens(
            data,
            out / "verb.safetensors",
            verb=[verb],
            model=model,
            verbs=verbs,
            sigma=training.sigma,
            seed=seed,
        )
    stage("5/5 The motion, without those looks")
    motion = dataclasses.replace(training.motion, tokens=tokens) if wanted else training.motion
    path = train(
        [data],
        out / "lora",
        model=model,
        steps=steps,
        seed=seed,
        adapter=dataclasses.replace(training.adapter, tokens=spoken) if verbal else training.adapter,
        optim=training.optim,
        batches=Batches(batch_size=training.batch_size, caption_dropout=0, holdout=0),
        objective=Objective("motion", training.sigma, motion),
        memory=training.memory,
        watch=Watch(sample_every=0),
    )
    if verbal:
        say(f"in prompts the motion is {said}: {read_clips(data)[0].text!r}")
    return path


def _gather(clip: Path, data: Path, spec: ModelSpec) -> None:
    """Fill `data` with the clip, cut from a video or copied with its json and masks."""
    prepared = clip.parent.name == "clips" and clip.with_suffix(".json").is_file()
    if not (prepared or (clip / "clips").is_dir()):
        prepare([clip], data, fps=spec.fps, num_frames=spec.num_frames, height=spec.height, width=spec.width)
        return
    if prepared:
        # the json last: where it stands, everything stands
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
    """Decide what each clip is trained with, and make its text what `segment` reads names from."""
    from toolkit.lora.plain_words import in_plain_words

    for clip in read_clips(data):
        text = caption or clip.extra.get(CAPTION) or in_plain_words(clip.text, names)
        if not text:
            raise CastmixError(f"{clip.id} has no caption: say what happens with --caption, in plain words")
        if TAG.search(text):
            raise CastmixError(
                f"{clip.id}: the caption {text!r} names characters that the base does not know: give each of "
                "them as --subject NAME=NOUN, or a --caption in plain words"
            )
        named = clip.text if TAG.search(clip.text) else ""
        _rewrite(data, clip, named, text)
    write_index(data)


def _set_captions(data: Path, verbal: Mapping[str, Sequence[str]]) -> None:
    """Make each clip's text what it is trained with, verbs as their tokens."""
    for clip in read_clips(data):
        text = str(clip.extra[CAPTION])
        for token, words in verbal.items():
            text = spoken_as(text, token, words[0]) or text
        _rewrite(data, clip, text, clip.extra[CAPTION])
    write_index(data)


def _rewrite(data: Path, clip: Clip, text: str, caption: str) -> None:
    changed = dataclasses.replace(clip, text=text, extra={**clip.extra, CAPTION: caption})
    if changed != clip:
        write_clip(data, changed)


def _segment(data: Path, cast: Path, names: Mapping[str, str], masks: Masking) -> None:
    """Masks of all subjects, unless they are there."""
    have = {name for clip in read_clips(data) for name in accepted_mask_names(clip)}
    if set(names) <= have:
        return
    strange = [name for name in names if name not in read_cast(masks.cast).spellings]
    if strange and masks.cast is None:
        _write_cast(cast, {name: names[name] for name in strange})
    own = masks.cast or (cast if strange else None)
    options = {key: value for key, value in vars(masks).items() if key != "cast"}
    segment(data, characters=list(names), cast=own, **options)
    have = {name for clip in read_clips(data) for name in accepted_mask_names(clip)}
    if lost := [name for name in names if name not in have]:
        files = ", ".join(f"clips/{clip.path.name}" for clip in read_clips(data)[:3])
        raise CastmixError(
            f"{', '.join(lost)} got no accepted mask: see {data / 'rejected_masks.jsonl'} and look at "
            f"{data / 'overlays'}. Try --masks.detect given with boxes (of {files}), or another backend"
        )


def _write_cast(folder: Path, nouns: Mapping[str, str]) -> None:
    """A show of the subjects, so that `segment` can be asked for them."""
    characters = [{"name": name, "description": noun} for name, noun in nouns.items()]
    show = {
        "id": "motion-subjects",
        "name": "Motion subjects",
        "style": "realistic",
        "characters": characters,
    }
    write_atomic(folder / "subjects.yaml", yaml.safe_dump(show, sort_keys=False, allow_unicode=True))
