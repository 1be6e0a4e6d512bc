"""Prompts in plain words: class nouns instead of special tokens, character names and tags.

The base model does not know what a LoRA has learned. Its prompts say "a star hops, cartoon style", not
"[Character: Pixo], hops. [scene-style:cartoon]".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from toolkit.captions.cast import Cast
from toolkit.captions.grammar import CLAUSE_START, SCENE_TAG, TAG
from toolkit.lora.special_tokens import TOKEN, read_tokens, substitute

if TYPE_CHECKING:
    from toolkit.lora.file import Lora


def class_nouns(loras: Sequence[Lora], cast: Cast | None = None) -> dict[str, str]:
    """What the base model would call the subjects of these LoRAs.

    Returns:
        The class noun of each special token, and the description of each character that is in `cast` and in
        the captions that a LoRA was trained on. Verbs are left out: they are no subjects.
    """
    nouns = {name: token.noun for name, token in read_tokens(loras).items() if not token.verb}
    known = {name for lora in loras for name in json.loads(lora.metadata.get("castmix.cast", "[]"))}
    characters = [character for show in (cast.shows if cast else ()) for character in show.characters]
    return nouns | {
        character.name: character.description
        for character in characters
        if character.name in known and character.description
    }


def in_plain_words(prompt: str, words: Mapping[str, str]) -> str:
    """The prompt in words that the base model knows: VideoMage's c~, for the motion branch (its Alg. 1).

    Special tokens and names in prose ("a Mimi bear") become class nouns. Tags become prose only if every
    tagged character has a noun: "[Character: Pixo], hops. [scene-style:cartoon]" with {"Pixo": "a star"} is
    "a star hops, cartoon style".

    Args:
        prompt: Any prompt.
        words: Class nouns by token or character name, such as `class_nouns` returns.
    """
    text, _ = substitute(prompt, {name: noun for name, noun in words.items() if TOKEN.fullmatch(name)})
    for name, noun in words.items():
        if not TOKEN.fullmatch(name):
            text = _name_to_noun(text, name, noun)
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


def _name_to_noun(text: str, name: str, noun: str) -> str:
    """Replace a name outside tags by its noun: "a Mimi bear hops" becomes "a bear hops"."""
    bare = re.sub(r"^(a|an|the) ", "", noun)

    def replacement(found: re.Match[str]) -> str:
        article = found[1]
        if not article:
            return noun
        if article.lower() in ("a", "an"):
            article = article[0] + ("n" if bare[:1].lower() in "aeiou" else "")
        return f"{article} {bare}"

    named = rf"(?<!\w)(?:([Aa]n?|[Tt]he) )?{re.escape(name)}(?: {re.escape(bare)})?(?![\w\]])"
    return re.sub(named, replacement, text)
