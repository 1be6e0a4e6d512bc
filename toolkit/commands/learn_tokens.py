"""`castmix learn-tokens`: special tokens for a clip's characters, or for a motion, by textual inversion."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.captions.whole_words import find_phrases
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_text, write_atomic
from toolkit.core.progress import say
from toolkit.core.run_record import write_run
from toolkit.footage.clips import read_clips
from toolkit.lora.special_tokens import token_from_name
from toolkit.models.interfaces import ModelSpec
from toolkit.models.registry import default_device, find_model, fingerprint, load_denoiser, load_encoders
from toolkit.training.cached_clips import CachedClip, load_cached_clips
from toolkit.training.cutout import Cutout, cut_out
from toolkit.training.settings import Sigma, Textual, Verb

if TYPE_CHECKING:
    from toolkit.lora.file import Lora
    from toolkit.lora.special_tokens import Token
    from toolkit.training.textual_inversion import TextualInversion

LEARNT = "castmix.invert"
"""Metadata key: token → fingerprint of what it was learned from. Unchanged tokens are not learned again."""


def learn_tokens(
    clips: Path,
    out: Path,
    *,
    subject: Sequence[str] = (),
    verb: Sequence[str] = (),
    model: str = "sandbox",
    lora: Path | None = None,
    textual: Textual = Textual(),
    verbs: Verb = Verb(),
    sigma: Sigma = Sigma(),
    seed: int = 0,
    restart: bool = False,
) -> Path:
    """Learn special tokens by textual inversion: for subjects, or for verbs, for `castmix train --tokens`.

    A subject is learned from one frame, so nothing of its motion is learned. In the frame that shows most of
    it, the subject is cut out by its mask and put on white; this picture is saved beside the file. A verb is
    learned from whole cached clips whose captions contain it, as words or as its token. Only the token's
    vector is trained (Gal et al. 2022; VideoMage, supplement 7.1). Each token is saved when it is finished,
    so the same command continues with the next.

    Args:
        clips: Folder of clips: with masks for subjects (castmix segment), with a cache for verbs.
        out: The .safetensors file to write: a LoRA file for `castmix train --motion.tokens` or `castmix
            generate --lora`.
        subject: Character and class noun: "Pixo=star" learns <pixo>.
        verb: Motion, and known words to start from: "leans back=sways|ducks" learns <leans-back>, starting
            from the words that fit the clips best. "leans back" alone starts from these words.
        model: sandbox, wan2.1-t2v-1.3b, wan2.1-t2v-14b, a local folder or a hub id.
        lora: LoRA that the tokens are added to. Default: the file holds tokens only.
        textual: Settings for subjects.
        verbs: Settings for verbs.
        sigma: Noise levels to train on.
        seed: Random seed.
        restart: Learn existing tokens again.

    Returns:
        The file.

    Raises:
        CastmixError: A subject has no accepted mask or is not written as NAME=NOUN, no caption contains a
            verb, or a file is no LoRA.
        KeyboardInterrupt: After Ctrl-C; finished tokens are saved.
    """
    arguments, out = dict(locals()), Path(out)
    spec = find_model(model)
    _check(out, textual, verbs)
    lessons = _read_lessons(Path(clips), subject, verb, spec, textual, verbs, sigma, seed)
    base, tokens, rest = _read_files(out, lora, lessons, restart)
    if not rest:
        say(f"{out} has {', '.join(one.token for one in lessons)} already; --restart learns anew")
        return out
    _write_pictures(out, lessons)
    inversion = _new_inversion(spec, textual, sigma, seed)
    for lesson in rest:
        tokens[lesson.token] = lesson.learn(inversion, verbs)
        _save(out, base, tokens, lessons, spec)
    write_run(out.with_suffix(".run.yaml"), "learn-tokens", {**arguments, "restart": False})
    return out


@dataclass(frozen=True, eq=False)
class _Lesson:
    """A token to learn: from a picture of a subject, or from the clips of a verb.

    `words` are the class noun, or the words that a verb may start from. `print` is the fingerprint of
    everything that the result depends on.
    """

    token: str
    words: Sequence[str]
    print: str
    cutout: Cutout | None = None
    items: Sequence[CachedClip] = ()

    def learn(self, inversion: TextualInversion, settings: Verb) -> Token:
        if self.cutout is not None:
            return inversion.learn_subject(self.token, self.words[0], self.cutout)
        return inversion.learn_verb(self.token, self.words, self.items, settings)


def _read_lessons(
    clips: Path,
    subject: Sequence[str],
    verb: Sequence[str],
    spec: ModelSpec,
    textual: Textual,
    verbs: Verb,
    sigma: Sigma,
    seed: int,
) -> list[_Lesson]:
    """What is to be learned: first the subjects, then the verbs."""
    if not (subject or verb):
        raise CastmixError("nothing to learn: say --subject Pixo=star, or --verb 'leans back=sways'")
    subjects = parse_subjects(subject) if subject else {}
    motions = parse_verbs(verb)
    if both := sorted(subjects.keys() & motions.keys()):
        raise CastmixError(f"{both[0]} would be a subject and a verb: give them names that differ")
    facts = {"base": fingerprint(spec), "seed": seed, **vars(sigma)}
    lessons = []
    for token, (name, noun) in subjects.items():
        cutout = cut_out(read_clips(clips), name)
        known = _print(facts | vars(textual) | {"noun": noun}, cutout)
        lessons.append(_Lesson(token, [noun], known, cutout=cutout))
    for token, words in motions.items():
        items = _showing(load_cached_clips(clips, spec), token, words[0])
        own = {"words": words, "clips": [item.fingerprint for item in items]}
        known = fingerprint_text(json.dumps(facts | vars(verbs) | own, sort_keys=True))
        lessons.append(_Lesson(token, words[1:], known, items=items))
    return lessons


def _read_files(
    out: Path, lora: Path | None, lessons: Sequence[_Lesson], restart: bool
) -> tuple[Lora | None, dict[str, Token], list[_Lesson]]:
    """The LoRA to add tokens to, the tokens of `out` that are up to date, and the lessons that are left."""
    from toolkit.lora.file import load_lora
    from toolkit.lora.special_tokens import read_tokens

    base = None if lora is None else load_lora(Path(lora))
    before = load_lora(out) if out.is_file() and not restart else None
    done = json.loads(before.metadata.get(LEARNT, "{}")) if before is not None else {}
    rest = [one for one in lessons if done.get(one.token) != one.print]
    known = read_tokens([before]) if before is not None else {}
    return base, {one.token: known[one.token] for one in lessons if one not in rest}, rest


def _new_inversion(spec: ModelSpec, textual: Textual, sigma: Sigma, seed: int) -> TextualInversion:
    from toolkit.training.textual_inversion import TextualInversion

    device = default_device()
    encoders, denoiser = load_encoders(spec, device), load_denoiser(spec, device)
    return TextualInversion(spec, encoders, denoiser, textual, sigma, seed)


def parse_subjects(subjects: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Read ``Pixo=star``: token <pixo> → the character's name and its class noun.

    Raises:
        CastmixError: Another form, two subjects with one token, or no subject.
    """
    found: dict[str, tuple[str, str]] = {}
    for text in [subjects] if isinstance(subjects, str) else subjects:
        name, equals, noun = (part.strip() for part in text.partition("="))
        token = token_from_name(name)
        if not (equals and noun) or token == "<>":
            raise CastmixError(f"a subject is NAME=NOUN, such as Pixo=star; got {text!r}")
        if token in found:
            raise CastmixError(f"{name} and {found[token][0]} would both be {token}: leave one of them out")
        found[token] = (name, noun)
    if not found:
        raise CastmixError("no subject: say whom, and its class noun, such as --subject Pixo=star")
    return found


