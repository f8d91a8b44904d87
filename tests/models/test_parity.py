"""The network, sampler and cache against recordings of the original systems (fp32, 1e-5)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.api import CacheSpec, Exact, Method
from harness.cache.attention.portable import Portable
from harness.cache.positions import Rope, rotate
from harness.cache.session import Session
from harness.models.wan import Wan
from harness.sampling.loop import Loop
from harness.sampling.passes import NullObserver
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule
from methods.retention.keep import KeepAll
from tests.support.oracles import recorded_dims

TOLERANCE = 1e-5  # the largest difference found is 5e-6
BF16 = Method(key=Exact(), value=Exact(), retention=KeepAll())
SCENARIOS = ["global_b1", "rolling_b1", "rolling_sink1_b2", "longlive_like", "framewise_b1"]
UNROPED = {"keys": "pre_rope", "positions": "relative"}
FAMILY: dict[str, dict[str, Any]] = {
    "longlive": {},
    "longlive_infinity": UNROPED,
    "causal_forcing": {},
    "causvid": {},
    "reward_forcing": {**UNROPED, "sink_rate": 0.001},
    "rolling_forcing": {"window": 24, "sink": 3, "positions": "anchored"},
}
LOOPS = {"rolling_forcing": Loop(offset=1, joint=True)}


class Recorded:
    """The noise stream of a recording."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        self.video = inputs["noise"]
        self.draws = list(inputs["renoise"])

    def initial(self, frames: range) -> torch.Tensor:
        return self.video[:, frames.start : frames.stop]

    def fresh(self, num_frames: int) -> torch.Tensor:
        return self.draws.pop(0).unflatten(0, (-1, num_frames))


class Watching(Sampler):
    """A sampler that keeps every pass: (flow, x0, stored keys and values after a commit)."""

    def evaluate(self, inputs, text_kv, session, each):
        behind, flow = super().evaluate(inputs, text_kv, session, each)
        x, t = inputs.x_BFChw, inputs.t_BF
        layers = range(session.spec.num_layers) if each.stores == "history" else ()
        stored = [session.stored(layer) for layer in layers]
        sigma = self.schedule.sigma(t).double()[:, :, None, None, None]
        clean = (x.double() - sigma * flow.double()).to(x.dtype)
        self.passes.append((t, flow, clean, stored))
        return behind, flow

    @property
    def passes(self) -> list[Any]:
        return self.__dict__.setdefault("_passes", [])


