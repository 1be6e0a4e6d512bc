"""Names and nouns in a text: whole words, and no phrase in a longer one."""

from __future__ import annotations

from toolkit.captions.whole_words import find_phrases


def test_a_phrase_is_not_a_part_of_a_longer_one() -> None:
    text = "a ball chases a red ball, and Tom Cat chases Tom"
    found = find_phrases(text, ["ball", "red ball", "Tom", "Tom Cat", "dog"])
    assert [text[a:b] for a, b in found["red ball"]] == ["red ball"]
    assert found["ball"] == [(text.index("ball"), text.index("ball") + 4)]
    assert found["Tom"] == [(text.rindex("Tom"), len(text))]
    assert found["Tom Cat"] == [(text.index("Tom Cat"), text.index("Tom Cat") + 7)]
    assert found["dog"] == []
    assert len(find_phrases(text, ["ball"])["ball"]) == 2


def test_phrases_are_whole_words() -> None:
    assert find_phrases("cats", ["cat"])["cat"] == []
    assert len(find_phrases("[Character: Mimi], waves", ["Mimi"])["Mimi"]) == 1
    assert len(find_phrases("<mimi> waves", ["<mimi>"])["<mimi>"]) == 1
    assert find_phrases("anything", [""]) == {"": []}
