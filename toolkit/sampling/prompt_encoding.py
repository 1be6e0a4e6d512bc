"""Prompts, encoded for every way of sampling: plain, masked fusion, collaborative sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import TAG
from toolkit.core.errors import CastmixError
from toolkit.core.progress import say
from toolkit.lora.loading import LoraSet
from toolkit.lora.plain_words import class_nouns, in_plain_words
from toolkit.lora.special_tokens import encode_prompts, read_tokens, token_nouns
from toolkit.models.interfaces import Encoders, ModelSpec
from toolkit.sampling.collaborative_branches import (
    BranchPrompt,
    motion_branch_prompt,
    subject_branch_prompt,
    subjects_of,
)
from toolkit.sampling.collaborative_gradients import BranchName
from toolkit.sampling.masked_layout import PlainPrompts
from toolkit.sampling.masked_loras import PromptSubjects, find_subjects
from toolkit.sampling.request import Request


@dataclass(frozen=True, eq=False)
class EncodedPrompts:
    """n prompts as the network reads them.

    Attributes:
        embeds: (n, L, D).
        negative: (1, L, D).
        subjects: For a masked fusion: which adapters' subjects each prompt names, and where.
        plain: For a masked fusion with layout base: the prompts in plain words.
        branches: For collaborative sampling: the prompt of each branch, by branch.
        motion_prompts: For collaborative sampling: the motion branch's prompts as text.
        branch_subjects: For collaborative sampling: the subjects that both branches name.
    """

    embeds: Tensor
    negative: Tensor
    subjects: tuple[PromptSubjects, ...] = ()
    plain: PlainPrompts | None = None
    branches: tuple[Mapping[BranchName, BranchPrompt], ...] = ()
    motion_prompts: tuple[str, ...] = ()
    branch_subjects: tuple[tuple[str, ...], ...] = ()

    def rows(self, rows: range) -> EncodedPrompts:
        """Some of the prompts."""
        part = slice(rows.start, rows.stop)
        plain = self.plain
        return EncodedPrompts(
            self.embeds[part],
            self.negative,
            self.subjects[part],
            None if plain is None else PlainPrompts(plain.embeds[part], plain.subjects[part]),
            self.branches[part],
            self.motion_prompts[part],
            self.branch_subjects[part],
        )


def encode_request(
    spec: ModelSpec, encoders: Encoders, prompts: Sequence[str], loras: LoraSet, request: Request
) -> EncodedPrompts:
    """Encode prompts for the request's way of sampling; warn about prompts that are too long.

    Raises:
        CastmixError: a subject is not named, has no noun, or the LoRAs do not fit the sampler.
    """
    encoded = encode_with_subjects(encoders, prompts, request.sampling.negative_prompt, loras)
    if request.sampling.sampler != "euler":
        wrong = [part.name for part in loras.parts if part.subjects and part.role != "subject"]
        if wrong:
            raise CastmixError(
                f"{', '.join(wrong)}: collaborative sampling needs a masked fusion as --subject"
            )
        encoded = _for_branches(encoders, prompts, encoded, loras, request)
    elif request.masked.layout == "base":
        if not loras.confined:
            raise CastmixError(
                "--masked.layout base needs a masked fusion, and no --lora or --subject is one: make it with "
                "castmix fuse --method masked"
            )
        plain = _plain_prompts(encoders, prompts, loras, request)
        encoded = replace(encoded, plain=plain)
    _warn_of_length(spec, encoders, [*prompts, request.sampling.negative_prompt, *encoded.motion_prompts])
    return encoded


def encode_with_subjects(
    encoders: Encoders, prompts: Sequence[str], negative_prompt: str, loras: LoraSet
) -> EncodedPrompts:
    """Encode prompts with the LoRAs' special tokens, and find the subjects of masked fusions in them.

    This is all for sampler euler; `encode_request` adds what the other ways of sampling need.
    """
    embeds = encode_prompts(encoders, [*prompts, negative_prompt], loras.files)
    confined = {part.name: part.subjects for part in loras.parts if part.subjects}
    tokens = read_tokens(loras.files)
    subjects = tuple(find_subjects(encoders, prompt, confined, tokens) for prompt in prompts if confined)
    return EncodedPrompts(embeds[:-1], embeds[-1:], subjects)


def _nouns(loras: LoraSet, request: Request) -> dict[str, str]:
    """Noun by subject: from `--words`, else from the LoRA files and the cast."""
    return {**class_nouns(loras.files, read_cast()), **request.words}


def _plain_prompts(
    encoders: Encoders, prompts: Sequence[str], loras: LoraSet, request: Request
) -> PlainPrompts:
    """The prompts in plain words, for the base model, and where they name the subjects.

    Raises:
        CastmixError: a subject has no noun, or its noun is not in the plain prompt.
    """
    nouns, tokens = _nouns(loras, request), token_nouns(loras.files)
    owner = {subject: part.name for part in loras.parts for subject in part.subjects}
    texts = [in_plain_words(prompt, nouns) for prompt in prompts]
    embeds = encode_prompts(encoders, texts, loras.files)
    found: list[PromptSubjects] = []
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        subjects = [subject for subject in subjects_of(prompt, nouns) if subject in owner]
        if unknown := [subject for subject in subjects if subject not in nouns]:
            raise CastmixError(
                f"--masked.layout base needs a noun for {', '.join(unknown)}: give --words {unknown[0]}=cat"
            )
        read = motion_branch_prompt(encoders, text, embeds[i : i + 1], subjects, nouns, tokens)
        found.append(PromptSubjects(read.spans, tuple(owner[subject] for subject in subjects), read.real))
    return PlainPrompts(embeds, tuple(found))


def _for_branches(
    encoders: Encoders,
    prompts: Sequence[str],
    encoded: EncodedPrompts,
    loras: LoraSet,
    request: Request,
) -> EncodedPrompts:
    """Add the prompts of both branches of collaborative sampling, and where they name the subjects.

    Raises:
        CastmixError: a prompt names no subject, or its motion prompt does not name it.
    """
    nouns, tokens = _nouns(loras, request), token_nouns(loras.files)
    motion_prompts = _motion_prompts(prompts, nouns, request)
    embeds = encode_prompts(encoders, motion_prompts, loras.files)
    spatial = request.sampling.sampler == "scs" and request.collaboration.spatial
    branches: list[Mapping[BranchName, BranchPrompt]] = []
    named: list[tuple[str, ...]] = []
    for i, (prompt, motion_prompt) in enumerate(zip(prompts, motion_prompts, strict=True)):
        subjects = subjects_of(prompt, nouns) if spatial else []
        if spatial and not subjects:
            raise CastmixError(
                f"{prompt!r} names no subject for the motion branch to find: use [Character: <name>], give "
                "--words NAME=NOUN, or --collaboration.no-spatial"
            )
        one = slice(i, i + 1)
        branches.append(
            {
                "subject": subject_branch_prompt(encoders, prompt, encoded.embeds[one], subjects, tokens),
                "motion": motion_branch_prompt(encoders, motion_prompt, embeds[one], subjects, nouns, tokens),
            }
        )
        named.append(tuple(subjects))
    return replace(
        encoded, branches=tuple(branches), motion_prompts=motion_prompts, branch_subjects=tuple(named)
    )


def _motion_prompts(prompts: Sequence[str], nouns: Mapping[str, str], request: Request) -> tuple[str, ...]:
    """The motion branch's prompt for each prompt. Default: the prompt in plain words."""
    given = tuple(request.sampling.motion_prompt)
    if given:
        return given * len(prompts) if len(given) == 1 else given
    made = tuple(in_plain_words(prompt, nouns) for prompt in prompts)
    unknown = {name for prompt in made for name in TAG.findall(prompt) if name not in nouns}
    if unknown:  # `in_plain_words` leaves all tags of such a prompt as they are
        say(
            f"note: the motion branch's prompt keeps the names {', '.join(sorted(unknown))}, for which "
            f"castmix knows no noun. Give one, --words {min(unknown)}=cat, or give --motion-prompt"
        )
    return made


def _warn_of_length(spec: ModelSpec, encoders: Encoders, prompts: Sequence[str]) -> None:
    for prompt in prompts:
        tokens = encoders.count_tokens(prompt)
        if tokens > spec.text_length:
            limit = f"{spec.name} takes {spec.text_length}: its end is cut off"
            say(f"warning: the prompt {prompt[:40]!r}… has {tokens} tokens, {limit}")
