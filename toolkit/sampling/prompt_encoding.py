"""Prompts, encoded for every way of sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from toolkit.captions.cast import Cast
from toolkit.captions.grammar import TAG
from toolkit.core.errors import CastmixError
from toolkit.core.progress import say
from toolkit.lora.file import Lora
from toolkit.lora.loading import Member
from toolkit.lora.special_tokens import apply, nouns, plain, read_tokens, written
from toolkit.models.interfaces import Encoders
from toolkit.sampling.collaborative_branches import (
    Prompted,
    for_motion,
    for_subjects,
    subjects_of,
)
from toolkit.sampling.collaborative_guides import Name
from toolkit.sampling.masked_layout import Plain
from toolkit.sampling.masked_loras import Named, read_prompt


@dataclass(frozen=True, eq=False)
class Scripts:
    """What is drawn, encoded.

    prompts: (n, L, D). negative: (1, L, D). named: whom each prompt names, if some adapters act only where
    somebody is. plain: the prompts in plain words, if the base is to lay out where that is. For two branches
    besides: what either reads of each prompt, the motion branch's prompts in words, and the subjects that
    both name.
    """

    prompts: Tensor
    negative: Tensor
    named: tuple[Named, ...] = ()
    plain: Plain | None = None
    branches: tuple[Mapping[Name, Prompted], ...] = ()
    motion_prompts: tuple[str, ...] = ()
    subjects: tuple[tuple[str, ...], ...] = ()


def write_script(
    encoders: Encoders,
    prompts: Sequence[str],
    negative_prompt: str,
    loras: Sequence[Lora],
    members: Sequence[Member],
) -> Scripts:
    """Encode prompts, which may hold special tokens of the LoRAs; see which subjects of members they name."""
    embeds = apply(encoders, [*prompts, negative_prompt], loras)
    apart = {one.name: one.subjects for one in members if one.subjects}
    tokens = read_tokens(loras)
    named = tuple(read_prompt(encoders, prompt, apart, tokens) for prompt in prompts if apart)
    return Scripts(embeds[:-1], embeds[-1:], named)


def write_plain(
    encoders: Encoders,
    prompts: Sequence[str],
    loras: Sequence[Lora],
    members: Sequence[Member],
    *,
    words: Mapping[str, str],
    cast: Cast,
) -> Plain:
    """The prompts for the base, which lays out a masked fusion, and where they name whom.

    Raises:
        CastmixError: a subject has no noun, or its noun is not in the plain prompt.
    """
    known = {**nouns(loras, cast), **words}
    tokens = written(loras)
    owner = {subject: one.name for one in members for subject in one.subjects}
    texts = [plain(prompt, known) for prompt in prompts]
    embeds = apply(encoders, texts, loras)
    found: list[Named] = []
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        subjects = [subject for subject in subjects_of(prompt, known) if subject in owner]
        if strange := [subject for subject in subjects if subject not in known]:
            raise CastmixError(
                f"--masked.layout base needs a noun for {', '.join(strange)}: say --words {strange[0]}=cat"
            )
        read = for_motion(encoders, text, embeds[i : i + 1], subjects, known, tokens)
        found.append(Named(read.spans, tuple(owner[subject] for subject in subjects), read.real))
    return Plain(embeds, tuple(found))


def write_scripts(
    encoders: Encoders,
    prompts: Sequence[str],
    negative_prompt: str,
    loras: Sequence[Lora],
    members: Sequence[Member],
    *,
    motion_prompts: Sequence[str],
    words: Mapping[str, str],
    cast: Cast,
    spatial: bool,
) -> Scripts:
    """Encode prompts for both branches, and find in each where the subjects are named.

    motion_prompts: One for each prompt; left out, the prompt in words that the base model knows. words: what
    the motion branch calls a subject; they go before what LoRAs and cast say. spatial: are subjects needed?

    Raises:
        CastmixError: a prompt names no subject, or its motion prompt does not name it.
    """
    known = {**nouns(loras, cast), **words}
    if not motion_prompts:
        motion_prompts = [plain(prompt, known) for prompt in prompts]
        strange = {name for prompt in motion_prompts for name in TAG.findall(prompt) if name not in known}
        if strange:  # one without a noun keeps the whole prompt as it is: half in prose it would be nothing
            say(
                f"the motion branch gets prompts with names: castmix knows no noun for "
                f"{', '.join(sorted(strange))}. Say one, --words {min(strange)}=cat, or give --motion-prompt"
            )
    script = write_script(encoders, prompts, negative_prompt, loras, members)
    embeds = apply(encoders, motion_prompts, loras)
    tokens = written(loras)
    branches: list[Mapping[Name, Prompted]] = []
    named: list[tuple[str, ...]] = []
    for i, (prompt, other) in enumerate(zip(prompts, motion_prompts, strict=True)):
        subjects = subjects_of(prompt, known) if spatial else []
        if spatial and not subjects:
            raise CastmixError(
                f"{prompt!r} names no subject for the motion branch to find: use [Character: <name>], give "
                "--words NAME=NOUN, or --collaboration.no-spatial"
            )
        branches.append(
            {
                "subject": for_subjects(encoders, prompt, script.prompts[i : i + 1], subjects, tokens),
                "motion": for_motion(encoders, other, embeds[i : i + 1], subjects, known, tokens),
            }
        )
        named.append(tuple(subjects))
    return replace(
        script, branches=tuple(branches), motion_prompts=tuple(motion_prompts), subjects=tuple(named)
    )