def build(
    golden_file: dict[str, Any], config: dict[str, Any], **spec: Any
) -> tuple[Any, CacheSpec]:
    dims = recorded_dims(golden_file["tiny"])
    network = Wan(dims)
    recorded: dict[str, Any] = {
        "num_layers": dims.num_layers,
        "num_heads": dims.num_heads,
        "head_dim": dims.head_dim,
        "grid": (config["lat_h"] // 2, config["lat_w"] // 2),
        "chunk_frames": config["fpb"],
        "window": config["local"] if config["local"] > 0 else None,
        "sink": config["sink"],
    }
    return network, CacheSpec(**{**recorded, **spec})


def schedule(config: dict[str, Any]) -> Schedule:
    return Schedule(
        steps=tuple(step for step in config["steps"] if step),
        first_steps=tuple(config["first"]) if "first" in config else None,
        shift=config.get("shift", 5.0),
        warp=config.get("warp", True),
    )


def as_buffer(stored: tuple[Any, ...], spec: CacheSpec) -> tuple[Any, Any]:
    """Our keys and values in the layout of the original's buffer [B, tokens, H, D].

    An anchor lies un-roped there, and roped here.
    """
    frames, k, v = stored
    if spec.positions == "anchored":
        turns = Rope(spec.head_dim, spec.grid, torch.device("cpu")).frames(frames[: spec.sink])
        anchor, rest = k[:, :, : spec.sink], k[:, :, spec.sink :]
        k = torch.cat([rotate(anchor, turns.view().conj()), rest], dim=2)
    return tuple(x.flatten(2, 3).transpose(1, 2) for x in (k, v))


def replay(
    network: Wan,
    spec: CacheSpec,
    scenario: dict[str, Any],
    state: dict[str, Any],
    loop: Loop | None = None,
) -> None:
    network.load_state_dict(state)
    of_config = schedule(scenario["config"])
    loop = loop or Loop()
    sampler = Watching(network.eval(), of_config, spec.chunk_frames, loop=loop)
    inputs = scenario["inputs"]
    with torch.inference_mode():
        text_kv = network.text_kv(inputs["text"])
    num_frames = inputs["noise"].shape[1]
    session = Session(spec, BF16, Portable(), num_frames, torch.device("cpu"))
    chunks = sampler.sample(session, text_kv, Recorded(inputs), num_frames, NullObserver())
    latents = torch.cat(list(chunks), dim=1)
    assert len(sampler.passes) == loop.num_passes(of_config, num_frames, spec.chunk_frames)

    for layer, cross in enumerate(scenario.get("cross", [])):
        for ours, theirs in zip(text_kv.layers[layer], (cross["k"], cross["v"]), strict=True):
            torch.testing.assert_close(ours.transpose(1, 2), theirs, atol=TOLERANCE, rtol=0)
    assert len(sampler.passes) == len(scenario["calls"])
    checked_kv = 0
    for (t, flow, x0, stored), call in zip(sampler.passes, scenario["calls"], strict=True):
        torch.testing.assert_close(t, call["timestep"].float(), atol=0, rtol=0)
        if "flow" in call:
            torch.testing.assert_close(flow, call["flow"], atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(x0, call["x0"], atol=TOLERANCE, rtol=0)
        for layer, recorded in enumerate(call.get("kv", [])):
            k, v = as_buffer(stored[layer], spec)
            filled = slice(0, k.shape[1])
            torch.testing.assert_close(k, recorded["k"][:, filled], atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(v, recorded["v"][:, filled], atol=TOLERANCE, rtol=0)
            assert filled.stop == call.get("local_end", filled.stop)
            checked_kv += 1
    assert checked_kv >= spec.num_layers
    torch.testing.assert_close(latents, scenario["latents"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", SCENARIOS)
def test_self_forcing(golden: Any, name: str) -> None:
    recording = golden("self_forcing_tiny.pt")
    scenario = recording["scenarios"][name]
    network, spec = build(recording, scenario["config"])
    replay(network, spec, scenario, recording["state_dict"])


@pytest.mark.parametrize("name", FAMILY)
def test_relatives(golden: Any, name: str) -> None:
    recording = golden(f"{name}_tiny.pt")
    network, spec = build(recording, recording["config"], **FAMILY[name])
    state = golden("self_forcing_tiny.pt")["state_dict"]
    replay(network, spec, recording, state, LOOPS.get(name))


def test_every_frame_has_its_own_modulation(golden: Any) -> None:
    """Timesteps that differ between frames and samples; fails if all frames share frame 0's."""
    recording = golden("self_forcing_tiny.pt")
    scenario = recording["scenarios"]["mixed_timesteps_b2"]
    config = {"lat_h": 4, "lat_w": 6, "fpb": 3, "local": -1, "sink": 0}
    network, spec = build(recording, config)
    network.load_state_dict(recording["state_dict"])
    sampler = Watching(network.eval(), Schedule(), spec.chunk_frames)
    session = Session(spec, BF16, Portable(), 6, torch.device("cpu"))
    inputs = scenario["inputs"]
    with torch.inference_mode():
        text_kv = network.text_kv(inputs["text"])
        calls = zip(
            inputs["x_t"],
            inputs["timestep"],
            inputs["start_frame"],
            [True, False, True],  # the original stores at every call; the second is overwritten
            strict=True,
        )
        for x, t, start, commit in calls:
            frames = range(start, start + 3)
            stores = "history" if commit else "nothing"
            sampler.flow(x, t, text_kv, session, frames, stores)
    for (_, flow, x0, stored), call in zip(sampler.passes, scenario["calls"], strict=True):
        torch.testing.assert_close(flow, call["flow"], atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(x0, call["x0"], atol=TOLERANCE, rtol=0)
        for layer, recorded in enumerate(call["kv"] if stored else []):
            k, v = as_buffer(stored[layer], spec)
            torch.testing.assert_close(k, recorded["k"][:, : k.shape[1]], atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(v, recorded["v"][:, : v.shape[1]], atol=TOLERANCE, rtol=0)
