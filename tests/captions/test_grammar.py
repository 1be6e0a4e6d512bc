from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.captions.cast import STYLES, read_cast
from toolkit.captions.grammar import Caption, Clause, format, parse, tag, validate
from toolkit.core.errors import CastmixError

CAST = read_cast()
GOOD = "[Character: Tom], chases [Character: Jerry]. [Character: Jerry], runs. [scene-style:cartoon]"

words = st.sampled_from(["runs", "waves", "a panda", "3.5", "the ship's rope", "Texas", "don't", "é", '"hi"'])
mentions = st.sampled_from(CAST.names).map(lambda name: f"[Character: {name}]")
styles = st.sampled_from(STYLES)


@st.composite
def captions(draw: st.DrawFn) -> Caption:
    names = draw(st.lists(st.sampled_from(CAST.names), min_size=1, max_size=3, unique=True))
    inside = st.sampled_from(names).map(lambda name: f"[Character: {name}]'s")
    pieces = st.lists(words | inside, max_size=3)
    clauses = tuple(Clause(name, " ".join([draw(words), *draw(pieces), draw(words)])) for name in names)
    return Caption(clauses, draw(styles))


@given(captions())
@settings(max_examples=100, deadline=None)
def test_parse_inverts_format(caption: Caption) -> None:
    text = format(caption)
    assert validate(text, CAST) == []
    assert parse(text, CAST) == caption
    assert tag(text, CAST) == text


