"""Small geometries and networks that the tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from harness.api import CacheSpec, Exact, Method
from harness.attention.base import Backend
from harness.attention.portable import Portable
from harness.bench.cases import configured
from harness.cache import Session
from harness.generate import Silent
from harness.models.wan import Wan, WanDims, init_weights
from harness.sampler import Sampler, Schedule, SeededNoise
from methods.retention.keep import KeepAll

CONF = Path(__file__).resolve().parent.parent / "conf"
CPU = torch.device("cpu")
DIMS = WanDims(
    dim=64, num_layers=2, num_heads=2, ffn_dim=96, latent_channels=4, text_dim=8, freq_dim=16
)
GRID = (4, 8)
BF16 = Method(key=Exact(), value=Exact(), retention=KeepAll())


def spec(**changes: Any) -> CacheSpec:
    base = {"num_layers": 2, "num_heads": 2, "head_dim": 32, "grid": GRID, "chunk_frames": 3}
    return CacheSpec(**{**base, **changes})


def network(dtype: torch.dtype = torch.float32) -> Wan:
    net = Wan(DIMS)
    init_weights(net, 0)
    return net.eval().requires_grad_(False).to(dtype)


def text(net: Wan, seed: int = 0) -> Any:
    rows = torch.randn(1, 6, DIMS.text_dim, generator=torch.Generator().manual_seed(seed))
    return net.text_kv(rows.to(net.head.head.weight.dtype))


def generate(
    method: Method,
    num_frames: int = 12,
    net: Wan | None = None,
    seed: int = 0,
    backend: Backend | None = None,
    **changes: Any,
) -> tuple[torch.Tensor, Session]:
    """A short video through the cache: latents and the session it leaves."""
    net = net or network()
    shape = spec(**changes)
    method.check(shape)
    sampler = Sampler(net, Schedule(), shape.chunk_frames)
    backend = (backend or Portable()).resolve(shape, method, CPU)
    session = Session(shape, method, backend, num_frames, CPU)
    noise = SeededNoise(seed, (num_frames, 4, 2 * GRID[0], 2 * GRID[1]))
    chunks = sampler.sample(session, text(net, seed), noise, num_frames, Silent())
    return torch.cat(list(chunks), dim=1), session


def method_of(name: str, *overrides: str) -> Method:
    method: Method = instantiate(configured(f"method={name}", *overrides)["method"])
    return method


def method_names() -> list[str]:
    """Every file of conf/method: a new one is a test case without being listed anywhere."""
    folder = CONF / "method"
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.glob("**/*.yaml"))


def live_bytes(session: Session) -> int:
    """Bytes of the tensors that a session's layers hold, found by walking its objects."""
    seen: dict[int, int] = {}
    walked: set[int] = set()
    stack: list[Any] = [session._layers]
    while stack:
        thing = stack.pop()
        if id(thing) in walked:
            continue
        walked.add(id(thing))
        if isinstance(thing, torch.Tensor):
            storage = thing.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, dict):
            stack += list(thing.values())
        elif isinstance(thing, (list, tuple)):
            stack += list(thing)
        elif hasattr(thing, "__dict__"):
            stack += list(vars(thing).values())
    return sum(seen.values())
