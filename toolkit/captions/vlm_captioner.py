"""Captions a clip with a vision-language model, in the grammar of `toolkit.captions.grammar`."""

from __future__ import annotations

import re

from toolkit import captions as grammar
from toolkit.captions.cast import Cast, Show
from toolkit.captions.text_files import NoCaptionError, transcript
from toolkit.captions.vlm import Chat, Message, image_part, text_part
from toolkit.footage.clips import Clip

MAX_CORRECTIONS = 2
"""How often the model may correct a reply that breaks the grammar."""

NO_CHARACTER = "nobody"
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


def caption_clip(clip: Clip, show: Show, cast: Cast, chat: Chat, frames: int = 10) -> str:
    """Ask a vision-language model for a caption of a clip and return a valid one.

    The model gets evenly spaced frames of the clip, the subtitles of its time span (from an .srt file beside
    the source) and the show's characters. A reply that breaks the grammar is sent back with the problems, up
    to `MAX_CORRECTIONS` times.

    Args:
        clip: The clip to caption.
        show: The show that the clip comes from.
        cast: The cast registry.
        chat: The model; see `toolkit.captions.vlm`.
        frames: Number of frames to send.

    Raises:
        NoCaptionError: The last reply is not a valid caption either, or the model sees no character of the
            show.
        CastmixError: The clip cannot be read, or the model gives no answer.
    """
    messages = _question(clip, show, frames)
    for _ in range(1 + MAX_CORRECTIONS):
        # Some models write their reasoning first, up to </think>.
        reply = " ".join(re.sub(r"(?s)^.*</think>", "", chat(messages)).split())
        if reply.strip(".").casefold() == NO_CHARACTER:
            raise NoCaptionError(f"the model sees no character of {show.name}", reply)
        problems = _problems(reply, show, cast)
        if not problems:
            return reply
        correction = f"This breaks the rules: {'; '.join(problems)}. Answer with the corrected caption only."
        messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": correction}]
    raise NoCaptionError(
        f"all {1 + MAX_CORRECTIONS} replies of the model broke the grammar, the last one: "
        f"{'; '.join(problems)}",
        reply,
    )


def _problems(reply: str, show: Show, cast: Cast) -> list[str]:
    """Return the problems of a reply: of the grammar, characters of other shows, and a wrong scene style."""
    problems = grammar.validate(reply, cast) + grammar.validate(reply, Cast((show,)))
    if not problems and not reply.endswith(f"[scene-style:{show.style}]"):
        problems = [f"this show is {show.style}: end with [scene-style:{show.style}]"]
    return list(dict.fromkeys(problems))


def _question(clip: Clip, show: Show, frames: int) -> list[Message]:
    """Return the messages that ask for a caption: the rules, the show, the subtitles and the frames."""
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
        nobody=NO_CHARACTER,
        cast="\n".join(known),
    )
    kind = "cartoon" if show.style == "cartoon" else "live action or realistic"
    facts = f"{show.name} ({kind}). {show.description}"
    spoken = transcript(clip.source, clip.start, clip.end) or "(nothing, or not known)"
    told = f"The show: {facts}\nSpoken during the clip:\n{spoken}\nThe frames:"
    return [
        {"role": "system", "content": rules},
        {"role": "user", "content": [text_part(told), *map(image_part, shown)]},
    ]
