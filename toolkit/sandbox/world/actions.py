"""Actions of the sandbox's creatures: solo actions, gaits, and the two roles of each interaction.

An action maps time to a pose offset per frame. Time `p` is measured in periods: one clip lasts one period and
starts at 0. The offset has these keys, all optional:

- dx, dy: translation in picture heights (dy > 0 is down)
- rot: rotation in radians
- sx, sy: stretch, 1 = none
- step: swing of the feet, -1 to 1

Solo actions repeat every period. The roles of interactions are played once.

The base model is pretrained on `BASE_ACTIONS` and `ROLES`. Each of `SIGNATURES` and `GAITS` belongs to one
named character. `EXTRA_ACTIONS` occur in no training data except that of motion LoRAs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Motion = Callable[[Array], dict[str, Array]]


def _wave(p: Array) -> Array:
    return np.asarray(np.sin(2 * np.pi * p))


def _swell(p: Array) -> Array:
    """0 at both ends of a period, 1 in its middle."""
    return np.asarray(np.sin(np.pi * p) ** 2)


def _bob(p: Array) -> Array:
    """Two bumps per period, 0 to 1."""
    return np.asarray(np.abs(np.sin(2 * np.pi * p)))


def _hop(p: Array) -> Array:
    """One jump in the first half of a period."""
    return np.asarray(np.maximum(0, np.sin(2 * np.pi * p)))


def _turn(p: Array) -> Array:
    """One full rotation while `_hop` is in the air, in radians."""
    return np.asarray(np.clip((p % 1) * 2, 0, 1) * 2 * np.pi, np.float32)


def _triangle(p: Array) -> Array:
    return np.asarray(2 * np.abs(2 * ((p + 0.25) % 1) - 1) - 1, np.float32)


def _stride(p: Array) -> Array:
    """Horizontal position of walking creatures: from left to right and back, -1 to 1."""
    return np.asarray(-np.cos(2 * np.pi * p))


def _stairs(p: Array, stops: int) -> Array:
    """Time that pauses `stops` times per period."""
    whole = np.floor(p * stops)
    part = np.clip((p * stops - whole) * 2, 0, 1)
    return np.asarray((whole + part * part * (3 - 2 * part)) / stops)


def _ramp(p: Array, start: float, end: float) -> Array:
    """Smooth step: 0 before `start`, 1 after `end`."""
    t = np.clip((p - start) / (end - start), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


BASE_ACTIONS: dict[str, Motion] = {
    "stands still": lambda p: {"sy": 1 + 0.02 * _wave(p)},
    "walks": lambda p: {"dx": 0.2 * _stride(p), "dy": -0.035 * _bob(2 * p), "step": _wave(4 * p)},
    "jumps": lambda p: {"dy": -0.27 * _hop(p), "sy": 1 + 0.12 * _hop(p) - 0.2 * _hop(p + 0.5)},
    "sways": lambda p: {"rot": 0.5 * _wave(p), "dx": 0.06 * _wave(p)},
    "puffs up": lambda p: {"sx": 1 + 0.34 * _swell(p), "sy": 1 + 0.34 * _swell(p)},
    "floats": lambda p: {"dy": -0.2 + 0.05 * _wave(p), "dx": 0.06 * np.cos(2 * np.pi * p)},
    "ducks": lambda p: {"sy": 1 - 0.5 * _swell(p), "sx": 1 + 0.24 * _swell(p)},
}
SIGNATURES: dict[str, Motion] = {
    "bounces twice": lambda p: {"dy": -0.2 * _bob(p), "sx": 1.12 - 0.24 * _bob(p)},
    "does a somersault": lambda p: {"dy": -0.26 * _hop(p), "rot": _turn(p)},
    "stretches tall": lambda p: {"sy": 1 + 0.45 * _swell(p), "sx": 1 - 0.32 * _swell(p)},
    "hangs upside down": lambda p: {"rot": np.pi + 0.2 * _wave(p), "dy": -0.1 + 0 * p},
    "zigzags": lambda p: {"dx": 0.18 * _triangle(p), "dy": -0.12 - 0.12 * _triangle(2 * p)},
    "bows deeply": lambda p: {"rot": 1.0 * _hop(p), "dx": 0.08 * _hop(p), "dy": 0.03 * _hop(p)},
    "shivers all over": lambda p: {"dx": 0.045 * _wave(4 * p), "sx": 1 - 0.1 * np.abs(_wave(4 * p))},
    "spins around": lambda p: {"rot": 2 * np.pi * p, "dy": -0.03 + 0 * p},
    "swings in circles": lambda p: {"dx": 0.15 * np.cos(2 * np.pi * p), "dy": -0.15 + 0.14 * _wave(p)},
    "rolls along": lambda p: {"dx": 0.2 * _stride(p), "rot": 4.2 * (0.2 * _stride(p) + 0.2)},
}
GAITS: dict[str, Motion] = {
    "waddles": lambda p: {"dx": 0.2 * _stride(p), "rot": 0.34 * _wave(3 * p)},
    "hops along": lambda p: {"dx": 0.2 * _stride(p), "dy": -0.15 * _bob(1.5 * p)},
    "marches": lambda p: {
        "dx": 0.2 * _stride(_stairs(p, 4)),
        "sy": 1.06 - 0.2 * np.abs(_wave(2 * p)),
        "step": _wave(2 * p),
    },
    "glides": lambda p: {"dx": 0.2 * _stride(p), "dy": -0.11 + 0 * p, "rot": 0.4 * _wave(p)},
    "staggers": lambda p: {"dx": 0.17 * _stride(p) + 0.09 * _wave(3 * p), "rot": 0.26 * _wave(3 * p + 0.25)},
    "struts": lambda p: {"dx": 0.2 * _stride(p), "rot": -0.36 + 0 * p, "dy": -0.03 * _bob(2 * p)},
    "bobs along": lambda p: {"dx": 0.2 * _stride(p), "dy": -0.1 - 0.1 * np.cos(4 * np.pi * p)},
    "tiptoes": lambda p: {
        "dx": 0.2 * _stride(p),
        "sy": 1.3 + 0 * p,
        "sx": 0.76 + 0 * p,
        "step": _wave(4 * p),
    },
    "creeps": lambda p: {"dx": 0.2 * _stride(p), "sy": 0.6 + 0 * p, "sx": 1.2 + 0 * p, "step": _wave(4 * p)},
    "lunges": lambda p: {"dx": 0.22 * _stride(_stairs(p, 2)), "sx": 1 + 0.32 * np.maximum(0, _wave(2 * p))},
}
EXTRA_ACTIONS: dict[str, Motion] = {
    "leans back": lambda p: {"rot": -0.75 * _swell(p), "dx": -0.06 * _swell(p)},
    "drops from above": lambda p: {"dy": -0.62 * (1 - _ramp(p % 1, 0, 0.45) + _ramp(p % 1, 0.85, 1))},
    "trembles and jumps": lambda p: {
        "dx": 0.04 * _wave(6 * p) * (p % 1 < 0.5),
        "dy": -0.26 * _hop(p + 0.5),
    },
}
HELD_OUT_ACTIONS = SIGNATURES | GAITS | EXTRA_ACTIONS


def _run(p: Array) -> Array:
    return np.asarray(0.4 * np.clip(p, 0, 1))


ROLES: dict[str, Motion] = {
    "chases": lambda p: {"dx": _run(p), "dy": -0.1 * _bob(p), "rot": 0.25 + 0 * p},
    "runs away": lambda p: {
        "dx": _run(p),
        "dy": -0.04 * _bob(2 * p),
        "rot": 0.15 + 0 * p,
        "step": _wave(4 * p),
    },
    "bumps": lambda p: {"dx": 0.26 * _ramp(p, 0, 0.4) - 0.2 * _ramp(p, 0.4, 0.75), "step": _wave(4 * p)},
    "falls over": lambda p: {"dx": 0.12 * _ramp(p, 0.38, 0.65), "rot": 1.5 * _ramp(p, 0.38, 0.65)},
    "hands over a gift": lambda p: {
        "dx": 0.08 * _swell(np.clip(p, 0, 1)),
        "rot": 0.2 * _swell(np.clip(p, 0, 1)),
    },
    "takes the gift": lambda p: {"dy": -0.12 * _bob(2 * np.clip(p, 0, 1)) * (p > 0.6)},
    "looks around": lambda p: {"dx": 0.06 * _wave(p), "rot": 0.3 * _wave(2 * p)},
    "hides": lambda p: {"sy": 0.34 + 0.66 * _bob(np.clip(p, 0, 1))},
    "rides on top": lambda p: {
        "dx": 0.18 * _stride(p),
        "dy": -0.03 * _bob(2 * p),
        "rot": 0.14 * _wave(2 * p),
    },
    "carries": lambda p: {"dx": 0.18 * _stride(p), "dy": -0.015 * _bob(2 * p), "step": _wave(4 * p)},
}
INTERACTIONS: dict[str, tuple[str, str]] = {
    "chase": ("chases", "runs away"),
    "bump": ("bumps", "falls over"),
    "gift": ("hands over a gift", "takes the gift"),
    "peek": ("looks around", "hides"),
    "ride": ("rides on top", "carries"),
}
ACTIONS = BASE_ACTIONS | HELD_OUT_ACTIONS | ROLES
GIFT_LEAVES, GIFT_ARRIVES = 0.35, 0.6  # in periods


def find_interaction(actions: tuple[str, ...]) -> str:
    """Return the name of the interaction that a clip's actions form, or "". A chase may have two chasers."""
    for name, (first, second) in INTERACTIONS.items():
        if first in actions and second in actions:
            return name
    return ""
