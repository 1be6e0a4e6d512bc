"""Parses, writes and validates captions in the grammar of Character Mixing (arXiv 2510.05093, section 3.1).

    caption = { "[Character: " name "], " action ". " } "[scene-style:" ( "cartoon" | "realistic" ) "]"

    [Character: Tom], chases [Character: Jerry]. [Character: Jerry], runs away. [scene-style:cartoon]

The paper spells its tags in three ways. castmix uses this one spelling for training and inference, because
text encoders see every space and capital. Decisions that the paper leaves open:

- A caption has one to three characters, one clause each, with canonical names of the cast registry only.
- Characters mentioned inside an action are tagged too: "Tom's tail" becomes "[Character: Tom]'s tail".
- A name of one word counts as a name only if it is spelt as in the registry or in CAPITALS: "a panda" is an
  animal, "Panda" a character. A name of several words counts in any case.
- An action is one sentence. It has no full stop, "!" or "?" except in tags ("Mr. Bean") and numbers. The text
  ". [Character: X], " therefore always opens a clause.
- There is exactly one scene tag, at the end. It gives the style of the scene, not of the characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from toolkit.captions.cast import Cast, Style
from toolkit.core.choices import nearest
from toolkit.core.errors import CastmixError

MAX_CHARACTERS = 3

TAG = re.compile(r"\[Character: ([^\[\]]+)\]")
SCENE_TAG = re.compile(r"\[scene-style:(cartoon|realistic)\]")
CLAUSE_START = re.compile(r"(?:^|(?<=\. ))\[Character: ([^\[\]]+)\], ")


@dataclass(frozen=True)
class Clause:
    """One character and its action: the text after "[Character: `name`], ", without the final full stop."""

    name: str
    action: str


@dataclass(frozen=True)
class Caption:
    """A parsed caption: one clause per character, and the style of the scene."""

    clauses: tuple[Clause, ...]
    style: Style


def format(caption: Caption) -> str:
    """Return the caption as text. This is the inverse of `parse`."""
    clauses = "".join(f"[Character: {clause.name}], {clause.action}. " for clause in caption.clauses)
    return f"{clauses}[scene-style:{caption.style}]"


def parse(text: str, cast: Cast) -> Caption:
    """Parse a caption, so that ``format(parse(text, cast)) == text``.

    Raises:
        CastmixError: The text breaks the grammar. The message lists all problems that `validate` finds.
    """
    caption, problems = _read(text, cast)
    if caption is None or problems:
        raise CastmixError(f"caption {text!r} breaks the grammar: {'; '.join(problems)}")
    return caption


def validate(text: str, cast: Cast) -> list[str]:
    """Return all problems of a caption as instructions for a person or a model; [] if it is valid."""
    return _read(text, cast)[1]


def tag(plain: str, cast: Cast) -> str:
    """Convert a plain prompt such as "Tom chases Jerry, cartoon style" into a caption.

    - The prompt starts with a character.
    - A character opens a new clause at the start of a sentence. It also opens one after a comma, "and",
      "while", "as", "when", "but" or "then" if a verb in -s, -ed or -ing follows ("and Rufus spins").
    - All other characters are mentions within an action ("Tom chases Jerry and Spike").
    - Aliases become canonical names. In a prompt without capitals, names count in any case.
    - The prompt ends with the style of the scene ("cartoon style", "in a realistic style", ". cartoon").
      Default: the style of the characters' shows, if they agree.

    A valid caption is returned unchanged.

    Raises:
        CastmixError: A name is unknown or missing (the message offers the nearest ones), a character has no
            action, the style is missing and the shows differ, or the result breaks the grammar.
    """
    if not validate(plain, cast):
        return plain
    # A partly tagged prompt is read like a plain one: every tag is replaced by its name.
    tags = re.compile(r"\[\s*character:\s*([^\[\]]+?)\s*\],?", re.IGNORECASE)
    text = tags.sub(lambda found: cast.find(found[1])[1].name, " ".join(plain.split()))
    body, style = _split_style_words(text)
    clauses = _plain_clauses(body, cast)
    names = [clause.name for clause in clauses] + [
        n for clause in clauses for n in TAG.findall(clause.action)
    ]
    tagged = format(Caption(clauses, style or _common_style(names, cast)))
    if problems := validate(tagged, cast):
        raise CastmixError(f"cannot tag {plain!r}: {'; '.join(problems)}")
    return tagged


# Parsing captions


def _read(text: str, cast: Cast) -> tuple[Caption | None, list[str]]:
    """Return the caption (None if it has no clause or no style) and all problems."""
    problems = []
    if text != " ".join(text.split()):
        problems.append("write everything on one line, with single spaces and none at the ends")
    *_, scene = [None, *SCENE_TAG.finditer(text)]
    if not scene or scene.end() != len(text) or not text[: scene.start()].endswith(" "):
        problems.append(
            "end with one space and one scene tag: [scene-style:cartoon] or [scene-style:realistic]"
        )
    clauses, clause_problems = _split_clauses(SCENE_TAG.sub("", text).rstrip(" "))
    problems += clause_problems + _name_problems(text, [clause.name for clause in clauses], cast)
    if not clauses or not scene:
        return None, problems
    return Caption(tuple(clauses), "cartoon" if scene[1] == "cartoon" else "realistic"), problems


def _split_clauses(body: str) -> tuple[list[Clause], list[str]]:
    starts = list(CLAUSE_START.finditer(body))
    if not starts or starts[0].start() != 0:
        return [], ['start with "[Character: <name>], " and what this character does']
    clauses, problems = [], []
    ends = [start.start() - 1 for start in starts[1:]] + [len(body)]
    for start, end in zip(starts, ends, strict=True):
        name, chunk = start[1], body[start.end() : end]
        if not chunk.endswith("."):
            problems.append(f"end the clause of {name} with a full stop")
        action = chunk.removesuffix(".")
        untagged = TAG.sub("X", action)
        if not action.strip() or action.startswith(" ") or re.match(TAG.pattern + ", ", action):
            problems.append(f'say what {name} does right after "[Character: {name}], "')
        elif untagged[-1] in ".,;:!? ":
            problems.append(f"end the action of {name} with one full stop and nothing else")
        elif re.search(r"[.!?]\W*\s", untagged):
            problems.append(f"the action of {name} must be one sentence without abbreviations: {action!r}")
        clauses.append(Clause(name, action))
    return clauses, problems


def _name_problems(text: str, subjects: list[str], cast: Cast) -> list[str]:
    problems = [f"{name} has more than one clause: join them" for name in _repeated(subjects)]
    tagged = list(dict.fromkeys(TAG.findall(text)))
    unknown = [name for name in tagged if name not in cast.names]
    problems += [f"[Character: {name}] is unknown: {_suggestion(name, cast)}" for name in unknown]
    if len(tagged) > MAX_CHARACTERS:
        problems.append(f"name at most {MAX_CHARACTERS} characters, not {len(tagged)}")
    if len(SCENE_TAG.findall(text)) > 1:
        problems.append("write the scene tag once")
    rest = SCENE_TAG.sub(" ", TAG.sub(" ", text))
    odd = dict.fromkeys(re.findall(r"\[[^\[\]]*\]?|\]", rest))
    problems += [f"{tag!r} is not a tag: write exactly [Character: <name>], no other brackets" for tag in odd]
    bare = dict.fromkeys(_spelling_pattern(cast).findall(re.sub(r"\[[^\[\]]*\]?", " ", rest)))
    return problems + [f"{name!r} has no tag: {_suggestion(name, cast)}" for name in bare]


def _repeated(names: list[str]) -> list[str]:
    return list(dict.fromkeys(name for name in names if names.count(name) > 1))


def _suggestion(name: str, cast: Cast) -> str:
    """Return what to write instead of this name, for an error message."""
    near = nearest(name, cast.spellings)
    canonical = list(dict.fromkeys(cast.spellings[spelling] for spelling in near))
    if near and near[0].casefold() == name.casefold():
        return f"write [Character: {canonical[0]}]"
    return f"did you mean {' or '.join(canonical)}?" if near else f"the names are {', '.join(cast.names)}"


def _spelling_pattern(cast: Cast, any_case: bool = False) -> re.Pattern[str]:
    """Return a pattern that matches names and aliases in untagged text, longer ones first."""

    def one(spelling: str) -> str:
        words = r"\s+".join(map(re.escape, spelling.split()))
        return f"(?i:{words})" if " " in spelling else f"{words}|{re.escape(spelling.upper())}"

    spellings = sorted(cast.spellings, key=len, reverse=True)
    flags = re.IGNORECASE if any_case else re.NOFLAG
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(one, spellings))})(?!\w)", flags)


# Tagging plain prompts

_STYLE_WORDS = re.compile(
    r"""(?: \s*\[scene-style:\s*(cartoon|realistic)\s*\]
          | \s*[,.;:!?(]\s*(?:the\s+scene\s+is\s+)?(?:in\s+)?(?:an?\s+|the\s+)?
            (cartoon|realistic)(?:[-\s]style)?
          | \s(?:in\s+)?(?:an?\s+|the\s+)?(cartoon|realistic)[-\s]style
        )[\s.)]*$""",
    re.IGNORECASE | re.VERBOSE,
)
_JOIN = r"(?:and\s+then|and|while|as|when|but|then|meanwhile)"
_NEW_SENTENCE = re.compile(rf"[.;!?]\s+(?:{_JOIN},?\s+)?$", re.IGNORECASE)
_JOINED = re.compile(rf"(?:,|\b{_JOIN}),?\s+$", re.IGNORECASE)
_VERB = re.compile(
    r"\s+(?:\w+ly\s+)?(?!(?:across|towards|as|his|its|this)\b)\w+(?:s|ed|ing)\b", re.IGNORECASE
)
_NAMES_ONLY = re.compile(r"[\s,]*(?:and|or|&)?[\s,]*", re.IGNORECASE)


def _split_style_words(text: str) -> tuple[str, Style | None]:
    found = _STYLE_WORDS.search(text)
    if not found:
        return text, None
    cartoon = "cartoon" in (group.lower() for group in found.groups() if group)
    return text[: found.start()], "cartoon" if cartoon else "realistic"


def _common_style(names: list[str], cast: Cast) -> Style:
    styles = {name: cast.find(name)[0].style for name in names}
    first, *others = set(styles.values())
    if others:
        each = ", ".join(f"{name} is {style}" for name, style in styles.items())
        raise CastmixError(
            f"the characters' styles differ ({each}): end the prompt with the style of the scene, "
            "'…, cartoon style' or '…, realistic style'"
        )
    return first


def _plain_clauses(body: str, cast: Cast) -> tuple[Clause, ...]:
    """Split untagged text into one clause per character, and tag the characters mentioned in actions."""
    pattern = _spelling_pattern(cast, any_case=body == body.lower())
    found = list(pattern.finditer(body))
    if not found or found[0].start() != 0:
        words = body[: found[0].start()] if found else body
        near = nearest((words.split() or [""])[0], cast.spellings, cutoff=0.7)
        hint = f"did you mean {near[0]}?" if near else f"the names are {', '.join(cast.names)}"
        raise CastmixError(f"a prompt must start with a character of the cast, got {body!r}: {hint}")
    subjects = [found[0]]
    for before, this in pairwise(found):
        between, after = body[before.end() : this.start()], body[this.end() :]
        if _NEW_SENTENCE.search(between) or (_JOINED.search(between) and _VERB.match(after)):
            subjects.append(this)
        elif before is subjects[-1] and _NAMES_ONLY.fullmatch(between):
            raise _no_action(before[0], body)
    actions: dict[str, str] = {}
    for subject, following in zip(subjects, [*subjects[1:], None], strict=True):
        name = cast.find(subject[0])[1].name
        action = body[subject.end() : following.start() if following else None]
        if following:
            action = re.sub(rf"[\s,.;!?]*(?:\b{_JOIN},?)?\s*$", "", action, flags=re.IGNORECASE)
        action = action.strip(" ,.;:!?")
        if not action or action.startswith(("'", "’")):
            raise _no_action(subject[0], body)
        action = _tag_mentions(action, pattern, cast)
        actions[name] = f"{actions[name]} and {action}" if name in actions else action
    return tuple(Clause(name, action) for name, action in actions.items())


def _tag_mentions(action: str, pattern: re.Pattern[str], cast: Cast) -> str:
    for word in re.findall(r"[A-Z][\w.]*(?:\s+[A-Z][\w.]*)*", pattern.sub("", action)):
        if near := nearest(word, cast.spellings, cutoff=0.75):
            raise CastmixError(f"no character {word!r} in the cast: did you mean {near[0]}?")
    return pattern.sub(lambda name: f"[Character: {cast.find(name[0])[1].name}]", action)


def _no_action(name: str, body: str) -> CastmixError:
    return CastmixError(
        f"say what {name} does; every character needs its own action, as in 'Pixo waves and Mimi jumps': "
        f"{body!r}"
    )
