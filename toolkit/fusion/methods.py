"""All ways to fuse. To add one: a function like `weighted`, its line here, and its name in `MethodName`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from toolkit.fusion.distillation import gradient
from toolkit.fusion.job import Facts, Job
from toolkit.fusion.regression import least_squares
from toolkit.fusion.settings import MethodName
from toolkit.fusion.weight_merging import dare, masked, svd, ties, weighted
from toolkit.lora.parts import Part, Tensors

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
