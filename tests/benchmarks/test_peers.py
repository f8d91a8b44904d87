"""The bench of other projects' quantizers: what it counts, and what it says without them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.api import CacheSpec
from harness.benchmarks import peers
from harness.benchmarks.checks import relative
from harness.benchmarks.peers import PEERS, Ours, stored_bytes
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


@pytest.mark.parametrize("name", PEERS)
def test_a_peers_keys_come_back(name: str) -> None:
    peer = PEERS[name]
    if peer.missing is not None:
        pytest.skip(f"{peer.missing} is not installed")
    case = peer.build(KEYS)
    stored = case.encode(KEYS)
    keys = case.decode(stored)
    assert keys.shape == KEYS.shape
    bits = next(bits for word, bits in BITS.items() if word in name)
    assert bits < 8 * stored_bytes(stored) / KEYS.numel() < bits + 2
    assert relative(keys, KEYS) < {8: 0.02, 4: 0.3, 2: 0.9}[bits]


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
