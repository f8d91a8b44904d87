"""Items 0 and 1: rates of the machine, and the fastest BF16 attention kernel."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.benchmarks.lab import Lab
from harness.benchmarks.timing import Action
from harness.cache.attention import dense
from harness.system import machine as env
from harness.system.errors import first_line
from harness.system.files import write_json

Attend = Callable[[Tensor, Tensor, Tensor], object]
LSE, LSE_COSTS = " lse", 1.02  # upper bound


def machine(lab: Lab) -> None:
    """Measure the copy rate and the rate of the network's largest product, both in BF16."""
    source = torch.randn(lab.sizes.copy_bytes // 2, device=lab.device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    seconds = lab.times({"copy": lambda _: target.copy_(source)}).of("copy").middle
    lab.copy_rate = 2 * source.nbytes / seconds  # each byte is read and written
    lab.add("copy, read and write", lab.copy_rate / 1e12, "TB/s")
    rows, inner, columns = lab.sizes.gemm
    a = torch.randn(rows, inner, device=lab.device, dtype=torch.bfloat16)
    b = torch.randn(inner, columns, device=lab.device, dtype=torch.bfloat16)
    seconds = lab.times({"product": lambda _: a @ b}).of("product").middle
    # A product of matrices multiplies and adds once per inner element.
    lab.notes["gemm_rate"] = 2 * rows * inner * columns / seconds
    case = f"BF16 product {rows} x {inner} x {columns}"
    lab.add(case, lab.notes["gemm_rate"] / 1e12, "TFLOP/s")


def sdpa(lab: Lab) -> None:
    """Time every kernel of torch, with and without log-sum-exp; all cases then use the fastest."""
    calls = _kernels(lab.device)
    rates: dict[int, dict[str, float]] = {}
    for multiple in lab.within(lab.sizes.multiples):
        chunk = lab.chunk()
        k, v = (x.repeat(1, 1, multiple, 1) for x in (chunk.k, chunk.v))
        k, v = torch.randn_like(k), torch.randn_like(v)  # the repetition gave the shape
        qkv = (chunk.q, k, v)
        actions = {name: _action(attend, *qkv) for name, attend in calls.items()}
        cases = {}
        for name, action in actions.items():
            try:
                action(0)
                cases[name] = action
            except RuntimeError as error:  # the kernel does not support these tensors
                lab.add(name, None, "TFLOP/s", note=first_line(error))
        times = lab.times(cases)
        # Two products, queries with keys and weights with values, of two operations each.
        flops = 4 * chunk.q.numel() * k.shape[2]
        rates[multiple] = {name: flops / times.of(name).middle for name in cases}
        for name in cases:
            rate, more = rates[multiple][name] / 1e12, {"seconds": times.seconds[name]}
            lab.add(f"{name}, N = {k.shape[2]}", rate, "TFLOP/s", note=times.note, more=more)
            plain = name.removesuffix(LSE)
            if plain != name and plain in cases:
                ratio = times.ratio(name, plain)
                case = f"{plain}, N = {k.shape[2]}, log-sum-exp on / off"
                lab.add(case, ratio, "x", target=LSE_COSTS, note=times.note)
    _choose(lab, rates)


def _choose(lab: Lab, rates: dict[int, dict[str, float]]) -> None:
    """Choose the fastest kernel at the window's length, or at the longest that was timed."""
    window = lab.sizes.window // lab.sizes.encoded.num_frames
    found = rates.get(window) or rates[max(rates)]
    fastest = max((n for n in found if not n.endswith(LSE)), key=lambda name: found[name])
    first = getattr(SDPBackend, f"{fastest.upper()}_ATTENTION")
    order = [first, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    order = list(dict.fromkeys(order))
    lab.until_end.enter_context(mock.patch.object(dense, "_order", lambda device: order))
    # Until the bench ends, BF16 and all methods use this kernel: a ratio then compares storage and
    # not kernels.
    case = "kernel that stands for BF16, for everyone"
    lab.add(case, found[fastest] / 1e12, "TFLOP/s", note=fastest)
    path = lab.report.path.with_name(f"{lab.report.path.stem}-calibration.json")
    write_json(
        path,
        {
            "gemm_flops_per_s": lab.notes["gemm_rate"],
            "attention_flops_per_s": found[fastest],
            "copy_bytes_per_s": lab.copy_rate,
            "device": env.device_name(lab.device),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    print(f"  {path}", flush=True)


def _kernels(device: torch.device) -> dict[str, Attend]:
    """Return kernels by name, each with and without log-sum-exp."""
    # Attention that is merged by log-sum-exp needs it as an output, which SDPA does not return:
    # call the operators behind it.
    aten = torch.ops.aten
    if device.type == "cpu":
        with_lse = aten._scaled_dot_product_flash_attention_for_cpu
        return {"flash": _by(None), f"flash{LSE}": with_lse}

    def cudnn(q: Tensor, k: Tensor, v: Tensor) -> object:
        return aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)

    def efficient(q: Tensor, k: Tensor, v: Tensor) -> object:
        return aten._scaled_dot_product_efficient_attention(q, k, v, None, True)

    return {
        "flash": _by(SDPBackend.FLASH_ATTENTION),
        f"flash{LSE}": aten._scaled_dot_product_flash_attention,  # always returns it
        "cudnn": _by(SDPBackend.CUDNN_ATTENTION),
        f"cudnn{LSE}": cudnn,
        "efficient": _by(SDPBackend.EFFICIENT_ATTENTION),
        f"efficient{LSE}": efficient,
    }


def _by(kernel: SDPBackend | None) -> Attend:
    """Return SDPA with one of its kernels; None leaves the choice to torch."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> object:
        if kernel is None:
            return F.scaled_dot_product_attention(q, k, v)
        with sdpa_kernel(kernel):
            return F.scaled_dot_product_attention(q, k, v)

    return attend


# A function of its own, so that each action keeps the kernel it was made with.
def _action(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Action:
    return lambda _: attend(q, k, v)
