"""Lets a vision-language model watch a clip and caption it in the grammar of `toolkit.captions`."""

from __future__ import annotations

import re

from toolkit import captions as grammar
from toolkit.captions.cast import Cast, Show
from toolkit.captions.text_files import NoCaptionError, transcript
from toolkit.captions.vlm import Chat, Message, picture, words
from toolkit.footage.clips import Clip

REPAIRS = 2
"""How often a reply that breaks the grammar is sent back with the reason."""

NOBODY = "nobody"
PROMPT = """You caption clips of the show {show} to train a video model. You see frames of one clip, in order.

Answer with one caption and nothing else, in exactly this form:
[Character: <name>], <action>. [Character: <name>], <action>. [scene-style:{style}]

- One clause for each character of the list below whom you see, one to three, the most active first.
- <name> is spelt as in the list. Write [Character: <name>] wherever you name one, inside actions too:
  [Character: {first}], waves at [Character: {second}].
- <action> is what this character does: movement, pose, emotion, reaction, contact; then the place, if it is
  clear. One sentence in the present tense, 5 to 25 words, without full stops or brackets inside.
- Other people and animals are described, never named. Spoken words help you to understand; do not quote them.
- If you see none of the characters, answer: {nobody}

Characters of {show}:
{cast}"""


def watch(clip: Clip, show: Show, cast: Cast, chat: Chat, frames: int = 10) -> str:
    """A valid caption of the clip by the model behind `chat`.

    It sees `frames` evenly spaced frames, what is spoken meanwhile (an .srt beside the source) and who is in
    the show. A reply that breaks the grammar goes back with the reasons, `REPAIRS` times.

    Raises:
        NoCaptionError: No valid caption in the last reply either, or nobody of the show is to be seen.
        CastmixError: The clip cannot be read, or the model cannot be asked.
    """
    messages = _question(clip, show, frames)
    for _ in range(1 + REPAIRS):
        # Some models think aloud first.
        reply = " ".join(re.sub(r"(?s)^.*</think>", "", chat(messages)).split())
        if reply.strip(".").casefold() == NOBODY:
            raise NoCaptionError(f"the model sees no character of {show.name}", reply)
        problems = _problems(reply, show, cast)
        if not problems:
            return reply
        correction = f"This breaks the rules: {'; '.join(problems)}. Answer with the corrected caption only."
        messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": correction}]
    raise NoCaptionError(f"{1 + REPAIRS} replies broke the rules, the last: {'; '.join(problems)}", reply)


def _problems(reply: str, show: Show, cast: Cast) -> list[str]:
    """Beyond the grammar: only this show's characters can be in its footage, and its style is known."""
    problems = grammar.validate(reply, cast) + grammar.validate(reply, Cast((show,)))
    if not problems and not reply.endswith(f"[scene-style:{show.style}]"):
        problems = [f"this show is {show.style}: end with [scene-style:{show.style}]"]
    return list(dict.fromkeys(problems))


def _question(clip: Clip, show: Show, frames: int) -> list[Message]:
    from toolkit.footage.video import read_video

    video, _ = read_video(clip.path)
    count = min(frames, len(video))
    shown = [video[round(i * (len(video) - 1) / max(count - 1, 1))] for i in range(count)]
    names = [character.name for character in show.characters]
    known = [
        f"- {who.name}: {who.description}" + (f"; often {who.signature}" if who.signature else "")
        for who in show.characters
    ]
    rules = PROMPT.format(
        show=show.name,
        style=show.style,
        first=names[0],
        second=names[-1],
        nobody=NOBODY,
        cast="\n".join(known),
    )
    kind = "cartoon" if show.style == "cartoon" else "live action or realistic"
    facts = f"{show.name} ({kind}). {show.description}"
    spoken = transcript(clip.source, clip.start, clip.end) or "(nothing, or not known)"
    told = f"The show: {facts}\nSpoken during the clip:\n{spoken}\nThe frames:"
    return [
        {"role": "system", "content": rules},
        {"role": "user", "content": [words(told), *map(picture, shown)]},
    ]
