"""`castmix learn-tokens`: special tokens for a clip's characters, or for a motion, by textual inversion."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.captions.whole_words import find_phrases
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_text, write_atomic
from toolkit.core.progress import say
from toolkit.core.run_record import write_run
from toolkit.footage.clips import read_clips
from toolkit.lora.special_tokens import token_of
from toolkit.models.interfaces import ModelSpec
from toolkit.models.registry import default_device, find_model, fingerprint, load_denoiser, load_encoders
from toolkit.training.cached_clips import Item, load_items
from toolkit.training.cutout import Cutout, cut_out
from toolkit.training.settings import Sigma, Textual, Verb

if TYPE_CHECKING:
    from toolkit.lora.file import Lora
    from toolkit.lora.special_tokens import Token

LEARNT = "castmix.invert"
"""Metadata of a file of tokens: what each was learnt from, so that the same command goes on."""


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
    """Learn a special token for each of these subjects: its looks from one frame, and nothing of its motion.
    Or for a verb: how things move in clips, for `castmix train --tokens`.

    The frame in which most of the subject is seen is cut out by its mask and put on white; that picture is
    laid beside the file. Only the token's vector is trained (Gal et al. 2022; VideoMage, section 7.1 of its
    supplement). A verb is learned from whole clips, which must be cached, in whose captions it stands: as
    words, or as its token already. Each token is saved as soon as it is learnt: the same command goes on
    with the next.

    Args:
        clips: Folder of clips, for subjects with masks (castmix segment), for verbs with a cache.
        out: The .safetensors file to write: a LoRA file, to be given to `castmix train --motion.tokens` or
            `castmix generate --lora`.
        subject: Whom, and its class noun: "Pixo=star" learns <pixo>. Several are learnt one after the other.
        verb: A motion, and known words that it may begin as: "leans back=sways|ducks" learns <leans-back>,
            from whichever of them explains the clips best. "leans back" alone begins as these words.
        model: sandbox, wan2.1-t2v-1.3b, wan2.1-t2v-14b, a local folder or a hub id.
        lora: A LoRA that the tokens are added to; left out, the file has tokens alone.
        textual: How subjects are learned.
        verbs: How verbs are learned.
        sigma: Which noise levels are trained.
        seed: Of every random draw.
        restart: Learn anew what is there already.

    Returns:
        The file.

    Raises:
        CastmixError: a subject without an accepted mask, or not written as NAME=NOUN; a verb that no caption
            has; a file that is no LoRA.
        KeyboardInterrupt: after Ctrl-C; tokens that are finished are saved.
    """
    arguments, out = dict(locals()), Path(out)
    spec = find_model(model)
    _check(out, textual, verbs)
    if not (subject or verb):
        raise CastmixError("nothing to learn: say --subject Pixo=star, or --verb 'leans back=sways'")
    wanted = parse_subjects(subject) if subject else {}
    motions = parse_verbs(verb)
    if both := sorted(wanted.keys() & motions.keys()):
        raise CastmixError(f"{both[0]} would be a subject and a verb: give them names that differ")
    facts = {"base": fingerprint(spec), "seed": seed, **vars(sigma)}
    cutouts, prints = {}, {}
    for token, (name, noun) in wanted.items():
        cutouts[token] = cut_out(read_clips(Path(clips)), name)
        prints[token] = _print(facts | vars(textual) | {"noun": noun}, cutouts[token])
    shown = {token: _showing(load_items(Path(clips), spec), token, one[0]) for token, one in motions.items()}
    for token, items in shown.items():
        words = {"words": motions[token], "clips": [item.fingerprint for item in items]}
        prints[token] = fingerprint_text(json.dumps(facts | vars(verbs) | words, sort_keys=True))
    from toolkit.lora.file import load_lora
    from toolkit.training.textual_inversion import Learning

    base = None if lora is None else load_lora(Path(lora))
    before = load_lora(out) if out.is_file() and not restart else None
    done = json.loads(before.metadata.get(LEARNT, "{}")) if before is not None else {}
    rest = [token for token in prints if done.get(token) != prints[token]]
    if not rest:
        say(f"{out} has {', '.join(prints)} already; --restart learns anew")
        return out
    _write_pictures(out, cutouts)
    device = default_device()
    encoders, denoiser = load_encoders(spec, device), load_denoiser(spec, device)
    learning = Learning(spec, encoders, denoiser, textual, sigma, seed)
    tokens = _kept(before, [token for token in prints if token not in rest])
    for token in rest:
        if token in wanted:
            tokens[token] = learning.token(token, wanted[token][1], cutouts[token])
        else:
            tokens[token] = learning.verb(token, motions[token][1:], shown[token], verbs)
        _save(out, base, tokens, {one: prints[one] for one in tokens}, spec)
    write_run(out.with_suffix(".run.yaml"), "learn-tokens", {**arguments, "restart": False})
    return out


def parse_subjects(subjects: Sequence[str]) -> dict[str, tuple[str, str]]:
    """``Pixo=star`` to the token <pixo>, the character's name and its class noun, by token.

    Raises:
        CastmixError: something else, two of one token, or none at all.
    """
    found: dict[str, tuple[str, str]] = {}
    for text in [subjects] if isinstance(subjects, str) else subjects:
        name, equals, noun = (part.strip() for part in text.partition("="))
        token = token_of(name)
        if not (equals and noun) or token == "<>":
            raise CastmixError(f"a subject is NAME=NOUN, such as Pixo=star; got {text!r}")
        if token in found:
            raise CastmixError(f"{name} and {found[token][0]} would both be {token}: leave one of them out")
        found[token] = (name, noun)
    if not found:
        raise CastmixError("no subject: say whom, and its class noun, such as --subject Pixo=star")
    return found


def parse_verbs(verbs: Sequence[str]) -> dict[str, list[str]]:
    """``leans back=sways|ducks`` to the motion's phrase and the words that it may begin as, by token.

    Raises:
        CastmixError: an empty side, or two of one token.
    """
    found: dict[str, list[str]] = {}
    for text in [verbs] if isinstance(verbs, str) else verbs:
        phrase, equals, rest = (part.strip() for part in text.partition("="))
        words = [word.strip() for word in rest.split("|")] if equals else [phrase]
        token = token_of(phrase)
        if not (phrase and all(words)) or token == "<>":
            raise CastmixError(f"a verb is PHRASE=WORDS, such as 'leans back=sways|ducks'; got {text!r}")
        if token in found:
            raise CastmixError(f"two verbs would be {token}: leave one of them out")
        found[token] = [phrase, *dict.fromkeys(words)]
    return found


def spoken_as(caption: str, token: str, phrase: str) -> str:
    """The caption with the token in the place of a verb's phrase; nothing if it does not say that.

    Raises:
        CastmixError: it says it several times.
    """
    text = caption.replace(token, phrase)
    places = find_phrases(text, [phrase])[phrase]
    if len(places) > 1:
        raise CastmixError(f"the caption {caption!r} says {phrase!r} {len(places)} times: once is expected")
    return "".join(text[:start] + token + text[end:] for start, end in places)


def _showing(items: Sequence[Item], token: str, phrase: str) -> list[Item]:
    """The clips whose captions have the verb, as its token."""
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
    """What a token is learnt from, in 16 digits."""
    picture = fingerprint_text(cutout.picture.tobytes().hex() + cutout.mask.tobytes().hex())
    return fingerprint_text(json.dumps({**facts, "picture": picture}, sort_keys=True))


def _write_pictures(out: Path, cutouts: dict[str, Cutout]) -> None:
    """What the tokens are learnt from, for eyes: OUT.<name>.png."""
    import cv2

    for token, cutout in cutouts.items():
        _, png = cv2.imencode(".png", cutout.picture[..., ::-1])
        path = out.with_suffix(f".{token.strip('<>')}.png")
        write_atomic(path, png.tobytes())
        say(f"{token} is learnt from frame {cutout.frame} of {cutout.clip}: {path}")


def _kept(before: Lora | None, names: Sequence[str]) -> dict[str, Token]:
    """Tokens that are learnt already."""
    from toolkit.lora.special_tokens import read_tokens

    known = read_tokens([before]) if before is not None else {}
    return {name: known[name] for name in names}


def _save(
    out: Path, base: Lora | None, tokens: dict[str, Token], prints: dict[str, str], spec: ModelSpec
) -> None:
    """Write the tokens, with the layers of `base` and its own tokens if there is one."""
    from toolkit.lora.file import Lora, save_lora
    from toolkit.lora.special_tokens import read_tokens, tokens_metadata

    old = read_tokens([base]) if base is not None else {}
    known = {"castmix.base": spec.name, "castmix.base_fingerprint": fingerprint(spec)}
    metadata = {**known, **(base.metadata if base is not None else {}), **tokens_metadata(old | tokens)}
    metadata[LEARNT] = json.dumps(prints, sort_keys=True)
    vectors = {token: one.vector for token, one in (old | tokens).items()}
    save_lora(Lora(base.tensors if base is not None else {}, metadata, vectors), out)
