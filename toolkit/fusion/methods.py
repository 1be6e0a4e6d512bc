"""All fusion methods by name.

To add one, write a function like `weighted`, add its line here and its name to `MethodName`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from toolkit.fusion.gradient import gradient
from toolkit.fusion.job import Facts, Job
from toolkit.fusion.regression import least_squares
from toolkit.fusion.weight_merging import dare, masked, svd, ties, weighted
from toolkit.lora.parts import Part, Tensors

Method = Callable[[Sequence[Part], Job], tuple[Tensors, Facts]]
"""Takes the LoRAs and the settings; returns A and B by layer, and facts for the fused file's metadata."""

METHODS: dict[str, Method] = {
    "weighted": weighted,
    "ties": ties,
    "dare": dare,
    "svd": svd,
    "least-squares": least_squares,
    "gradient": gradient,
    "masked": masked,
}
