"""Special tokens: words such as ``<sub1>`` that a LoRA file brings along, for what no word names.

A token is a class noun and one learned vector (textual inversion, Gal et al. 2022, arXiv 2208.01618; one for
each subject in VideoMage, section 7.1 of its supplement). In a prompt the noun takes the token's place,
and the vector is added

    output   to what the text encoder makes of the noun's tokens: the encoder need not run in training
    input    to the noun's rows of the encoder's embedding table: what a new row of the table would be that
             starts as the noun; the encoder sees it in every context

A token may be a verb: it stands for a motion, and its "noun" is the known words that it started as. A vector
of zero is the noun itself. A noun of several tokens has the same vector at each of them, or one for
each: then there are as many vectors as the noun has tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from toolkit.captions.cast import Cast
from toolkit.captions.grammar import CLAUSE_START, SCENE_TAG, TAG
from toolkit.captions.whole_words import find_phrases
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_text
from toolkit.lora.settings import TOKENS
from toolkit.models.interfaces import Encoders

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit.lora.file import Lora

Kind = Literal["output", "input"]
TOKEN = re.compile(r"<[^<>\s]+>")


@dataclass(frozen=True)
class Token:
    """A special token: its class noun, where its vector is added, and the vector (D,), or one for each of the
    noun's n tokens, (n, D), float32."""

    noun: str
    kind: Kind
    vector: Tensor
    verb: bool = False


def read_tokens(loras: Sequence[Lora]) -> dict[str, Token]:
    """The special tokens of LoRAs.

    Raises:
        CastmixError: two of them have a token of one spelling and different vectors, or what is told of a
            token makes no sense.
    """
    import torch

    found: dict[str, Token] = {}
    for lora in loras:
        facts = json.loads(lora.metadata.get(TOKENS, "{}"))
        for token, vector in lora.tokens.items():
            fact = facts.get(token, {})
            if not fact.get("noun") or fact.get("kind") not in get_args(Kind):
                raise CastmixError(f"token {token}: expected a noun and a kind, output or input; got {fact}")
            one = Token(fact["noun"], fact["kind"], vector, bool(fact.get("verb")))
            other = found.setdefault(token, one)
            same = (other.noun, other.kind, other.verb) == (one.noun, one.kind, one.verb)
            if not (same and torch.equal(other.vector, one.vector)):
                raise CastmixError(
                    f"two LoRAs bring a token {token}, a {other.noun} and a {one.noun}: learn one of them "
                    "anew under another name (castmix learn-tokens --token)"
                )
    return found


def token_nouns(loras: Sequence[Lora]) -> dict[str, str]:
    """What is encoded in the place of each special token of these LoRAs, verbs included: its noun."""
    return {token: one.noun for token, one in read_tokens(loras).items()}


def tokens_metadata(tokens: Mapping[str, Token]) -> dict[str, str]:
    """What a LoRA with these tokens says of them: the counterpart of `read_tokens`."""
    facts = {
        token: {"noun": one.noun, "kind": one.kind, **({"verb": True} if one.verb else {})}
        for token, one in tokens.items()
    }
    return {TOKENS: json.dumps(facts, sort_keys=True, ensure_ascii=False)} if facts else {}


def fingerprint_tokens(lora: Lora) -> str:
    """16 hex digits that change when a special token of the LoRA does."""
    found = {token: [one.noun, one.kind, one.vector.tolist()] for token, one in read_tokens([lora]).items()}
    return fingerprint_text(json.dumps(found, sort_keys=True))


def token_of(name: str) -> str:
    """The special token that a character's name makes: "Mr. Bean" is <mr-bean>."""
    return f"<{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}>"


def class_nouns(loras: Sequence[Lora], cast: Cast | None = None) -> dict[str, str]:
    """Words for whom LoRAs brought: token → class noun, and character → description for those in `cast`.

    Verbs are nobody: a prompt in plain words keeps them, and the motion's LoRA brings them along.
    """
    found = {token: one.noun for token, one in read_tokens(loras).items() if not one.verb}
    known = {name for lora in loras for name in json.loads(lora.metadata.get("castmix.cast", "[]"))}
    people = [one for show in (cast.shows if cast else ()) for one in show.characters]
    return found | {one.name: one.description for one in people if one.name in known and one.description}


def in_plain_words(prompt: str, words: Mapping[str, str]) -> str:
    """The prompt in words that the base model knows: VideoMage's c~, for the motion branch (its Alg. 1).

    Every special token becomes its class noun, and so does a name in prose, "a Mimi bear". So does every
    character's tag, if all of them have one; clauses and the scene's style become prose then: "[Character:
    Pixo], hops. [scene-style:cartoon]" with {"Pixo": "a star"} is "a star hops, cartoon style".

    Args:
        prompt: Any prompt.
        words: Class nouns by token or character name: see `nouns`.
    """
    text, _ = substitute(prompt, {token: noun for token, noun in words.items() if TOKEN.fullmatch(token)})
    for name, noun in words.items():
        if not TOKEN.fullmatch(name):
            text = _nameless(text, name, noun)
    tagged = TAG.findall(text)
    if not tagged or any(name not in words for name in tagged):
        return text
    starts = [found.start() for found in CLAUSE_START.finditer(text)]
    text = CLAUSE_START.sub(lambda found: f"{words[found[1]]} ", text)
    text = TAG.sub(lambda found: words[found[1]], text)
    scene = SCENE_TAG.search(text)
    body = SCENE_TAG.sub("", text).strip().removesuffix(".")
    if len(starts) > 1:
        body = re.sub(r"\. (?=\w)", " and ", body)
    return f"{body}, {scene[1]} style" if scene else body


