"""The caption grammar of Character Mixing: who does what, in which style the scene is drawn.

    caption = { "[Character: " name "], " action ". " } "[scene-style:" ( "cartoon" | "realistic" ) "]"

    [Character: Tom], chases [Character: Jerry]. [Character: Jerry], runs away. [scene-style:cartoon]

(arXiv 2510.05093, section 3.1; the paper spells its tags in three ways, this is the one spelling here, at
training and at inference: text encoders see every space and capital.) Decisions where the paper is silent:

- One to three characters in all, one clause each, canonical names of the registry only.
- Other characters inside an action are tagged too. A name of one word counts as a name where it is spelt as
  in the registry or in CAPITALS, so "a panda" is an animal and "Panda" a character; a name of several words
  counts in any case. "Tom's tail" is "[Character: Tom]'s tail".
- An action is one sentence: no full stop, "!" or "?" inside it except in tags ("Mr. Bean") and numbers, so
  ". [Character: X], " always opens a clause.
- Exactly one scene tag, last. It is about the scene, not about the characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from toolkit.captions.cast import Cast, Style, nearest
from toolkit.core.errors import CastmixError

MAX_CHARACTERS = 3

TAG = re.compile(r"\[Character: ([^\[\]]+)\]")
SCENE_TAG = re.compile(r"\[scene-style:(cartoon|realistic)\]")
CLAUSE_START = re.compile(r"(?:^|(?<=\. ))\[Character: ([^\[\]]+)\], ")


@dataclass(frozen=True)
class Clause:
    """What one character does: `action` follows "[Character: `name`], " and has no full stop at its end."""

    name: str
    action: str


@dataclass(frozen=True)
class Caption:
    """A parsed caption. `style` is the style of the scene."""

    clauses: tuple[Clause, ...]
    style: Style


def format(caption: Caption) -> str:
    """Write the caption in the grammar; the inverse of `parse`."""
    clauses = "".join(f"[Character: {clause.name}], {clause.action}. " for clause in caption.clauses)
    return f"{clauses}[scene-style:{caption.style}]"


def parse(text: str, cast: Cast) -> Caption:
    """Read a caption; ``format(parse(text, cast)) == text``.

    Raises:
        CastmixError: The text breaks the grammar; the message has every problem that `validate` finds.
    """
    caption, problems = _read(text, cast)
    if caption is None or problems:
        raise CastmixError(f"caption {text!r} breaks the grammar: {'; '.join(problems)}")
    return caption


def validate(text: str, cast: Cast) -> list[str]:
    """All problems of a caption, in words that tell a person or a model what to change; [] is fine."""
    return _read(text, cast)[1]


def tag(plain: str, cast: Cast) -> str:
    """Turn a plain prompt into a caption: "Tom chases Jerry, cartoon style".

    The prompt starts with a character. Further clauses open with a character at the start of a sentence, or
    after a comma, "and", "while", "as", "when", "but" or "then" if a verb in -s, -ed or -ing follows ("and
    Rufus spins"); other characters are mentioned in the action ("Tom chases Jerry and Spike"). Aliases become
    canonical names; in a prompt without any capital, names count in any case. The scene's style stands at
    the end ("cartoon style", "in a realistic style", ". cartoon"); left out, it is the style of the
    characters' shows if they agree. A valid caption comes back unchanged.

    Raises:
        CastmixError: An unknown or missing name (with the nearest ones), a character without an action, no
            style while the shows differ, or a result that breaks the grammar.
    """
    if not validate(plain, cast):
        return plain
    # A half-tagged prompt is read like a plain one: every tag becomes the name in it.
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


# Reading captions


def _read(text: str, cast: Cast) -> tuple[Caption | None, list[str]]:
    """The caption, None if it has no clause or no style, and all problems."""
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
    problems += [f"[Character: {name}] is unknown: {_instead(name, cast)}" for name in unknown]
    if len(tagged) > MAX_CHARACTERS:
        problems.append(f"name at most {MAX_CHARACTERS} characters, not {len(tagged)}")
    if len(SCENE_TAG.findall(text)) > 1:
        problems.append("write the scene tag once")
    rest = SCENE_TAG.sub(" ", TAG.sub(" ", text))
    odd = dict.fromkeys(re.findall(r"\[[^\[\]]*\]?|\]", rest))
    problems += [f"{tag!r} is not a tag: write exactly [Character: <name>], no other brackets" for tag in odd]
    bare = dict.fromkeys(_spelling_pattern(cast).findall(re.sub(r"\[[^\[\]]*\]?", " ", rest)))
    return problems + [f"{name!r} stands without its tag: {_instead(name, cast)}" for name in bare]


def _repeated(names: list[str]) -> list[str]:
    return list(dict.fromkeys(name for name in names if names.count(name) > 1))


def _instead(name: str, cast: Cast) -> str:
    """What to write instead of this name, for a message."""
    near = nearest(name, cast.spellings)
    canonical = list(dict.fromkeys(cast.spellings[spelling] for spelling in near))
    if near and near[0].casefold() == name.casefold():
        return f"write [Character: {canonical[0]}]"
    return f"did you mean {' or '.join(canonical)}?" if near else f"the names are {', '.join(cast.names)}"


def _spelling_pattern(cast: Cast, any_case: bool = False) -> re.Pattern[str]:
    """Finds names and aliases in untagged text, the longest at a place first."""

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
        raise CastmixError(f"say the style of the scene ('…, cartoon style' or '…, realistic style'): {each}")
    return first


def _plain_clauses(body: str, cast: Cast) -> tuple[Clause, ...]:
    """Split untagged text at the characters that open a clause, and tag those that are mentioned."""
    pattern = _spelling_pattern(cast, any_case=body == body.lower())
    found = list(pattern.finditer(body))
    if not found or found[0].start() != 0:
        words = body[: found[0].start()] if found else body
        near = nearest((words.split() or [""])[0], cast.spellings, cutoff=0.7)
        hint = f"did you mean {near[0]}?" if near else f"the names are {', '.join(cast.names)}"
        raise CastmixError(f"a prompt starts with a character of the cast, got {body!r}: {hint}")
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
        f"say what {name} does, one action for each, as 'Pixo waves and Mimi jumps': {body!r}"
    )
