"""All ways to fuse. To add one: a function like `weighted`, its line here, and its name in `MethodName`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from toolkit.fusion.gradient import gradient
from toolkit.fusion.knobs import MethodName
from toolkit.fusion.least_squares import least_squares
from toolkit.fusion.merge import dare, masked, svd, ties, weighted
from toolkit.fusion.parts import Facts, Job, Part, Tensors

Method = Callable[[Sequence[Part], Job], tuple[Tensors, Facts]]

METHODS: dict[MethodName, Method] = {
    "weighted": weighted,
    "ties": ties,
    "dare": dare,
    "svd": svd,
    "least-squares": least_squares,
    "gradient": gradient,
    "masked": masked,
}