def parse_verbs(verbs: Sequence[str]) -> dict[str, list[str]]:
    """Read ``leans back=sways|ducks``: token → the motion's phrase and the words that it may start from.

    Raises:
        CastmixError: An empty side, or two verbs with one token.
    """
    found: dict[str, list[str]] = {}
    for text in [verbs] if isinstance(verbs, str) else verbs:
        phrase, equals, rest = (part.strip() for part in text.partition("="))
        words = [word.strip() for word in rest.split("|")] if equals else [phrase]
        token = token_from_name(phrase)
        if not (phrase and all(words)) or token == "<>":
            raise CastmixError(f"a verb is PHRASE=WORDS, such as 'leans back=sways|ducks'; got {text!r}")
        if token in found:
            raise CastmixError(f"two verbs would be {token}: leave one of them out")
        found[token] = [phrase, *dict.fromkeys(words)]
    return found


def spoken_as(caption: str, token: str, phrase: str) -> str:
    """The caption with the token in place of the verb's phrase; empty if the phrase is not in it.

    Raises:
        CastmixError: The phrase is in it several times.
    """
    text = caption.replace(token, phrase)
    places = find_phrases(text, [phrase])[phrase]
    if len(places) > 1:
        raise CastmixError(f"the caption {caption!r} says {phrase!r} {len(places)} times: once is expected")
    return "".join(text[:start] + token + text[end:] for start, end in places)


