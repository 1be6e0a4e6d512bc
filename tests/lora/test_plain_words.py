"""Prompts in plain words, and the nouns that they are made with."""

from __future__ import annotations

import json

import torch

from toolkit.captions.cast import read_cast
from toolkit.lora.file import Lora
from toolkit.lora.plain_words import class_nouns, in_plain_words


def test_tokens_are_replaced_by_plain_words() -> None:
    words = {"<sub1>": "star", "Pixo": "a teal star", "Rufus": "a dog"}
    assert in_plain_words("a <sub1> meets a <sub2>, x style", words) == "a star meets a <sub2>, x style"
    rufus = "[Character: Rufus], waves at [Character: Pixo]. [scene-style:cartoon]"
    both = f"[Character: Pixo], hops in the room. {rufus}"
    assert in_plain_words(both, words) == (
        "a teal star hops in the room and a dog waves at a teal star, cartoon style"
    )
    assert in_plain_words(both, {"Pixo": "a teal star"}) == both  # half prose would be neither
    assert in_plain_words("[Character: <sub1>], sits.", words) == "[Character: star], sits."


def test_names_in_prose_become_nouns_too() -> None:
    words = {"Mimi": "bear", "Otto": "a ball", "Ann": "an owl"}
    assert in_plain_words("a Mimi bear hops and an Otto ball rolls", words) == "a bear hops and a ball rolls"
    assert in_plain_words("the Otto ball and a Ann owl", words) == "the ball and an owl"
    assert in_plain_words("Otto chases Anna", words) == "a ball chases Anna"
    half = "[Character: Mimi], hops on [Character: Bruno]."  # one of them has no noun: tags stay as they are
    assert in_plain_words(half, words) == half
    assert in_plain_words("a bear hops", {"bear": "bear"}) == "a bear hops"


def test_nouns_come_from_tokens_and_from_the_cast() -> None:
    facts = {"<a>": {"noun": "dog", "kind": "output"}}
    lora = Lora({}, {"castmix.tokens": json.dumps(facts)}, {"<a>": torch.zeros(24)})
    known = Lora({}, {"castmix.cast": json.dumps(["Pixo", "Nobody"])})
    found = class_nouns([lora, known], read_cast())
    assert found == {"<a>": "dog", "Pixo": "a plain teal star with a hat"}
