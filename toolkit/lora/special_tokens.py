"""Special tokens: learned words such as ``<sub1>`` that a LoRA file holds, for what no known word describes.

A token has a class noun and a learned vector (textual inversion, Gal et al. 2022, arXiv 2208.01618; VideoMage
learns one per subject, section 7.1 of its supplement). Encoding a prompt replaces the token by its noun and
adds the vector at the noun's positions. Where it is added is the token's kind:

    output   to the text encoder's output. Training need not run the encoder.
    input    to the noun's rows of the encoder's embedding table. This equals a new row of the table that
             starts as the noun, and the encoder sees it in every context.

A vector of zero is the noun itself. A noun of several tokens has one vector for all its positions, or one
vector for each. A special token may also be a verb: it stands for a motion, and its "noun" is the known
words that its vector started from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

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
    """A special token.

    Attributes:
        noun: The class noun; for a verb, the words that its vector started from.
        kind: Where the vector is added: to the text encoder's output or input.
        vector: (D,) float32, or (n, D) with one vector for each of the noun's n tokens.
        verb: Whether it stands for a motion.
    """

    noun: str
    kind: Kind
    vector: Tensor
    verb: bool = False


def read_tokens(loras: Sequence[Lora]) -> dict[str, Token]:
    """The special tokens of LoRAs, by spelling.

    Raises:
        CastmixError: two LoRAs have different tokens of one spelling, or a token has no noun or no kind.
    """
    import torch

    found: dict[str, Token] = {}
    for lora in loras:
        facts = json.loads(lora.metadata.get(TOKENS, "{}"))
        for name, vector in lora.tokens.items():
            fact = facts.get(name, {})
            if not fact.get("noun") or fact.get("kind") not in get_args(Kind):
                raise CastmixError(f"token {name}: expected a noun and a kind, output or input; got {fact}")
            token = Token(fact["noun"], fact["kind"], vector, bool(fact.get("verb")))
            other = found.setdefault(name, token)
            same = (other.noun, other.kind, other.verb) == (token.noun, token.kind, token.verb)
            if not (same and torch.equal(other.vector, token.vector)):
                raise CastmixError(
                    f"two LoRAs have different tokens {name}, a {other.noun} and a {token.noun}: learn one "
                    "of them again under another name (castmix learn-tokens --subject NAME=NOUN)"
                )
    return found


def token_nouns(loras: Sequence[Lora]) -> dict[str, str]:
    """The noun that is encoded instead of each special token of these LoRAs, verbs included."""
    return {name: token.noun for name, token in read_tokens(loras).items()}


def tokens_metadata(tokens: Mapping[str, Token]) -> dict[str, str]:
    """A LoRA's metadata entry for its tokens, which `read_tokens` reads; the vectors are kept apart."""
    facts = {
        name: {"noun": token.noun, "kind": token.kind, **({"verb": True} if token.verb else {})}
        for name, token in tokens.items()
    }
    return {TOKENS: json.dumps(facts, sort_keys=True, ensure_ascii=False)} if facts else {}


def fingerprint_tokens(lora: Lora) -> str:
    """16 hex digits that change whenever a special token of the LoRA changes."""
    found = {
        name: [token.noun, token.kind, token.vector.tolist()] for name, token in read_tokens([lora]).items()
    }
    return fingerprint_text(json.dumps(found, sort_keys=True))


def token_from_name(name: str) -> str:
    """The spelling of the special token for a character's name: "Mr. Bean" becomes <mr-bean>."""
    return f"<{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}>"


def substitute(prompt: str, words: Mapping[str, str]) -> tuple[str, list[tuple[str, int, int]]]:
    """Replace each special token by its noun, given in `words`.

    Returns:
        The new text, and the place of each noun in it: (token, start, end) in characters.
    """
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