@given(captions(), st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_caption_is_either_found_out_or_still_the_same_text_after_parsing(
    caption: Caption, data: st.DataObject
) -> None:
    text = format(caption)
    at = data.draw(st.integers(0, len(text) - 1))
    text = (
        text[:at]
        + data.draw(st.sampled_from(["", ".", " ", "[", "]", "Tom", ", ", "\n", ". "]))
        + text[at + 1 :]
    )
    if validate(text, CAST):
        with pytest.raises(CastmixError, match="breaks the grammar"):
            parse(text, CAST)
    else:
        assert format(parse(text, CAST)) == text


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_text_has_problems_or_is_a_caption_and_tag_raises_only_castmix_errors(text: str) -> None:
    assert validate(text, CAST) or format(parse(text, CAST)) == text
    with contextlib.suppress(CastmixError):
        assert validate(tag(text, CAST), CAST) == []


@given(
    st.lists(
        st.sampled_from(sorted(CAST.spellings)), min_size=1, max_size=3, unique_by=CAST.spellings.__getitem__
    ),
    st.sampled_from([" and ", " while ", ", ", ". ", "; "]),
    styles,
    st.sampled_from(
        [", {} style", ", {}", ". {}", " in a {} style", ", in {} style.", ". The scene is {} style."]
    ),
)
@settings(max_examples=100, deadline=None)
def test_tag_gives_each_character_its_clause(names: list[str], join: str, style: str, ending: str) -> None:
    tagged = parse(tag(join.join(f"{name} waves" for name in names) + ending.format(style), CAST), CAST)
    assert tagged.style == style
    assert tagged.clauses == tuple(Clause(CAST.spellings[name], "waves") for name in names)


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        (
            "Tom chases Jerry, cartoon style",
            "[Character: Tom], chases [Character: Jerry]. [scene-style:cartoon]",
        ),
        (
            "Pixo jumps and Rufus spins, realistic style",
            "[Character: Pixo], jumps. [Character: Rufus], spins. [scene-style:realistic]",
        ),
        (
            "Mr. Bean waves while Sheldon reads. cartoon",
            "[Character: Mr. Bean], waves. [Character: Sheldon], reads. [scene-style:cartoon]",
        ),
        (
            "Mary hugs George",
            "[Character: Mary Cooper], hugs [Character: George Cooper]. [scene-style:realistic]",
        ),
        ("Mr Bean hugs a panda!", "[Character: Mr. Bean], hugs a panda. [scene-style:realistic]"),
        (
            "Tom has Jerry's pie and Spike naps",
            "[Character: Tom], has [Character: Jerry]'s pie. [Character: Spike], naps. [scene-style:cartoon]",
        ),
        (
            "Tom hits Jerry and Spike across",
            "[Character: Tom], hits [Character: Jerry] and [Character: Spike] across. [scene-style:cartoon]",
        ),
        ("tom hugs ice bear", "[Character: Tom], hugs [Character: Ice Bear]. [scene-style:cartoon]"),
        ("Tom reads a cartoon", "[Character: Tom], reads a cartoon. [scene-style:cartoon]"),
        (
            "Tom jumps. Jerry laughs. Then Tom runs",
            "[Character: Tom], jumps and runs. [Character: Jerry], laughs. [scene-style:cartoon]",
        ),
        ("[Character: Tom], chases [Character: Jerry].", tag("Tom chases Jerry", CAST)),
        ("[character: tom] chases Jerry [scene-style:cartoon]", tag("Tom chases Jerry", CAST)),
        (GOOD, GOOD),
    ],
)
def test_tag_writes_the_grammar(plain: str, expected: str) -> None:
    assert tag(plain, CAST) == expected


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ("Jery runs", "start with a character.*did you mean Jerry"),
        ("Tom chases Grizly", "no character 'Grizly'.*did you mean Grizzly"),
        ("Tom hugs Ice Baer", "no character 'Ice Baer'.*did you mean Ice Bear"),
        ("A dog runs", "the names are .*Panda"),
        ("", "start with a character"),
        ("Pixo and Rufus jump, cartoon", "say what Pixo does"),
        ("Pixo, Mimi and Rufus dance, cartoon", "say what Pixo does"),
        ("Tom's tail wags", "say what Tom does"),
        ("Tom", "say what Tom does"),
        ("Pixo jumps and Rufus spins", "Pixo is cartoon, Rufus is realistic.*style of the scene"),
        ("Tom runs. It is happy.", "one sentence"),
        ("Tom jumps, Jerry runs, Spike barks and Panda eats", "at most 3 characters, not 4"),
    ],
)
def test_tag_says_what_is_missing(plain: str, message: str) -> None:
    with pytest.raises(CastmixError, match=message):
        tag(plain, CAST)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Tom chases a ball. [scene-style:cartoon]", 'start with "[Character: <name>], "'),
        ("[Character: Tom], chases Jerry. [scene-style:cartoon]", "'Jerry' has no tag"),
        ("[Character: Tom], waves at TOM. [scene-style:cartoon]", "'TOM' has no tag"),
        ("[Character: Tom], waves at ice bear. [scene-style:cartoon]", "write [Character: Ice Bear]"),
        (
            "[Character: Tom], waves at George's car. [scene-style:cartoon]",
            "write [Character: George Cooper]",
        ),
        ("[Character: Mary], reads. [scene-style:cartoon]", "write [Character: Mary Cooper]"),
        ("[Character: tom], reads. [scene-style:cartoon]", "write [Character: Tom]"),
        ("[Character: Jery], reads. [scene-style:cartoon]", "did you mean Jerry?"),
        ("[Character:Tom], runs. [scene-style:cartoon]", "'[Character:Tom]' is not a tag"),
        ("[Character: Tom] runs. [scene-style:cartoon]", 'start with "[Character: <name>], "'),
        ("[Character: Tom], runs [scene-style:cartoon]", "end the clause of Tom with a full stop"),
        ("[Character: Tom], runs!. [scene-style:cartoon]", "one full stop and nothing else"),
        ("[Character: Tom], runs. He smiles. [scene-style:cartoon]", "one sentence"),
        (
            "[Character: Tom], runs. [Character: Tom], sits. [scene-style:cartoon]",
            "Tom has more than one clause",
        ),
        ("[Character: Tom], [Character: Jerry], runs. [scene-style:cartoon]", "say what Tom does"),
        ("[Character: Tom], . [scene-style:cartoon]", "say what Tom does"),
        ("[Character: Tom], runs.", "end with one space and one scene tag"),
        ("[Character: Tom], runs.[scene-style:cartoon]", "end with one space and one scene tag"),
        ("[Character: Tom], runs. [scene-style:anime]", "end with one space and one scene tag"),
        ("[Character: Tom], runs. [scene-style:cartoon] [scene-style:realistic]", "write the scene tag once"),
        ("[scene-style:cartoon]", 'start with "[Character: <name>], "'),
        (GOOD + "\n", "on one line"),
        (GOOD.replace("chases", "chases  a"), "single spaces"),
        (
            "[Character: Tom], pulls [Character: Jerry], [Character: Spike] and [Character: Panda]. "
            "[scene-style:cartoon]",
            "at most 3 characters, not 4",
        ),
    ],
)
def test_validate_finds(text: str, problem: str) -> None:
    assert any(problem in found for found in validate(text, CAST)), validate(text, CAST)


@pytest.mark.parametrize(
    "text",
    [
        "[Character: Mr. Bean], waves at a panda, a tomcat and 3.5 boxes. [scene-style:cartoon]",
        "[Character: Tom], takes [Character: Mr. Bean]'s hat, smiling. [Character: Mr. Bean], sits. "
        "[scene-style:realistic]",
        GOOD,
    ],
)
def test_validate_accepts(text: str) -> None:
    assert validate(text, CAST) == []


def test_all_problems_come_at_once_on_one_line() -> None:
    problems = validate("Tom runs\nand [character: Jerry]", CAST)
    assert len(problems) == 5
    with pytest.raises(CastmixError, match=re.escape("; ".join(problems))) as caught:
        parse("Tom runs\nand [character: Jerry]", CAST)
    assert "\n" not in str(caught.value)
