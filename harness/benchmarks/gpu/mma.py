"""Item 5: what 8-bit operands could give; no backend here multiplies codes yet."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from harness.benchmarks.gpu.lab import Lab
from harness.benchmarks.timing import Action
from harness.system.errors import first_line

ADOPT = 0.95  # of BF16's time, at most, before it is worth writing

Product = Callable[[Tensor, Tensor], Tensor]


def products(lab: Lab) -> None:
    """The vendor's INT8 and FP8 products beside BF16's: a ceiling for such an attention."""
    rows, inner, columns = lab.sizes.gemm
    a = torch.randn(rows, inner, device=lab.device)
    b = torch.randn(columns, inner, device=lab.device)
    wide = (a.bfloat16(), b.bfloat16().T)
    kinds: dict[str, tuple[Product, tuple[Tensor, Tensor]]] = {
        "INT8": (torch._int_mm, ((16 * a).to(torch.int8), (16 * b).to(torch.int8).T)),
        "FP8": (_fp8, (a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).T)),
    }
    for name in lab.within(list(kinds)):
        product, operands = kinds[name]
        case = f"{name} / BF16, product {rows} x {inner} x {columns}"
        try:
            product(*operands)
        except RuntimeError as error:
            lab.add(case, None, "x", note=first_line(error))
            continue
        cases = {"bf16": _action(torch.matmul, wide), name: _action(product, operands)}
        times = lab.times(cases)
        lab.add(case, times.ratio(name, "bf16"), "x", target=ADOPT, note=times.note)
    found = importlib.util.find_spec("flash_attn_interface") is not None
    note = "importable" if found else "not importable: no FP8 attention to compare with"
    lab.add("FlashAttention-3", float(found), "", note=note)


def _action(product: Product, operands: tuple[Tensor, Tensor]) -> Action:
    return lambda _: product(*operands)


def _fp8(a: Tensor, b: Tensor) -> Tensor:
    one = torch.ones((), device=a.device)
    fast = a.is_cuda  # sums of 8-bit products in less than fp32, as attention kernels take them
    return torch._scaled_mm(
        a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=fast
    )
