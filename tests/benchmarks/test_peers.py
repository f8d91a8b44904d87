"""The bench of other projects' quantizers: what it counts, and what it says without them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

from harness.api import CacheSpec
from harness.benchmarks import peers
from harness.benchmarks.checks import relative
from harness.benchmarks.peers import CPU, PEERS, Ours, stored_bytes
from harness.benchmarks.realistic import realistic_keys
from harness.commands.bench import main

SPEC = CacheSpec(num_layers=1, num_heads=2, head_dim=64, grid=(8, 16), chunk_frames=3)
KEYS = realistic_keys(SPEC, 2).bfloat16().flatten(2, 3)
BITS = {"INT8": 8, "INT4": 4, "INT2": 2}


@pytest.mark.parametrize(("name", "bits"), [("rtn_int8", 9), ("rtn_int4", 5), ("quarot_int4", 5)])
def test_our_keys_come_back_and_their_bytes_are_counted(name: str, bits: float) -> None:
    case = Ours(name, SPEC.tokens_per_frame)
    stored = case.encode(KEYS)
    assert 8 * stored_bytes(stored) / KEYS.numel() == bits
    assert relative(case.decode(stored), KEYS) < {9: 0.01, 5: 0.2}[bits]


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if peer.device == CPU])
def test_a_peers_keys_come_back(name: str) -> None:
    peer = PEERS[name]
    if peer.lacks is not None:
        pytest.skip(peer.lacks)
    case = peer.build(KEYS)
    stored = case.encode(KEYS)
    keys = case.decode(stored)
    assert keys.shape == KEYS.shape
    bits = next(bits for word, bits in BITS.items() if word in name)
    assert bits < 8 * stored_bytes(stored) / KEYS.numel() < bits + 2
    assert relative(keys, KEYS) < {8: 0.02, 4: 0.3, 2: 0.9}[bits]


# The two functions of the official package that the bench calls, on a CPU: the first tokens of a
# head are its centroids, and residuals are rounded to multiples of a scale per group.
QUANT_VIDEO_GEN = """
import torch

asked = []


def triton_prq_quantize_tensor(
    tensor, num_stages, num_clusters, block_size, max_iters=100,
    scale_precision=torch.float8_e4m3fn, use_percentile_clipping=False, percentile=99.0,
    quantize_fn=None, asymmetric=False,
):
    bits = quantize_fn(tensor)
    asked.append((num_stages, num_clusters, block_size, max_iters, bits, asymmetric))
    residual, centroids, ids = tensor, [], []
    for _ in range(num_stages):
        centroids.append(residual[:, :, :num_clusters])
        ids.append(torch.cdist(residual.float(), centroids[-1].float()).argmin(-1).to(torch.uint8))
        residual = residual - _rows(centroids[-1], ids[-1])
    groups = residual.float().unflatten(-1, (-1, block_size))
    most = 2 ** (bits - 1) - 1
    scales = (groups.abs().amax(-1) / most).clamp(min=1e-2).to(scale_precision)
    codes = (groups / scales.float()[..., None]).round().clamp(-most, most).flatten(-2) + most
    codes = codes.to(torch.uint8).unflatten(-1, (-1, 8 // bits))
    packed = sum(codes[..., i] << bits * i for i in range(8 // bits))
    return {"centroids_list": centroids, "cluster_ids_list": ids, "residual_quant": packed,
            "scales": scales, "zeros": None}


def triton_prq_dequantize_tensor(packed_state, block_size, num_bits, output_dtype=torch.bfloat16):
    packed, most = packed_state["residual_quant"], 2 ** (num_bits - 1) - 1
    shifts = range(0, 8, num_bits)
    codes = torch.stack([packed >> shift & 2**num_bits - 1 for shift in shifts], -1)
    groups = (codes.flatten(-2).float() - most).unflatten(-1, (-1, block_size))
    found = (groups * packed_state["scales"].float()[..., None]).flatten(-2)
    for pair in zip(packed_state["centroids_list"], packed_state["cluster_ids_list"]):
        found = found + _rows(*pair)
    return found.to(output_dtype)


def _rows(centroids, ids):
    return centroids.gather(2, ids.long()[..., None].expand(-1, -1, -1, centroids.shape[-1]))
"""


@pytest.fixture
def quant_video_gen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package with the functions of the official one; only the processor is another."""
    (tmp_path / "quant_videogen").mkdir()
    (tmp_path / "quant_videogen" / "functions.py").write_text(QUANT_VIDEO_GEN)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("quant_videogen", "quant_videogen.functions"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    here = {name: replace(peer, device=CPU) for name, peer in PEERS.items() if "VideoGen" in name}
    monkeypatch.setattr(peers, "PEERS", here)
    return import_module("quant_videogen.functions")


def test_quant_videogen_stores_what_decoding_reads(quant_video_gen: ModuleType) -> None:
    num_heads, tokens, width = KEYS.shape[1:]
    for name, (bits, stages, group) in {
        "Quant-VideoGen INT2": (2, 1, 64),
        "Quant-VideoGen INT4": (4, 1, 64),
        "Quant-VideoGen Pro INT2": (2, 4, 16),
    }.items():
        case = peers.PEERS[name].build(KEYS)
        stored = case.encode(KEYS)
        assert quant_video_gen.asked[-1] == (stages, 256, group, 2, bits, False)
        keys = case.decode(stored)
        assert (keys.shape, keys.dtype) == (KEYS.shape, KEYS.dtype)
        assert relative(keys, KEYS) < 0.01  # as many centroids as tokens
        a_token = stages + width * bits // 8 + width // group
        centroids = num_heads * stages * tokens * width * 2
        assert stored_bytes(stored) == num_heads * tokens * a_token + centroids


def test_the_bench_measures_it_as_the_others(
    quant_video_gen: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "OURS", ("rtn_int4",))
    here = {**peers.PEERS, "on a GPU": replace(PEERS["Quant-VideoGen INT2"], modules=())}
    monkeypatch.setattr(peers, "PEERS", here)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["peers", "--quick", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*-peers-quick.json")
    rows = {row["case"]: row for row in json.loads(file.read_text())["rows"]}
    names = ["ours, rtn_int4", *(name for name in PEERS if "VideoGen" in name)]
    assert list(rows) == [*names, "on a GPU"]
    assert rows["on a GPU"]["note"] == "it runs on a GPU only, and CUDA finds none"
    for name in names:
        assert 0 < rows[name]["value"] < 1
        assert set(rows[name]["more"]) == set(rows[names[0]]["more"])
        assert all(number > 0 for number in rows[name]["more"].values())
    assert "quant_videogen of an unknown version, triton " in rows[names[1]]["note"]


def test_bytes_of_nested_tensors() -> None:
    four = torch.zeros(4, dtype=torch.uint8)
    assert stored_bytes((four, {"scale": four.half(), "bits": 4, "shape": None})) == 4 + 8
    assert stored_bytes([four, (four,)]) == 8


def test_without_any_peer_the_bench_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert main(["peers", "--quick", "--out", str(tmp_path)]) == 2
    assert "pip install -c constraints.txt '.[peers]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
