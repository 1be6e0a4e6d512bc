"""The one clip that shows a motion, and the prompts that ask others to make it elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.captions.prompt_files import Prompt
from toolkit.sandbox.world.world import Look

NAME = "Actor"
"""Whom the clips show, as `castmix learn-tokens` is told."""
TRAITS = ("body", "colour", "pattern", "accessory", "style")


@dataclass(frozen=True)
class Performance:
    """Who makes a motion in its one clip, where, in which style."""

    motion: str
    look: Look
    scene: str
    style: str

    @property
    def caption(self) -> str:
        """As the base model knows captions."""
        from toolkit.sandbox.world import population

        return population.prose_caption(
            [population.describe(self.look)], [self.motion], self.scene, self.style
        )

    @property
    def appearance(self) -> dict[str, str]:
        """What an appearance prompt may say in words."""
        from toolkit.sandbox.world import population

        where = f"{'on' if self.scene == 'beach' else 'in'} the {self.scene}"
        return {"look": population.describe(self.look), "place": f"{where}, {self.style} style"}


def perform(motion: str) -> Performance:
    """The clip of a motion: the same in all cells."""
    import numpy as np

    from toolkit.sandbox.world import population
    from toolkit.sandbox.world.actions import EXTRA_ACTIONS
    from toolkit.sandbox.world.scenery import SCENES
    from toolkit.sandbox.world.shows import named_looks
    from toolkit.sandbox.world.world import STYLES

    number = list(EXTRA_ACTIONS).index(motion)
    rng = np.random.default_rng([5, number])
    looks = population.generic_looks(list(named_looks().values()))
    dressed = [look for look in looks if look.pattern != "plain" and look.accessory != "none"]
    look = dressed[int(rng.integers(len(dressed)))]
    return Performance(motion, look, str(rng.choice(SCENES)), STYLES[number % 2])


def film(shown: Performance, token_steps: int, seed: int, path: Path) -> None:
    """The clip with its mask, its cache, and the token of who is in it."""
    from toolkit.commands.cache import cache
    from toolkit.commands.learn_tokens import learn_tokens
    from toolkit.footage.clips import Clip, write_clip, write_index
    from toolkit.footage.masks import mask_path, write_mask
    from toolkit.footage.video import write_video
    from toolkit.sandbox.world import world
    from toolkit.training.settings import Textual

    actor = world.Actor(shown.look, shown.motion, shown.style, x=0.75)
    frames, masks = world.draw([actor], shown.scene, shown.style)
    video = path / "clips" / "clip.mp4"
    video.parent.mkdir(parents=True, exist_ok=True)
    write_video(video, frames, world.FPS)
    end = (len(frames) - 1) / world.FPS
    height, width = frames.shape[1:3]
    clip = Clip(video, shown.caption, "sandbox", 0.0, end, world.FPS, len(frames), width, height, 0)
    write_mask(mask_path(clip, NAME), list(masks[0].astype("uint8") * 255), world.FPS)
    mask = {"backend": "truth", "accepted": True, "reasons": []}
    write_clip(path, replace(clip, extra={"masks": {NAME: mask}}))
    write_index(path)
    cache(path)
    learn_tokens(
        path,
        path / "tokens.safetensors",
        subject=[f"{NAME}=a {shown.look.body}"],
        textual=Textual(steps=token_steps, frames=len(frames)),
        seed=seed,
    )


def questions(shown: Performance, asked: int, other: int) -> list[Prompt]:
    """Prompts about creatures that share no trait with who was seen, in other places.

    Half of them in the other style. The kind is asked (for the motion) or other (for one of the base's own).
    """
    import numpy as np

    from toolkit.sandbox.world import population
    from toolkit.sandbox.world.actions import BASE_ACTIONS
    from toolkit.sandbox.world.scenery import SCENES
    from toolkit.sandbox.world.shows import named_looks
    from toolkit.sandbox.world.world import STYLES

    slug = shown.motion.replace(" ", "-")
    looks = [
        look
        for look in population.generic_looks(list(named_looks().values()))
        if all(getattr(look, name) != getattr(shown.look, name) for name in TRAITS[:-1])
    ]
    places = [scene for scene in SCENES if scene != shown.scene]
    rng = np.random.default_rng([6, *shown.motion.encode()])
    known = [str(one) for one in rng.permutation(list(BASE_ACTIONS))]
    prompts = []
    for k, number in enumerate(rng.choice(len(looks), asked + other, replace=False)):
        action = shown.motion if k < asked else known[(k - asked) % len(known)]
        subject = population.describe(looks[int(number)])
        text = population.prose_caption([subject], [action], places[k % len(places)], STYLES[k % 2])
        kind = "asked" if k < asked else "other"
        prompts.append(Prompt(f"{slug}-{kind}-{k + 1:02d}", text, kind))
    return prompts
