"""Items 11 and 12: are the fast paths right, and are they the same every time?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness.benchmarks.cases import FORMATS, SOFT_PRUNE, Chunk, spread_out
from harness.benchmarks.checks import errors, pooled_identity
from harness.benchmarks.gpu.lab import Lab
from harness.benchmarks.timing import Action
from harness.cache.attention.base import Backend, Scratch, Segment

TIMES_BF16 = 2  # the error of BF16 SDPA over the same tensors
IDENTITY = {torch.bfloat16: 1e-2, torch.float32: 1e-5}
QUERIES = 468


def correctness(lab: Lab) -> None:
    """Errors against fp32 attention over the decoded tensors; pooled frames against copies."""
    chunk = lab.chunk(min(QUERIES, lab.sizes.num_queries))
    for name in lab.within(("bf16", *FORMATS)):
        history = lab.history(name, lab.window)
        for backend in (lab.staged(), lab.fused()):
            own, dense = errors(backend, chunk, history)
            case = f"{name}, {backend.name}"
            note = f"BF16 SDPA over the same tensors: {dense:.2e}"
            lab.add(case, own, "relative error", target=TIMES_BF16 * dense, note=note)
    k, v = lab.tensors(lab.window)
    for dtype, bound in IDENTITY.items():
        for backend in (lab.staged(), lab.fused()):
            own = pooled_identity(backend, chunk.to(dtype), k.to(dtype), v.to(dtype))
            case = f"pooled tokens / their copies, {str(dtype).removeprefix('torch.')}"
            lab.add(f"{case}, {backend.name}", own, "relative error", target=bound)


def repetition(lab: Lab) -> None:
    """One layer's call captured in a graph and replayed; calls repeated bit by bit."""
    chunk = lab.chunk()
    histories = {
        "rtn_int4": lab.history("rtn_int4", lab.window),
        SOFT_PRUNE: lab.history(SOFT_PRUNE, lab.window, spread_out(lab.window, lab.window // 2)),
    }
    for name in lab.within(list(histories)):
        for backend in (lab.staged(), lab.fused()):
            case = f"{name}, {backend.name}"
            action = _call(backend, chunk, histories[name])
            first, second = action().clone(), action().clone()
            _yes(lab, f"{case}, two calls equal", torch.equal(first, second))
            try:
                replay = _captured(action, lab.device)
            except RuntimeError as error:
                _yes(lab, f"{case}, captured", False, str(error).splitlines()[0])
                continue
            _yes(lab, f"{case}, captured", True)
            _yes(lab, f"{case}, replay equals the call", torch.equal(replay().clone(), first))
            times = lab.times({"call": _action(action), "graph": _action(replay)})
            lab.add(f"{case}, replay / call", times.ratio("graph", "call"), "x", note=times.note)


def _yes(lab: Lab, case: str, answer: bool, note: str = "") -> None:
    lab.add(case, float(answer), "", target=1, at_least=True, note=note)


def _call(backend: Backend, chunk: Chunk, history: Sequence[Segment]) -> Callable[[], Tensor]:
    scratch = Scratch()
    return lambda: backend.attend(chunk.q, chunk.k, chunk.v, history, scratch)


def _action(call: Callable[[], Tensor]) -> Action:
    return lambda _: call()


def _captured(action: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """The action as a graph; on a CPU the action itself."""
    if device.type != "cuda":
        return action
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # kernels are built and tables made before the capture
        for _ in range(2):
            action()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = action()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay
