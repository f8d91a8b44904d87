"""The network of MAGI-1: recordings of the original, evaluated chunk by chunk; its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from harness.api import CacheSpec
from harness.cache.attention.portable import Portable
from harness.cache.layer import Plan
from harness.cache.positions import BandedRope
from harness.cache.session import Session
from harness.models import magi, wan
from harness.models.checkpoints.load import load_weights
from harness.models.magi import Magi, MagiDims, frequencies, init_weights, sinusoid
from harness.sampling.network import TextKV
from harness.system.errors import UserError
from tests.support.geometry import BF16, CPU
from tests.support.oracles import recorded_frequencies, recorded_magi

TOLERANCE = 2e-5  # of values of order 1; with 1e-4 a norm with another epsilon would pass
SCENARIOS = ("a_full_history", "b_windowed", "c_twelve_steps", "h_24b_like")  # of one pass
PARTS = (
    "q",
    "k",
    "v",
    "self_attn",
    "cross_attn",
    "attn_proj",
    "gates_before_softcap",
    "mlp",
    "out",
)
SMALL = MagiDims(
    dim=64,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_dim=16,
    ffn_dim=96,
    latent_channels=4,
    text_dim=12,
    text_rows=60,
)


@pytest.fixture(autouse=True)
def _as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the frequencies of the CPU that made the recordings; others differ in the last bit."""
    monkeypatch.setattr(magi, "frequencies", lambda device: recorded_frequencies())


