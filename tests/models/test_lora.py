"""Adapters: what they add, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.models.checkpoints.load import load_weights
from harness.models.checkpoints.lora import Lora
from harness.models.checkpoints.names import diffusers_name
from harness.system.errors import UserError
from tests.support.checkpoints import meta_network, random_state, saved

RANK = 3
LINEARS = [
    *(f"{kind}_attn.{part}" for kind in ("self", "cross") for part in "qkvo"),
    *("ffn.0", "ffn.2"),
]
State = dict[str, Tensor]


def factors(state: State, seed: int = 1) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of all ten matrices of every block."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for layer in range(2):
        for linear in LINEARS:
            rows, columns = state[f"blocks.{layer}.{linear}.weight"].shape
            a = torch.randn(RANK, columns, generator=generator)
            found[f"blocks.{layer}.{linear}"] = a, torch.randn(rows, RANK, generator=generator)
    return found


def peft(pairs: dict[str, tuple[Tensor, Tensor]], infix: str = "", prefix: str = "") -> State:
    """Under peft's names."""
    return {
        f"base_model.model.{prefix}{name}.lora_{letter}{infix}.weight": part
        for name, pair in pairs.items()
        for letter, part in zip("AB", pair, strict=True)
    }


def load(folder: Path, adapter: object, scale: float = 1.0) -> State:
    state = random_state()
    base = saved({"model": state}, folder / "base.pt")
    module = meta_network()
    lora = Lora(saved(adapter, folder / "lora.pt"), scale)
    cpu = torch.device("cpu")
    load_weights(module, base, ema=False, dtype=torch.float32, device=cpu, lora=lora)
    return module.state_dict()


@pytest.mark.parametrize("form", ["published", "flat", "named", "wrapped", "diffusers"])
def test_factors_are_added_in_every_naming(form: str, tmp_path: Path) -> None:
    state = random_state()
    pairs = factors(state)
    own: object = peft(pairs)
    if form == "published":
        own = {"generator_lora": own, "critic_lora": {"x": torch.zeros(1)}}
    elif form == "named":
        own = peft(pairs, infix=".default")
    elif form == "wrapped":
        own = peft(pairs, prefix="model._fsdp_wrapped_module.")
    elif form == "diffusers":
        native = {f"{name}.weight": pair for name, pair in pairs.items()}
        renamed = {diffusers_name(name): pair for name, pair in native.items()}
        own = peft({name.removesuffix(".weight"): pair for name, pair in renamed.items()})
    held = load(tmp_path, own, scale=0.5)
    for name, tensor in state.items():
        pair = pairs.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        wanted = tensor if pair is None else tensor + 0.5 * pair[1] @ pair[0]
        torch.testing.assert_close(held[name], wanted, atol=1e-5, rtol=1e-5)
    assert not torch.equal(held["blocks.1.ffn.2.weight"], state["blocks.1.ffn.2.weight"])


def broken(kind: str, pairs: dict[str, tuple[Tensor, Tensor]]) -> object:
    own = peft(pairs)
    some = "base_model.model.blocks.1.ffn.0.lora_B.weight"
    if kind == "factor":
        del own[some]
    elif kind == "block":
        del own[some], own[some.replace("_B", "_A")]
    elif kind == "shape":
        own[some] = own[some][:-1]
    elif kind == "foreign":
        own["base_model.model.blocks.7.ffn.0.lora_A.weight"] = torch.zeros(RANK, 24)
    elif kind == "alpha":
        own["blocks.0.ffn.0.alpha"] = torch.tensor(4.0)
    else:
        return {"generator_lora": {}}
    return own


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("factor", r"lacks a factor of blocks\.1\.ffn\.0\.weight, only A is there"),
        ("block", r"without 1 tensors \(blocks\.1\.ffn\.0\.weight\)"),
        ("shape", r"factors of blocks\.1\.ffn\.0\.weight of shapes \[31, 3\] and \[3, 24\] for "),
        ("foreign", r"holds base_model\.model\.blocks\.7\.ffn\.0\.lora_A\.weight, which is no"),
        ("alpha", r"holds blocks\.0\.ffn\.0\.alpha, which is no LoRA factor"),
        ("empty", "no LoRA factors"),
    ],
)
def test_what_is_no_adapter_of_this_network_is_refused(
    kind: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load(tmp_path, broken(kind, factors(random_state())))
    assert re.fullmatch(r"[^\n]*", str(caught.value))


def test_a_missing_adapter_says_where_it_comes_from(tmp_path: Path) -> None:
    base = saved(random_state(), tmp_path / "base.pt")
    lora = Lora(tmp_path / "lora.pt", source="owner/name lora.pt")
    with pytest.raises(UserError, match=r"hf download owner/name lora\.pt"):
        load_weights(
            meta_network(),
            base,
            ema=False,
            dtype=torch.float32,
            device=torch.device("cpu"),
            lora=lora,
        )
