"""`castmix invert`: special tokens for the looks of a clip's characters, by textual inversion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.crop import Cutout, cut_out
from toolkit.data import fingerprint_text, read_clips, write_atomic
from toolkit.errors import CastmixError
from toolkit.models import ModelSpec, default_device, find_model, fingerprint, load_denoiser, load_encoders
from toolkit.progress import say
from toolkit.run import write_run
from toolkit.settings import Sigma, Textual
from toolkit.tokens import token_of

if TYPE_CHECKING:
    from toolkit.lora import Lora
    from toolkit.tokens import Token

LEARNT = "castmix.invert"
"""Metadata of a file of tokens: what each was learnt from, so that the same command goes on."""


def invert(
    clips: Path,
    out: Path,
    *,
    subject: list[str],
    model: str = "sandbox",
    lora: Path | None = None,
    textual: Textual = Textual(),
    sigma: Sigma = Sigma(),
    seed: int = 0,
    restart: bool = False,
) -> Path:
    """Learn a special token for each of these subjects: its looks from one frame, and nothing of its motion.

    The frame in which most of the subject is seen is cut out by its mask and put on white; that picture is
    laid beside the file. Only the token's vector is trained (Gal et al. 2022; VideoMage, section 7.1 of its
    supplement). Each token is saved as soon as it is learnt: the same command goes on with the next.

    Args:
        clips: Folder of clips with masks (castmix segment).
        out: The .safetensors file to write: a LoRA file, to be given to `castmix train --motion.tokens` or
            `castmix generate --lora`.
        subject: Whom, and its class noun: "Pixo=star" learns <pixo>. Several are learnt one after the other.
        model: sandbox, wan2.1-t2v-1.3b, wan2.1-t2v-14b, a local folder or a hub id.
        lora: A LoRA that the tokens are added to; left out, the file has tokens alone.
        textual: How they are learned.
        sigma: Which noise levels are trained.
        seed: Of every random draw.
        restart: Learn anew what is there already.

    Returns:
        The file.

    Raises:
        CastmixError: a subject without an accepted mask, or not written as NAME=NOUN; a file that is no LoRA.
        KeyboardInterrupt: after Ctrl-C; tokens that are finished are saved.
    """
    arguments, out = dict(locals()), Path(out)
    spec = find_model(model)
    _check(out, textual)
    wanted = parse_subjects(subject)
    found = read_clips(Path(clips))
    cutouts = {token: cut_out(found, name) for token, (name, _) in wanted.items()}
    facts = {"base": fingerprint(spec), "seed": seed, **vars(textual), **vars(sigma)}
    prints = {token: _print(facts | {"noun": wanted[token][1]}, cutout) for token, cutout in cutouts.items()}
    from toolkit.lora import load_lora
    from toolkit.textual import Learning

    base = None if lora is None else load_lora(Path(lora))
    before = load_lora(out) if out.is_file() and not restart else None
    done = json.loads(before.metadata.get(LEARNT, "{}")) if before is not None else {}
    rest = [token for token in wanted if done.get(token) != prints[token]]
    if not rest:
        say(f"{out} has {', '.join(wanted)} already; --restart learns anew")
        return out
    _write_pictures(out, cutouts)
    device = default_device()
    encoders, denoiser = load_encoders(spec, device), load_denoiser(spec, device)
    learning = Learning(spec, encoders, denoiser, textual, sigma, seed)
    tokens = _kept(before, [token for token in wanted if token not in rest])
    for token in rest:
        tokens[token] = learning.token(token, wanted[token][1], cutouts[token])
        _save(out, base, tokens, {one: prints[one] for one in tokens}, spec)
    write_run(out.with_suffix(".run.yaml"), "invert", {**arguments, "restart": False})
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


def _check(out: Path, textual: Textual) -> None:
    if out.suffix != ".safetensors":
        raise CastmixError(f"--out {out}: tokens are written as .safetensors, such as tokens.safetensors")
    for name in ("steps", "batch_size", "lr"):
        if not getattr(textual, name) > 0:
            raise CastmixError(f"textual.{name} must be above 0, got {getattr(textual, name):g}")
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
    from toolkit.tokens import read_tokens

    known = read_tokens([before]) if before is not None else {}
    return {name: known[name] for name in names}


def _save(
    out: Path, base: Lora | None, tokens: dict[str, Token], prints: dict[str, str], spec: ModelSpec
) -> None:
    """Write the tokens, with the layers of `base` and its own tokens if there is one."""
    from toolkit.lora import Lora, save_lora
    from toolkit.tokens import read_tokens, tokens_metadata

    old = read_tokens([base]) if base is not None else {}
    known = {"castmix.base": spec.name, "castmix.base_fingerprint": fingerprint(spec)}
    metadata = {**known, **(base.metadata if base is not None else {}), **tokens_metadata(old | tokens)}
    metadata[LEARNT] = json.dumps(prints, sort_keys=True)
    vectors = {token: one.vector for token, one in (old | tokens).items()}
    save_lora(Lora(base.tensors if base is not None else {}, metadata, vectors), out)