@dataclass
class Replay:
    """A recorded video, evaluated chunk by chunk through the real cache.

    kept: whether the condition keeps the text.
    asked: queries, keys and values that the network gave to the session, if `watches`.
    """

    recording: Mapping[str, Any]
    kept: bool = True
    watches: bool = False
    asked: dict[str, list[Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.network, config = recorded_magi(self.recording), self.recording["config"]
        dims, self.width = self.network.dims, config["chunk_width"]
        self.grid = config["lat_h"] // 2, config["lat_w"] // 2
        spec = CacheSpec(
            num_layers=dims.num_layers,
            num_heads=dims.num_heads,
            head_dim=dims.head_dim,
            grid=self.grid,
            chunk_frames=self.width,
            num_kv_heads=dims.num_kv_heads,
        )
        num_frames = (config["chunks"] + 1) * self.width  # one more for the side pass
        positions = self.network.positions(self.grid)
        self.session = Session(spec, BF16, Portable(), num_frames, CPU, positions)

    def text(self, chunk: int, is_null: bool) -> TextKV:
        """The prompt or the null text as a chunk sees it."""
        inputs = self.recording["inputs"]
        mask = inputs["y_mask"][int(is_null), chunk]
        rows = inputs["y_rows"][int(is_null), chunk, : int(mask.sum())]
        return self.network.text_kv(rows[None], self.kept)

    def pace(self, step: Mapping[str, Any]) -> float | None:
        config = self.recording["config"]
        if not config["engine"]["distill"]:
            return None
        num_steps = config["runtime"]["num_steps"]
        interval = self.recording["distill_interval"][step["index_in_stage"]].item()
        return 8 / interval if num_steps == 12 else num_steps / 2

    def flow(
        self, step: Mapping[str, Any], at: int, stores: Any, sees: range | None, is_null: bool
    ) -> Tensor:
        """Evaluate entry `at` of a step [1, C, F, h, w]."""
        chunk = step["chunk_start"] - step["fwd_extra"] + at
        frames = range(chunk * self.width, (chunk + 1) * self.width)
        x = step["x"][:, :, at * self.width : (at + 1) * self.width].transpose(1, 2)
        t_BF = step["t"][:, at : at + 1].expand(-1, self.width)
        plan = self.session.plan(frames, stores, sees)
        network, text_kv = self.network, self.text(chunk, is_null)
        time = network.embed_time(t_BF, self.pace(step))
        tokens = network.run(network.embed(x), time, text_kv, self, plan)
        return network.finish(tokens, time, x).transpose(1, 2)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
        """Stand between network and session, and note what the session gets and gives."""
        out = self.session.attend(layer, q, k, v, plan)
        if self.watches:
            found = {"q": plan.rotate(q), "k": plan.rotate(k), "v": v, "self_attn": out}
            for name, x in found.items():
                self.asked.setdefault(f"layer{layer}.{name}", []).append(x[0].transpose(0, 1))
        return out

    def step(self, step: Mapping[str, Any], drops: bool = False) -> Tensor:
        """Evaluate all chunks of a step, oldest first [1, C, chunks * F, h, w].

        drops: no chunk sees the prompt.
        """
        flows, tokens = [], self.recording["config"]["tokens_per_chunk"]
        for at, (first, last) in enumerate((step["kv_range"] // tokens).tolist()):
            is_again = at == 0 and step["fwd_extra"]
            sees = range(first * self.width, (last - 1) * self.width)
            stores = "history" if is_again else "active"
            flows.append(self.flow(step, at, stores, sees, drops or is_again))
        return torch.cat(flows, dim=2)

    def steps(self, stop: int | None = None) -> Iterator[tuple[Mapping[str, Any], Tensor]]:
        """Evaluate steps in order, and yield the recorded step with the flows found."""
        for step in self.recording["steps"][:stop]:
            yield step, self.step(step)


def gap(found: Tensor, expected: Tensor) -> float:
    return (found - expected).abs().max().item() / max(1.0, expected.std().item())


def assert_close(found: Tensor, expected: Tensor, what: object = "") -> None:
    assert gap(found, expected) <= TOLERANCE, what


@pytest.mark.parametrize("name", SCENARIOS)
@torch.inference_mode()
def test_flows_are_those_of_the_original(golden: Any, name: str) -> None:
    """Of all steps, with finished, noisy and clean chunks in the history."""
    for step, found in Replay(golden(f"magi/{name}.pt")).steps():
        assert_close(found, step["passes"][0][:, :, : found.shape[2]], (name, step["step"]))


@torch.inference_mode()
def test_flows_of_the_passes_of_guidance_are_those_of_the_original(golden: Any) -> None:
    """A keeps the text, B drops it, and U has no history either. The stored chunks are B's."""
    recording = golden("magi/d_cfg.pt")
    # From the second step after the first stored chunk on, A reads what B stored.
    for step, found in Replay(recording).steps(9):
        assert_close(found, step["passes"][0], ("A", step["step"]))
    dropped = Replay(recording, kept=False)
    for step in recording["steps"]:
        assert_close(dropped.step(step, drops=True), step["passes"][1], ("B", step["step"]))
        for at, expected in enumerate(step["passes"][2], start=step["fwd_extra"]):
            found = dropped.flow(step, at, "nothing", range(0), True)
            assert_close(found[0], expected, ("U", step["step"]))


def watch(network: Magi, found: dict[str, list[Tensor]]) -> None:
    """Note the outputs of a network's parts by their names in the recordings."""

    def note(part: str, x: Tensor) -> None:
        found.setdefault(part, []).append(x[0])

    def keep(module: torch.nn.Module, part: str) -> None:
        module.register_forward_hook(lambda module, args, out: note(part, out))

    for number, layer in enumerate(network._layers()):
        own, attention = f"layer{number}.", layer.self_attention
        keep(layer, own + "out")
        keep(attention, own + "attn_proj")
        keep(layer.mlp, own + "mlp")
        # Gates are the same for all frames of a chunk.
        layer.ada_modulate_layer.proj.register_forward_hook(
            lambda module, args, out, own=own: note(own + "gates_before_softcap", out[:, :1])
        )
        # The output of cross-attention is every other piece of what the projection reads.
        attention.linear_proj.register_forward_pre_hook(
            lambda module, args, own=own: note(
                own + "cross_attn", args[0].unflatten(2, (8, 2, -1))[:, :, :, 1].flatten(2)
            )
        )
    keep(network.videodit_blocks["final_layernorm"], "final_norm")
    keep(network.final_linear["linear"], "final_linear")


@pytest.mark.parametrize("name", ["c_side_pass", "d_cfg"])
@torch.inference_mode()
def test_parts_of_a_forward_are_those_of_the_original(golden: Any, name: str) -> None:
    recording = golden(f"magi/{name}.pt")
    trace, at = recording["trace"], recording["trace_step"]
    replay, step = Replay(recording), recording["steps"][at]
    for _ in replay.steps(at):
        pass
    replay.watches = True
    watch(replay.network, replay.asked)
    replay.step(step)
    found = {part: torch.cat(each) for part, each in replay.asked.items()}
    assert found.keys() == {
        *(f"layer{i}.{part}" for i in range(3) for part in PARTS),
        *("final_norm", "final_linear"),
    }
    for part, x in found.items():
        # The original appends the chunk of the side pass, with positions of later frames.
        expected = trace[part][0] if "gates" in part else trace[part].flatten(1)
        assert_close(x.flatten(1), expected[: len(x)], part)


@pytest.mark.parametrize(("name", "num_embedded"), [("c_side_pass", 2), ("d_cfg", 1)])
@torch.inference_mode()
def test_embeddings_are_those_of_the_original(golden: Any, name: str, num_embedded: int) -> None:
    """Of latents, of times with the pace of a distilled network, and of the text."""
    recording = golden(f"magi/{name}.pt")
    trace, step = recording["trace"], recording["steps"][recording["trace_step"]]
    replay = Replay(recording)
    network, text = replay.network, replay.text(step["chunk_start"], False)
    assert text.condition is not None
    time = network.embed_time(trace["t_embed_0"]["t"][:, None], replay.pace(step))
    embedded = sum(trace[f"t_embed_{i}"]["out"] for i in range(num_embedded))
    assert_close(time.embedded[:, 0], embedded)
    assert_close(text.condition, trace["text_adaln"][0])
    assert_close(network.condition(time, text)[:, 0], trace["condition"][0])
    patches = trace["patch_embedding"][0].flatten(1).T
    tokens = network.embed(step["x"].transpose(1, 2))[0]
    assert_close(tokens, patches[: len(tokens)])  # then comes the chunk of the side pass


def test_the_sinusoid_is_that_of_the_original(golden: Any) -> None:
    """Bit for bit: the arguments reach 32000, where other roundings show in the flow."""
    unit = golden("magi/units.pt")["timestep_sinusoid"]
    assert torch.equal(sinusoid(unit["t"]), unit["out"])
    # This is the function of the network: it was imported before the fixture replaced it.
    torch.testing.assert_close(frequencies(CPU), recorded_frequencies(), atol=0, rtol=1.2e-7)


def test_rotations_are_those_of_the_original(golden: Any) -> None:
    for unit in golden("magi/units.pt")["rope"]:
        num_frames, *grid = unit["shape"]
        positions = BandedRope(unit["bands"], (grid[0], grid[1]), CPU)
        pairs = 3 * len(unit["bands"])
        # A one in the first channel of every pair becomes cosine and sine.
        x = torch.zeros(1, 1, num_frames, grid[0] * grid[1], 2 * pairs + 2)
        x[..., :pairs] = 1
        turned = positions.frames(range(num_frames)).rotate(x).flatten(0, 3)
        sin, cos = unit["sin_cos"].chunk(2, dim=-1)
        torch.testing.assert_close(turned[unit["rows"], :pairs], cos, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(turned[unit["rows"], pairs:-2], sin, atol=TOLERANCE, rtol=0)
        assert not turned[:, -2:].any()


def test_a_side_of_one_patch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1 x 3 patches.*choose model\.latent_size"):
        BandedRope(torch.ones(2), (1, 3), CPU)


@pytest.mark.parametrize("mutation", ["gelu", "eps", "pieces", "waves in float64"])
@torch.inference_mode()
def test_the_tolerance_catches_small_mistakes(
    golden: Any, monkeypatch: pytest.MonkeyPatch, mutation: str
) -> None:
    exact = F.gelu
    if mutation == "gelu":
        monkeypatch.setattr(F, "gelu", lambda x: exact(x, approximate="tanh"))
    elif mutation == "eps":
        monkeypatch.setattr(magi, "EPS", 1e-5)
    elif mutation == "pieces":
        monkeypatch.setattr(magi, "PIECES", 4)
    elif mutation == "waves in float64":
        monkeypatch.setattr(magi, "sinusoid", lambda t: wan.sinusoid(1000 * t, magi.WAVES))
    steps = Replay(golden("magi/b_windowed.pt")).steps(8)
    assert max(gap(found, step["passes"][0]) for step, found in steps) > 2 * TOLERANCE


def small(dims: MagiDims = SMALL) -> Magi:
    network = Magi(dims)
    init_weights(network, 0)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("dims", "num_tensors", "num_parameters"),
    [
        (MagiDims(), 898, 4_459_898_128),
        (
            MagiDims(
                dim=6144,
                num_layers=48,
                num_heads=48,
                ffn_dim=16384,
                gated_mlp=True,
                doubles_channels=True,
                input_scale=0.1,
            ),
            1262,
            23_899_281_936,
        ),
    ],
    ids=["4.5B", "24B"],
)
def test_true_size(dims: MagiDims, num_tensors: int, num_parameters: int) -> None:
    with torch.device("meta"):
        state = Magi(dims).state_dict()
    assert len(state) == num_tensors
    assert sum(x.numel() for x in state.values()) == num_parameters


@torch.inference_mode()
def test_in_bf16_the_parts_that_need_it_stay_in_fp32(tmp_path: Path) -> None:
    """Times, norms, gates and the output are computed in fp32; tokens and keys are bf16."""
    wide = small()
    save_file(wide.state_dict(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        network = Magi(SMALL)
    load_weights(network, tmp_path, ema=False, dtype=torch.bfloat16, device=CPU)
    assert network.dtype == torch.bfloat16
    for name, weight in network.state_dict().items():
        fits = torch.float32 if name in network.fp32_weights else torch.bfloat16
        assert torch.equal(weight, wide.state_dict()[name].to(fits)), name
    t_BF = torch.full((1, 3), 0.3)
    time = network.embed_time(t_BF, 32.0)
    assert torch.equal(time.embedded, wide.embed_time(t_BF, 32.0).embedded)
    grid = (2, 3)
    key = torch.randn(1, 2, 1, 6, 16, generator=torch.Generator().manual_seed(0))
    narrow, full = (net.positions(grid).frames([5]).rotate(key) for net in (network, wide))
    assert torch.equal(narrow, full)

    draw = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3, 4, 4, 6, generator=draw)
    text = torch.randn(1, 5, SMALL.text_dim, generator=draw)
    flows = []
    for net in (wide, network):
        spec = CacheSpec(2, 6, 16, grid, 3, num_kv_heads=2)
        session = Session(spec, BF16, Portable(), 3, CPU, net.positions(grid))
        tokens, text_kv = net.embed(x), net.text_kv(text)
        assert tokens.dtype == text_kv.layers[0][0].dtype == net.dtype
        after = net.run(tokens, time, text_kv, session, session.plan(range(3), "history"))
        assert after.dtype == net.dtype
        flows.append(net.finish(after, time, x))
    assert flows[1].dtype == torch.float32
    gap = (flows[1] - flows[0]).norm() / flows[0].norm()
    assert 1e-4 < gap < 0.03


def test_fp32_weights_are_those_that_the_released_code_keeps() -> None:
    names = {name.replace("layers.1.", "layers.0.") for name in small().fp32_weights}
    layer = "videodit_blocks.layers.0."
    of_layer = {
        f"{layer}{norm}.{kind}"
        for norm in (
            "self_attention.q_layernorm",
            "self_attention.k_layernorm",
            "self_attn_post_norm",
            "mlp_post_norm",
        )
        for kind in ("weight", "bias")
    }
    assert {name for name in names if name.startswith(layer)} == of_layer
    assert {name.partition(".")[0] for name in names - of_layer} == {
        *("x_embedder", "t_embedder", "y_embedder", "rope", "final_linear", "videodit_blocks")
    }


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"num_kv_heads": 5}, "num_kv_heads=5"), ({"head_dim": 12}, "head_dim=12")],
)
def test_sizes_that_do_not_divide_are_refused(changes: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        MagiDims(**changes)  # type: ignore[arg-type]


def sharded(state: Mapping[str, Tensor], folder: Path) -> Path:
    """Write a checkpoint as it is released: two shards and their index."""
    names = sorted(state)
    files = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, own in files.items():
        save_file({name: state[name] for name in own}, folder / file)
    index = {"weight_map": {name: file for file, own in files.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def load(dims: MagiDims, path: Path) -> Magi:
    with torch.device("meta"):
        network = Magi(dims)
    load_weights(network, path, ema=False, dtype=torch.float32, device=CPU)
    return network


def test_a_checkpoint_in_shards_with_an_index(tmp_path: Path) -> None:
    state = small().state_dict()
    found = load(SMALL, sharded(state, tmp_path)).state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], x) for name, x in state.items())


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = small().state_dict()
    del state["rope.bands"]
    state["final_linear.linear.bias"] = torch.zeros(16)
    state["y_embedder.null_caption_embedding"] = torch.zeros(50, SMALL.text_dim)
    with pytest.raises(UserError) as caught:
        load(SMALL, sharded(state, tmp_path))
    message = str(caught.value)
    assert "1 missing (rope.bands)" in message
    assert "1 unexpected (final_linear.linear.bias)" in message
    assert "1 of another shape (y_embedder.null_caption_embedding [50, 12])" in message


def test_a_checkpoint_of_the_24b_layout_is_refused(tmp_path: Path) -> None:
    large = replace(SMALL, gated_mlp=True, doubles_channels=True, input_scale=0.1)
    path = sharded(small(large).state_dict(), tmp_path)
    with pytest.raises(UserError, match=r"of another shape .*linear\.weight \[32, 64\]"):
        load(SMALL, path)
    load(large, path)


def test_a_checkpoint_in_fp8_is_refused(tmp_path: Path) -> None:
    name = "videodit_blocks.layers.1.mlp.linear_fc1.weight"
    state = small().state_dict()
    state |= {name: state[name].to(torch.float8_e4m3fn), f"{name}_scale": torch.ones(1)}
    with pytest.raises(UserError, match=rf"stores weights in 8 bits \({name}\).*choose"):
        load(SMALL, sharded(state, tmp_path))


@torch.inference_mode()
def test_the_video_of_a_small_network_depends_on_its_history() -> None:
    """And on the prompt, the time and the pace, each by a share that is not rounding."""
    network, grid = small(), (2, 3)
    draw = torch.Generator().manual_seed(1)
    x, before = torch.randn(2, 1, 3, 4, 4, 6, generator=draw)
    texts = [network.text_kv(torch.randn(1, 5, SMALL.text_dim, generator=draw)) for _ in "ab"]
    spec = CacheSpec(2, 6, 16, grid, 3, num_kv_heads=2)
    session = Session(spec, BF16, Portable(), 6, CPU, network.positions(grid))

    def flow(
        shown: Tensor, frames: range, time: float = 0.3, pace: float = 8, text: int = 0, **plan: Any
    ) -> Tensor:
        embedded = network.embed_time(torch.full((1, 3), time), pace)
        place = session.plan(frames, plan.get("stores", "nothing"), plan.get("sees"))
        after = network.run(network.embed(shown), embedded, texts[text], session, place)
        return network.finish(after, embedded, shown)

    flow(before, range(3), stores="history")
    expected, own = flow(x, range(3, 6)), range(3, 6)
    changed = {
        "history": flow(x, own, sees=range(0)),
        "prompt": flow(x, own, text=1),
        "time": flow(x, own, time=0.6),
        "pace": flow(x, own, pace=32),
    }
    shares = {what: (y - expected).norm() / expected.norm() for what, y in changed.items()}
    assert min(shares.values()) > 0.01, shares
