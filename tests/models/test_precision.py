"""Which number format a device computes in."""

from __future__ import annotations

import pytest
import torch

from toolkit.models import precision


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({}, torch.float32),
    ],
)
def test_only_a_cpu_that_computes_in_bfloat16_gets_it(
    able: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert precision.fast_dtype("cpu") == expected
    with precision.autocast("cpu"):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == expected


def test_a_gpu_gets_bfloat16() -> None:
    assert precision.fast_dtype("cuda") == torch.bfloat16