def _nameless(text: str, name: str, noun: str) -> str:
    """A name that stands in prose, outside tags, as its noun: "a Mimi bear hops" is "a bear hops"."""
    bare = re.sub(r"^(a|an|the) ", "", noun)

    def said(found: re.Match[str]) -> str:
        article = found[1]
        if not article:
            return noun
        if article.lower() in ("a", "an"):
            article = article[0] + ("n" if bare[:1].lower() in "aeiou" else "")
        return f"{article} {bare}"

    named = rf"(?<!\w)(?:([Aa]n?|[Tt]he) )?{re.escape(name)}(?: {re.escape(bare)})?(?![\w\]])"
    return re.sub(named, said, text)


def substitute(prompt: str, words: Mapping[str, str]) -> tuple[str, list[tuple[str, int, int]]]:
    """The prompt with each token replaced by its noun, and where: (token, start, end) in the new text."""
    parts: list[str] = []
    places: list[tuple[str, int, int]] = []
    rest = 0
    for found in TOKEN.finditer(prompt):
        if found[0] in words:
            parts.append(prompt[rest : found.start()])
            start = sum(map(len, parts))
            parts.append(words[found[0]])
            places.append((found[0], start, start + len(parts[-1])))
            rest = found.end()
    return "".join([*parts, prompt[rest:]]), places


def spans(
    encoders: Encoders, prompt: str, subjects: Sequence[str], nouns: Mapping[str, str]
) -> tuple[list[tuple[int, ...]], int]:
    """Where a prompt names each of these subjects, as positions in its embedding, and how many are no pads.

    A special token is where the noun is that takes its place; other subjects are found as written, longer
    ones first, and not inside such a noun.

    Raises:
        CastmixError: a subject is not in the prompt, or only in a part that is cut off.
    """
    from toolkit.models.wan import clean_prompt

    text, places = substitute(clean_prompt(prompt), nouns)
    ranges = {one: [(start, end) for token, start, end in places if token == one] for one in subjects}
    rest = text
    for _, start, end in places:  # as long as it was, and no word of anybody's
        rest = rest[:start] + "_" * (end - start) + rest[end:]
    written = find_phrases(rest, [clean_prompt(one) for one in subjects if not ranges[one]])
    found = []
    for one in subjects:
        at = ranges[one] or written[clean_prompt(one)]
        positions = sorted({place for run in encoders.positions(text, at) for place in run}) if at else []
        found.append(tuple(positions) if positions else encoders.spans(rest, [one])[0])
    return found, encoders.prompt_length(text)


def encode_prompts(encoders: Encoders, prompts: Sequence[str], loras: Sequence[Lora]) -> Tensor:
    """Embeddings (len(prompts), L, D) of prompts that may hold special tokens of these LoRAs.

    Without any of their tokens it is `encoders.encode_text(prompts)`, to the bit.
    """
    import torch

    with torch.no_grad():
        return encode_with_tokens(encoders, prompts, read_tokens(loras))


def encode_with_tokens(encoders: Encoders, prompts: Sequence[str], tokens: Mapping[str, Token]) -> Tensor:
    """What `encode_prompts` returns, differentiable with respect to the tokens' vectors.

    Raises:
        CastmixError: a token lies behind the model's last token, or its vector is of another model's size.
    """
    import torch

    from toolkit.models.wan import clean_prompt

    clean = [clean_prompt(prompt) for prompt in prompts]
    replaced = [substitute(prompt, {token: one.noun for token, one in tokens.items()}) for prompt in clean]
    if not any(places for _, places in replaced):
        return encoders.encode_text(prompts)
    texts = [text for text, _ in replaced]
    added: dict[Kind, list[dict[int, Tensor]]] = {"input": [], "output": []}
    for text, places in replaced:
        at = encoders.positions(text, [(start, end) for _, start, end in places])
        for kind, rows in added.items():
            rows.append({})
            for (token, _, _), positions in zip(places, at, strict=True):
                if not positions:
                    raise CastmixError(f"{token} is beyond the last token of the model: {text[:60]!r}…")
                if tokens[token].kind == kind:
                    rows[-1].update(_placed(token, tokens[token].vector, positions))
    inside = any(added["input"])
    embeds = encoders.encode_with(texts, added["input"]) if inside else encoders.encode_text(texts)
    shift = torch.zeros_like(embeds)
    for row, by_position in enumerate(added["output"]):
        for position, vector in by_position.items():
            _check_size(vector, embeds.shape[-1])
            shift[row, position] = vector.to(shift)
    return embeds + shift


def _placed(token: str, vector: Tensor, positions: Sequence[int]) -> dict[int, Tensor]:
    """What is added at each of the noun's positions."""
    if vector.ndim == 1:
        return dict.fromkeys(positions, vector)
    if len(vector) != len(positions):
        raise CastmixError(
            f"{token} has {len(vector)} vectors, and its noun {len(positions)} tokens in this prompt: the "
            "prompt is cut off there, or the token was learnt on another base"
        )
    return dict(zip(positions, vector, strict=True))


def _check_size(vector: Tensor, size: int) -> None:
    if vector.shape != (size,):
        raise CastmixError(
            f"a special token has a vector of {tuple(vector.shape)}, this model's embeddings have {size} "
            "numbers: it was learnt on another base"
        )