def _showing(items: Sequence[CachedClip], token: str, phrase: str) -> list[CachedClip]:
    """The clips whose captions contain the verb, with its token in the caption."""
    said = [(item, spoken_as(item.text, token, phrase)) for item in items]
    found = [dataclasses.replace(item, text=text) for item, text in said if text]
    if not found:
        raise CastmixError(f"no caption says {phrase!r}, such as {items[0].text!r}: write it as the clips do")
    return found


def _check(out: Path, textual: Textual, verbs: Verb) -> None:
    if out.suffix != ".safetensors":
        raise CastmixError(f"--out {out}: tokens are written as .safetensors, such as tokens.safetensors")
    for name in ("steps", "batch_size", "lr"):
        if not getattr(textual, name) > 0:
            raise CastmixError(f"textual.{name} must be above 0, got {getattr(textual, name):g}")
    for name in ("steps", "batch_size", "lr", "repeat"):
        if not getattr(verbs, name) > 0:
            raise CastmixError(f"verbs.{name} must be above 0, got {getattr(verbs, name):g}")
    if textual.frames < 1 or textual.frames % 4 != 1:
        raise CastmixError(f"textual.frames must be 4k+1, got {textual.frames}: use 1 or 17")
    if not 0 <= textual.background <= 1:
        raise CastmixError(f"textual.background must be between 0 and 1, got {textual.background:g}")
    if textual.prompt.count("{subject}") != 1:
        raise CastmixError(f"textual.prompt must have {{subject}} once, got {textual.prompt!r}")


def _print(facts: dict[str, Any], cutout: Cutout) -> str:
    """Fingerprint of what a subject's token is learned from: 16 hex digits."""
    picture = fingerprint_text(cutout.picture.tobytes().hex() + cutout.mask.tobytes().hex())
    return fingerprint_text(json.dumps({**facts, "picture": picture}, sort_keys=True))


def _write_pictures(out: Path, lessons: Sequence[_Lesson]) -> None:
    """Write the picture that each subject is learned from: OUT.<name>.png."""
    import cv2

    for lesson in lessons:
        if (cutout := lesson.cutout) is None:
            continue
        _, png = cv2.imencode(".png", cutout.picture[..., ::-1])
        path = out.with_suffix(f".{lesson.token.strip('<>')}.png")
        write_atomic(path, png.tobytes())
        say(f"{lesson.token} is learnt from frame {cutout.frame} of {cutout.clip}: {path}")


def _save(
    out: Path, base: Lora | None, tokens: dict[str, Token], lessons: Sequence[_Lesson], spec: ModelSpec
) -> None:
    """Write the finished tokens, together with the layers and tokens of `base`."""
    from toolkit.lora.file import Lora, save_lora
    from toolkit.lora.special_tokens import read_tokens, tokens_metadata

    old = read_tokens([base]) if base is not None else {}
    known = {"castmix.base": spec.name, "castmix.base_fingerprint": fingerprint(spec)}
    metadata = {**known, **(base.metadata if base is not None else {}), **tokens_metadata(old | tokens)}
    prints = {lesson.token: lesson.print for lesson in lessons if lesson.token in tokens}
    metadata[LEARNT] = json.dumps(prints, sort_keys=True)
    vectors = {token: one.vector for token, one in (old | tokens).items()}
    save_lora(Lora(base.tensors if base is not None else {}, metadata, vectors), out)
