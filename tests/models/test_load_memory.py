"""Loading takes little more host memory than the weights that it makes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness.models.wan import Wan, WanDims

DIMS = WanDims(dim=768, num_layers=8, num_heads=6, ffn_dim=3072, text_dim=512)
RANK = 128
CHILD = """
import sys
from pathlib import Path
import torch
from harness.models.checkpoints.load import load_weights
from harness.models.checkpoints.lora import Lora
from tests.models.test_load_memory import DIMS, Wan

def kib(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

path, lora = Path(sys.argv[1]), [Lora(Path(name)) for name in sys.argv[2:]]
with torch.device("meta"):
    network = Wan(DIMS)
torch.ones(512, 512).float().addmm(torch.ones(512, 512), torch.ones(512, 512)).bfloat16()
before = kib("VmRSS")
load_weights(network, path, ema=True, dtype=torch.bfloat16, device=torch.device("cpu"),
             lora=lora[0] if lora else None)
made = sum(x.nbytes for x in network.state_dict().values())
assert made > 100e6
print((kib("VmHWM") - before) * 1024 / made)
"""
State = dict[str, torch.Tensor]


def state() -> State:
    with torch.device("meta"):
        shapes = {name: x.shape for name, x in Wan(DIMS).state_dict().items()}
    return {name: torch.full(shape, 0.5) for name, shape in shapes.items()}


def two_sets(folder: Path) -> list[Path]:
    """As training dumps them: FP32, twice."""
    sets = {name: {f"model.{key}": x for key, x in state().items()} for name in ("generator", "e")}
    sets["generator_ema"] = sets.pop("e")
    torch.save(sets, folder / "a.pt")
    return [folder / "a.pt"]


def shards(folder: Path) -> list[Path]:
    content = state()
    (folder / "shards").mkdir()
    for i in range(2):
        part = {name: content[name] for name in sorted(content)[i::2]}
        save_file(part, folder / "shards" / f"{i}.safetensors")
    return [folder / "shards"]


def with_lora(folder: Path) -> list[Path]:
    content = state()
    torch.save(content, folder / "a.pt")
    factors: State = {}
    for name, x in content.items():
        if name.startswith("blocks.") and name.endswith("weight") and x.dim() == 2:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            factors[f"{stem}.lora_A.weight"] = torch.ones(RANK, x.shape[1])
            factors[f"{stem}.lora_B.weight"] = torch.ones(x.shape[0], RANK)
    torch.save({"generator_lora": factors}, folder / "lora.pt")
    return [folder / "a.pt", folder / "lora.pt"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the kernel keeps no VmHWM")
@pytest.mark.parametrize("make", [two_sets, shards, with_lora])
def test_peak_is_within_a_fifth_of_the_weights(
    make: Callable[[Path], list[Path]], tmp_path: Path
) -> None:
    paths = make(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert 0.9 < float(ended.stdout) < 1.2, ended.stdout
