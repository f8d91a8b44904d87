"""Compiles the kernels without a GPU, for several kinds of GPU, and counts their instructions.

`python -m harness.cache.kernels.ahead` prints one JSON line per kernel, format and target. It needs
a process of its own, because TRITON_INTERPRET, which tests set, replaces the compiler.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from harness.api import Centroids, CodePlane, KernelLayout, Packed
from harness.cache.kernels import encode, fused, int8, stage
from harness.cache.kernels.launch import Launch, Room
from harness.cache.positions import Turns

# A5000, H100 and H200, B200.
ROOMS = {86: Room(86, 64), 90: Room(90, 132), 100: Room(100, 148)}
BATCH, HEADS, SLOTS, TOKENS, HEAD_DIM = 1, 12, 21, 1560, 128
NUMBERS = tuple(float(code) for code in range(256))  # any numbers do: kernels read them at run time
MMA = r"wgmma\.mma_async|mma\.sync|tcgen05\.mma"
CHUNK = 3  # frames of a chunk, encoded by one launch
# Together they take every branch of `tiles.py`: kinds of groups, tables, sums of planes.
FORMS = {
    "exact": KernelLayout(),
    "int8_tokens": KernelLayout((CodePlane(8, 16, "tokens", -127.5, fit="absmax"),)),
    "int4_tokens": KernelLayout((CodePlane(4, 16, "tokens", -7.5, fit="absmax"),)),
    "int2_tokens": KernelLayout((CodePlane(2, 16, "tokens", -1.5, fit="absmax"),)),
    "int4_token": KernelLayout((CodePlane(4, HEAD_DIM, "channels", zero="zero", fit="minmax"),)),
    "int2_token": KernelLayout((CodePlane(2, HEAD_DIM, "channels", zero="zero", fit="minmax"),)),
    "int4_channels": KernelLayout((CodePlane(4, 32, "channels", zero="zero", fit="minmax"),)),
    "int4_int4": KernelLayout(
        (CodePlane(4, 16, "tokens", -7.5), CodePlane(4, 16, "tokens", -7.5, "codes1", "scale1"))
    ),
    "int4_frame": KernelLayout(
        (CodePlane(4, HEAD_DIM, "channels", -7.5),), None, "channel_scale", "channel_mean"
    ),
    "fp8": KernelLayout((CodePlane(8, None, "channels", table=NUMBERS),)),
    "nvfp4": KernelLayout(
        (CodePlane(4, 16, "channels", scale_table=NUMBERS, unit="unit", table=NUMBERS[:16]),)
    ),
    "int2_clustered": KernelLayout(
        (CodePlane(2, 64, "channels", -2.0, scale_table=NUMBERS, unit="unit"),),
        centroids=(Centroids("centroids", "nearest"),),
    ),
    "nuq4": KernelLayout((CodePlane(4, None, "tokens", zero="zero", table="levels"),)),
    "turboquant4": KernelLayout(
        (CodePlane(4, None, "channels", scale=None, table=NUMBERS[:16]),), "norm"
    ),
}
_TYPES = {
    torch.uint8: "*u8",
    torch.int8: "*i8",
    torch.int32: "*i32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
}


def launches(name: str, capability: int) -> Iterator[tuple[str, Launch]]:
    """Yield the launches of one format at the sizes of the Wan checkpoints, by kernel name."""
    form, packed = FORMS[name], _stored(FORMS[name])
    slots = _empty(SLOTS, dtype=torch.int32)
    shifts = Turns(_empty(SLOTS, 22, dtype=torch.complex64), None)
    # Wan rotates 44 of 128 channels with time and 84 with the place, in pairs.
    turns = Turns(shifts.time, _empty(TOKENS, 42, dtype=torch.complex64))
    # Three heads at a time, the fewest that `staged` decodes together.
    out = _empty(BATCH, 3, SLOTS * TOKENS, HEAD_DIM, dtype=torch.bfloat16)
    yield "stage", stage.prepare(form, packed, slots, (0, 3), out)
    yield "stage_turns", stage.prepare(form, packed, slots, (0, 3), out, turns)
    # Some hundreds of queries, for which fused attention is made.
    q = _empty(BATCH, HEADS, 256, HEAD_DIM, dtype=torch.bfloat16)
    both = (form, packed), (form, packed)
    if encode.can_encode(form):
        chunk = _empty(BATCH, CHUNK, TOKENS, HEADS, HEAD_DIM, dtype=torch.bfloat16)
        x = chunk.permute(0, 3, 1, 2, 4)  # the strides that the network's tensors have
        yield "encode", encode.prepare(form, x, packed, slots[:CHUNK])
    for suffix, kind in (("", None), ("_shifts", shifts), ("_turns", turns)):
        yield "fused" + suffix, fused.prepare(q, *both, slots, kind, ROOMS[capability])


def launches_int8(capability: int) -> Iterator[tuple[str, Launch]]:
    """Yield the launches of 8-bit attention at the sizes of the Wan checkpoints, by kernel name."""
    q = _empty(BATCH, 3, CHUNK * TOKENS, HEAD_DIM, dtype=torch.bfloat16)
    kv = _empty(BATCH, 3, SLOTS * TOKENS, HEAD_DIM, dtype=torch.bfloat16)
    encoding, attending = int8.prepare(q, kv, kv, None, ROOMS[capability])
    yield "encode", encoding
    yield "attend", attending
    bias = _empty(1, 1, SLOTS * TOKENS, dtype=torch.float32)
    yield "attend_bias", int8.prepare(q, kv, kv, bias, ROOMS[capability])[1]


def compiled(launch: Launch, capability: int) -> dict[str, Any]:
    """Compile a launch for one target and return its resources.

    registers: per thread. stack, shared: bytes. mma: kinds of matrix instructions. int8: whether
    some of them multiply 8-bit integers. instructions: total. loops: instructions of each loop,
    ascending.
    """
    binary = triton.compile(
        _source(launch), GPUTarget("cuda", capability, 32), options=dict(launch.options)
    )
    usage = _dump("-res-usage", binary.asm["cubin"])
    sass = re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]+);", _dump("-sass", binary.asm["cubin"]))
    return {
        "registers": int(re.findall(r"REG:(\d+)", usage)[-1]),
        "stack": int(re.findall(r"STACK:(\d+)", usage)[-1]),
        "shared": binary.metadata.shared,
        "mma": sorted(set(re.findall(MMA, binary.asm["ptx"]))),
        "int8": bool(re.search(r"mma\S*(\.s8\.s8|kind::i8)", binary.asm["ptx"])),
        "instructions": len(sass),
        "loops": _loops([(int(address, 16), text) for address, text in sass]),
    }


def _source(launch: Launch) -> ASTSource:
    """Return the kernel with the types and specializations that Triton would derive at launch."""
    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    divisible: list[tuple[int, ...]] = []

    def type_of(value: Any, path: tuple[int, ...], special: bool) -> Any:
        # Named tuples must stay what they are: the kernels read their fields.
        if isinstance(value, tuple):
            types = [type_of(x, (*path, i), special) for i, x in enumerate(value)]
            return type(value)(*types) if hasattr(value, "_fields") else tuple(types)
        # Triton compiles None and the integer 1 into the kernel as constants, and assumes that
        # pointers and integers divisible by 16 stay so.
        if value is None or (special and isinstance(value, int) and value == 1):
            constants[path] = value
            return "constexpr"
        if isinstance(value, Tensor) or (special and value % 16 == 0):
            divisible.append(path)
        if isinstance(value, Tensor):
            return _TYPES[value.dtype]
        return "i32" if abs(value) < 2**31 else "i64"

    for i, name in enumerate(launch.kernel.arg_names):
        if name in launch.constants:
            signature[name], constants[(i,)] = "constexpr", launch.constants[name]
        else:
            special = name not in launch.kernel.do_not_specialize
            signature[name] = type_of(launch.arguments[name], (i,), special)
    attributes = {path: [["tt.divisibility", 16]] for path in divisible}
    return ASTSource(launch.kernel, signature, constants, attributes)


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    # Compiling needs shapes, strides and dtypes only; meta tensors have no memory.
    return torch.empty(shape, dtype=dtype, device="meta")


def _stored(form: KernelLayout) -> Packed:
    """Return packed frames of one format as meta tensors."""
    head = (BATCH, HEADS, SLOTS)
    channels = [name for name in (form.channel_scale, form.channel_mean) if name]
    parts = {name: _empty(*head, HEAD_DIM, dtype=torch.float32) for name in channels}
    if form.token_scale:
        parts[form.token_scale] = _empty(*head, TOKENS, dtype=torch.float16)
    for each in form.centroids:
        parts[each.rows] = _empty(*head, 48, HEAD_DIM, dtype=torch.float16)
        parts[each.nearest] = _empty(*head, TOKENS, dtype=torch.uint8)
    if not form.planes:
        parts["exact"] = _empty(*head, TOKENS, HEAD_DIM, dtype=torch.bfloat16)
    for plane in form.planes:
        parts[plane.codes] = _empty(*head, TOKENS, HEAD_DIM * plane.bits // 8, dtype=torch.uint8)
        group = plane.group_in((TOKENS, HEAD_DIM))
        by_tokens = -(-TOKENS // group), HEAD_DIM
        by_channels = TOKENS, HEAD_DIM // group
        shape = by_tokens if plane.axis == "tokens" else by_channels
        if plane.scale:
            dtype = torch.uint8 if plane.scale_table else torch.float16
            parts[plane.scale] = _empty(*head, *shape, dtype=dtype)
        if plane.zero:
            parts[plane.zero] = _empty(*head, *shape, dtype=torch.float16)
        if plane.unit:
            parts[plane.unit] = _empty(*head, dtype=torch.float32)
        if isinstance(plane.table, str):
            parts[plane.table] = _empty(*head, 2**plane.bits, dtype=torch.float16)
    return Packed(parts, 0, (TOKENS, HEAD_DIM))


def _dump(what: str, cubin: bytes) -> str:
    """Return the output of cuobjdump for a binary."""
    with tempfile.TemporaryDirectory() as folder:
        # cuobjdump reads files only.
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        tool = triton.knobs.nvidia.cuobjdump.path
        return subprocess.run([tool, what, path], capture_output=True, text=True, check=True).stdout


def _loops(sass: list[tuple[int, str]]) -> list[int]:
    """Return the instructions of each loop, from the target of a backward jump to the jump."""
    loops = []
    for address, text in sass:
        jump = re.search(r"BRA\b.*0x([0-9a-f]+)", text)
        if jump and int(jump[1], 16) < address:
            loops.append(sum(int(jump[1], 16) <= at <= address for at, _ in sass))
    return sorted(loops)


def main() -> None:
    """Compile all kernels and formats, or those given by --only, for every target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="FORM or KERNEL/FORM, or int8")
    only = set(parser.parse_args().only)
    for capability in ROOMS:
        found = [(form, *each) for form in FORMS for each in launches(form, capability)]
        found += [("int8", *each) for each in launches_int8(capability)]
        for form, kernel, launch in found:
            if only and not only & {form, f"{kernel}/{form}"}:
                continue
            row = {"kernel": kernel, "form": form, "sm": capability}
            print(json.dumps({**row, **compiled(launch, capability)}), flush=True)


if __name__ == "__main__":
    main()