def subject_spans(
    encoders: Encoders, prompt: str, subjects: Sequence[str], nouns: Mapping[str, str]
) -> tuple[list[tuple[int, ...]], int]:
    """Find subjects in a prompt's embedding.

    A special token is found where its noun is encoded. Other subjects are found as written. A longer subject
    wins over a shorter one inside it, and nothing is found inside the noun of a special token.

    Args:
        encoders: The model's encoders.
        prompt: The prompt, with its special tokens.
        subjects: Words of the prompt or special tokens.
        nouns: Noun by special token: `token_nouns`.

    Returns:
        The token positions of each subject, and the number of positions that are no padding.

    Raises:
        CastmixError: a subject is not in the prompt, or only in a part that is cut off.
    """
    from toolkit.models.wan import clean_prompt

    text, places = substitute(clean_prompt(prompt), nouns)
    ranges = {
        subject: [(start, end) for token, start, end in places if token == subject] for subject in subjects
    }
    rest = text
    for _, start, end in places:  # hide the nouns of special tokens, keep the positions
        rest = rest[:start] + "_" * (end - start) + rest[end:]
    written = find_phrases(rest, [clean_prompt(subject) for subject in subjects if not ranges[subject]])
    spans = []
    for subject in subjects:
        at = ranges[subject] or written[clean_prompt(subject)]
        runs = encoders.token_positions(text, at) if at else []
        positions = sorted({position for run in runs for position in run})
        # `Encoders.token_spans` raises the error for a subject that is missing or cut off
        spans.append(tuple(positions) if positions else encoders.token_spans(rest, [subject])[0])
    return spans, encoders.prompt_length(text)


def encode_prompts(encoders: Encoders, prompts: Sequence[str], loras: Sequence[Lora]) -> Tensor:
    """Embeddings (len(prompts), L, D) of prompts that may contain special tokens of these LoRAs.

    For prompts without special tokens this is exactly `encoders.encode_text(prompts)`.

    Raises:
        CastmixError: see `encode_with_tokens`.
    """
    import torch

    with torch.no_grad():
        return encode_with_tokens(encoders, prompts, read_tokens(loras))


def encode_with_tokens(encoders: Encoders, prompts: Sequence[str], tokens: Mapping[str, Token]) -> Tensor:
    """`encode_prompts`, differentiable with respect to the tokens' vectors.

    Raises:
        CastmixError: the prompt is cut off before a token, or a vector does not fit this model.
    """
    import torch

    from toolkit.models.wan import clean_prompt

    clean = [clean_prompt(prompt) for prompt in prompts]
    nouns = {name: token.noun for name, token in tokens.items()}
    replaced = [substitute(prompt, nouns) for prompt in clean]
    if not any(places for _, places in replaced):
        return encoders.encode_text(prompts)
    texts = [text for text, _ in replaced]
    added: dict[Kind, list[dict[int, Tensor]]] = {"input": [], "output": []}
    for text, places in replaced:
        at = encoders.token_positions(text, [(start, end) for _, start, end in places])
        for kind, rows in added.items():
            rows.append({})
            for (name, _, _), positions in zip(places, at, strict=True):
                if not positions:
                    raise CastmixError(f"{name} is beyond the last token of the model: {text[:60]!r}…")
                if tokens[name].kind == kind:
                    rows[-1].update(_vector_by_position(name, tokens[name].vector, positions))
    any_input = any(added["input"])
    embeds = (
        encoders.encode_text_with_deltas(texts, added["input"]) if any_input else encoders.encode_text(texts)
    )
    change = torch.zeros_like(embeds)
    for row, by_position in enumerate(added["output"]):
        for position, vector in by_position.items():
            _check_size(vector, embeds.shape[-1])
            change[row, position] = vector.to(change)
    return embeds + change


def _vector_by_position(token: str, vector: Tensor, positions: Sequence[int]) -> dict[int, Tensor]:
    """The vector that is added at each of the noun's positions."""
    if vector.ndim == 1:
        return dict.fromkeys(positions, vector)
    if len(vector) != len(positions):
        raise CastmixError(
            f"{token} has {len(vector)} vectors, and its noun has {len(positions)} tokens in this prompt: "
            "the prompt is cut off there, or the token was learned on another base model"
        )
    return dict(zip(positions, vector, strict=True))


def _check_size(vector: Tensor, size: int) -> None:
    if vector.shape != (size,):
        raise CastmixError(
            f"a special token has a vector of {tuple(vector.shape)}, this model's embeddings have {size} "
            "numbers: it was learned on another base model"
        )
