"""Items 2 and 7: how fast history is decoded into scratch, and how fast a chunk is stored."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from harness.api import Method, Packed, Quantizer
from harness.benchmarks.cases import FORMATS, PRQ, method_of
from harness.benchmarks.gpu.lab import Lab
from harness.benchmarks.timing import Action, clock_of
from harness.cache.attention.by_kernel import form_of
from harness.cache.pages import Arena
from methods.quantizers.grouped import Grouped

OF_COPY_RATE = 0.7  # at least
APPEND_US, APPEND_SHARE = 25, 0.003  # a layer, of a chunk: at most


def staging(lab: Lab) -> None:
    """Bytes read and written a second, of the machine's copy rate."""
    k, _ = lab.tensors(lab.window)
    for name, quantizer in lab.within(_quantizers(lab)):
        packed = quantizer.encode(k)
        out = torch.empty_like(k).flatten(2, 3)
        times = lab.times({name: _stage(lab, quantizer, packed, out)})
        rate = (packed.nbytes + out.nbytes) / times.of(name).middle
        more = {"gb_per_s": rate / 1e9, "seconds": times.seconds[name]}
        lab.add(
            name,
            rate / lab.copy_rate,
            "of the copy rate",
            target=OF_COPY_RATE,
            at_least=True,
            note=times.note or lab.missing or "",
            more=more,
        )
    for name in ("QVG centroids", "FP8", "NVFP4"):
        lab.add(name, None, "", note="no quantizer here stores this")


def _quantizers(lab: Lab) -> list[tuple[str, Quantizer]]:
    """What is read, by name; those of QuaRot without the rotation, which is not of the kernel."""
    kivi = method_of("kivi_int4")
    assert isinstance(kivi.value, Grouped)
    found: list[tuple[str, Quantizer]] = [
        (name, method_of(name).key) for name in ("rtn_int8", "rtn_int4", "rtn_int2", PRQ)
    ]
    return [
        *found,
        ("kivi_int4 keys", kivi.key),
        ("kivi_int4 values", kivi.value),
        ("INT4, one scale a token", replace(kivi.value, group=lab.sizes.head_dim)),
        ("exact", method_of("bf16").key),
    ]


def _stage(lab: Lab, quantizer: Quantizer, packed: Packed, out: Tensor) -> Action:
    """All heads and frames at once."""
    num_heads, num_frames = packed.shape[1:3]
    if lab.missing:
        pages = out.unflatten(2, (num_frames, -1))
        return lambda _: quantizer.stage(packed, pages)
    from harness.cache.kernels.stage import stage

    slots = torch.arange(num_frames, dtype=torch.int32, device=lab.device)
    return lambda _: stage(form_of(quantizer), packed, slots, (0, num_heads), out)


def append(lab: Lab) -> None:
    """Microseconds a layer to encode a chunk and put it into its pages."""
    k, v = lab.tensors(lab.sizes.chunk_frames)
    attention_s = lab.bf16_s.get(lab.sizes.window)
    clock = clock_of(lab.device, head_start_s=0.1)  # thousands of launches
    for name in lab.within(("bf16", *FORMATS)):
        times = lab.times({name: _append(method_of(name), lab, k, v)}, clock=clock)
        a_layer = times.of(name).scaled(1 / lab.sizes.num_layers)
        share = a_layer.middle / (5 * attention_s) if attention_s else None
        lab.add(name, a_layer.scaled(1e6), "us a layer", target=APPEND_US, note=times.note)
        note = "of five attention calls of the window, which are less than a chunk"
        lab.add(f"{name}, share", share, "", target=APPEND_SHARE, note=note)


def _append(method: Method, lab: Lab, k: Tensor, v: Tensor) -> Action:
    """Into pages that are there, for all layers."""
    frames = list(range(k.shape[2]))
    layers = [Arena(method.key, method.value, len(frames)) for _ in range(lab.sizes.num_layers)]

    def store(_: int) -> None:
        for layer in layers:
            layer.drop(layer.frames)
            layer.store(frames, k, v)

    return store
