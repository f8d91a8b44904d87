"""Loader: every container of the published checkpoints, both namings, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from harness.models.checkpoints.load import checkpoint_digest, checkpoint_sha256, load_weights
from harness.models.checkpoints.names import diffusers_name
from harness.system.errors import UserError
from tests.support.checkpoints import (
    CHANNELS,
    DIM,
    FFN,
    FREQ,
    TEXT,
    Network,
    State,
    meta_network,
    random_state,
    saved,
)


def load(
    path: Path, *, ema: bool = False, module: nn.Module | None = None, source: str | None = None
) -> nn.Module:
    module = module or meta_network()
    cpu = torch.device("cpu")
    load_weights(module, path, ema=ema, dtype=torch.float32, device=cpu, source=source)
    return module


def assert_holds(module: nn.Module, state: State) -> None:
    held = module.state_dict()
    assert held.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(held[name], tensor), name


def prefixed(state: State, prefix: str = "model.") -> State:
    return {prefix + name: x for name, x in state.items()}


def infixed(state: State) -> State:
    """Names as FSDP, activation checkpointing and torch.compile leave them."""

    def wrap(name: str) -> str:
        name = re.sub(
            r"^blocks\.(\d+)\.",
            r"blocks.\1._fsdp_wrapped_module._checkpoint_wrapped_module.",
            name,
        )
        return "model._fsdp_wrapped_module._orig_mod." + name

    return {wrap(name): x for name, x in state.items()}


def sharded(state: State, folder: Path, *, index: bool) -> Path:
    folder.mkdir()
    names = sorted(state)
    files = {
        f"model-{i + 1:05}-of-00003.safetensors": {name: state[name] for name in names[i::3]}
        for i in range(3)
    }
    for file, part in files.items():
        save_file(part, folder / file)
    if index:
        weight_map = {name: file for file, part in files.items() for name in part}
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def safetensors(state: State, path: Path) -> Path:
    save_file(state, path)
    return path


CONTAINERS: dict[str, Callable[[State, Path], Path]] = {
    "generator_with_critic": lambda s, d: saved(
        {"generator": prefixed(s), "critic": {"x": torch.zeros(1)}}, d / "a.pt"
    ),
    "generator_fsdp": lambda s, d: saved({"generator": infixed(s)}, d / "a.pt"),
    "model": lambda s, d: saved({"model": s, "step": 7}, d / "a.pth"),
    "flat_prefixed": lambda s, d: saved(prefixed(s), d / "a.pt"),
    "bare": lambda s, d: saved(s, d / "a.pt"),
    "safetensors": lambda s, d: safetensors(s, d / "a.safetensors"),
    "safetensors_prefixed": lambda s, d: safetensors(prefixed(s), d / "a.safetensors"),
    "shards_with_index": lambda s, d: sharded(s, d / "shards", index=True),
    "shards_without_index": lambda s, d: sharded(s, d / "shards", index=False),
}


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("naming", ["native", "diffusers"])
def test_every_container_in_both_namings(name: str, naming: str, tmp_path: Path) -> None:
    state = random_state()
    if naming == "native":
        path = CONTAINERS[name](state, tmp_path)
    else:
        path = CONTAINERS[name]({diffusers_name(key): x for key, x in state.items()}, tmp_path)
    assert_holds(load(path), state)


@pytest.mark.parametrize("ema", [True, False])
def test_ema_chooses_between_two_sets(ema: bool, tmp_path: Path) -> None:
    plain, average = random_state(1), random_state(2)
    content = {"generator": prefixed(plain), "generator_ema": infixed(average)}
    path = saved(content, tmp_path / "a.pt")
    assert_holds(load(path, ema=ema), average if ema else plain)


def test_a_single_unnamed_set_serves_both(tmp_path: Path) -> None:
    state = random_state()
    assert_holds(load(saved(prefixed(state), tmp_path / "a.pt"), ema=True), state)


def test_ema_asked_for_and_absent(tmp_path: Path) -> None:
    path = saved({"generator": prefixed(random_state())}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"no EMA weights.*ema=false"):
        load(path, ema=True)


def test_parameters_are_cast_own_their_memory_and_need_no_gradient(tmp_path: Path) -> None:
    state = random_state()
    state["head.modulation"] = state["head.modulation"].bfloat16()
    path = safetensors(state, tmp_path / "a.safetensors")
    module = Network()  # on the CPU with values of its own: they are replaced
    module.register_buffer("table", torch.ones(3), persistent=False)
    load_weights(module, path, ema=False, dtype=torch.bfloat16, device=torch.device("cpu"))
    path.write_bytes(bytes(path.stat().st_size))  # a mapped parameter would turn to zeros
    assert_holds(module, {name: x.bfloat16() for name, x in state.items()})
    assert all(isinstance(p, nn.Parameter) and not p.requires_grad for p in module.parameters())
    assert torch.equal(module.get_buffer("table"), torch.ones(3))


@pytest.mark.parametrize("layers", [2, 30])
def test_names_are_those_of_diffusers_one_to_one(layers: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=DIM // 2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=TEXT,
        freq_dim=FREQ,
        ffn_dim=FFN,
        num_layers=layers,
    ).state_dict()
    ours = meta_network(layers).state_dict()
    renamed = {diffusers_name(name): x.shape for name, x in ours.items()}
    assert len(renamed) == len(ours) == 15 + 27 * layers  # 825 for 30 layers
    assert renamed == {name: x.shape for name, x in theirs.items()}


def test_diffusers_norms_swap_numbers(tmp_path: Path) -> None:
    state = {diffusers_name(name): x for name, x in random_state().items()}
    state["blocks.1.norm3.weight"] = state.pop("blocks.1.norm2.weight")
    with pytest.raises(UserError, match=r"missing \(blocks\.1\.norm2\.weight\), 1 unexpected"):
        load(saved(state, tmp_path / "a.pt"))


def test_names_and_shapes_must_match_exactly_and_nothing_is_changed(tmp_path: Path) -> None:
    state = random_state()
    for layer in range(2):
        for kind in ("self_attn", "cross_attn"):
            del state[f"blocks.{layer}.{kind}.norm_q.weight"]
    state["fps_embedding.weight"] = torch.zeros(2, DIM)
    state["head.head.bias"] = torch.zeros(5)
    module = Network()
    before = {name: x.clone() for name, x in module.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load(saved(state, tmp_path / "a.pt"), module=module)
    message = str(caught.value)
    assert "69 tensors" in message
    assert "4 missing (blocks.0.cross_attn.norm_q.weight, " in message
    assert message.count("norm_q") == 3 and ", ...)" in message
    assert "1 unexpected (fps_embedding.weight)" in message
    assert "1 of another shape (head.head.bias [5])" in message
    assert_holds(module, before)


def test_names_that_fall_together_are_refused(tmp_path: Path) -> None:
    state = random_state()
    state["model.head.head.bias"] = torch.ones(16)
    with pytest.raises(UserError, match="comes twice"):
        load(saved(state, tmp_path / "a.pt"))


def test_missing_file_says_where_it_comes_from(tmp_path: Path) -> None:
    source = "gdhe17/Self-Forcing checkpoints/self_forcing_dmd.pt"
    path = tmp_path / "checkpoints" / "self_forcing_dmd.pt"
    with pytest.raises(UserError) as caught:
        load(path, source=source)
    assert f"found no checkpoint at {path}" in str(caught.value)
    assert f"`hf download {source} --local-dir {tmp_path}/`" in str(caught.value)
    with pytest.raises(UserError, match=f"`hf download {source}` or set"):
        load(tmp_path / "mine.pt", source=source)
    with pytest.raises(UserError, match="set the model's path"):
        load(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("name", ["bare", "safetensors", "shards_with_index"])
def test_a_torn_file_is_a_user_error(name: str, share: float, tmp_path: Path) -> None:
    path = CONTAINERS[name](random_state(), tmp_path)
    file = sorted(path.glob("*.safetensors"))[1] if path.is_dir() else path
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="truncated"):
        load(path)


def test_a_tensor_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = safetensors(random_state(), tmp_path / "a.safetensors")
    with safe_open(path, framework="pt") as opened:
        last = opened.offset_keys()[-1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"truncated in {re.escape(last)}: it has .* download"):
        load(path)


@pytest.mark.parametrize(
    "content", [[torch.zeros(1)], torch.zeros(1), {"model": Path("object")}, {"a": 1}, {1: 2}]
)
def test_files_of_something_else_are_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        load(saved(content, tmp_path / "a.pt"))


def test_folders_and_suffixes_that_hold_no_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`transformer`"):
        load(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="choose another"):
        load(tmp_path / "a.bin")
    folder = sharded(random_state(), tmp_path / "shards", index=True)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="lacks shards \\(model-00002-of-00003"):
        load(folder)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(UserError, match="no index"):
        load(folder)
    twice = sharded(random_state(), tmp_path / "twice", index=False)
    save_file(random_state(), twice / "whole.safetensors")
    with pytest.raises(UserError, match="twice"):
        load(twice)


def test_shards_the_index_does_not_name_are_left_out(tmp_path: Path) -> None:
    state = random_state()
    folder = sharded(state, tmp_path / "shards", index=True)
    save_file(random_state(5), folder / "model.fp16.safetensors")
    assert_holds(load(folder), state)


def test_digest_sees_sizes_and_ends_but_not_places(tmp_path: Path) -> None:
    content = bytes(range(256)) * 12000  # 2.9 MiB
    first, second = tmp_path / "a.pt", tmp_path / "b.pt"
    first.write_bytes(content)
    second.write_bytes(content)
    digest = checkpoint_digest(first)
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert digest == checkpoint_digest(second)
    longer = content + content[:256]  # of another size, with the same MiB at both ends
    for changed in (b"x" + content[1:], content[:-1] + b"x", longer):
        second.write_bytes(changed)
        assert checkpoint_digest(second) != digest
    with pytest.raises(UserError):
        checkpoint_digest(tmp_path / "c.pt")


def test_checksum_sees_every_byte(tmp_path: Path) -> None:
    first = tmp_path / "a.pt"
    content = bytes(range(256)) * 12000
    first.write_bytes(content)
    assert checkpoint_sha256(first) == hashlib.sha256(content).hexdigest()
    changed = content[: len(content) // 2] + b"x" + content[len(content) // 2 + 1 :]
    second = tmp_path / "b.pt"
    second.write_bytes(changed)
    assert checkpoint_digest(first) == checkpoint_digest(second)
    assert checkpoint_sha256(first) != checkpoint_sha256(second)
    folder = sharded(random_state(), tmp_path / "shards", index=True)
    whole = checkpoint_sha256(folder)
    middle = sorted(folder.glob("*.safetensors"))[1]
    middle.write_bytes(middle.read_bytes() + b"x")
    assert checkpoint_sha256(folder) != whole


def test_digest_of_a_folder_covers_every_shard(tmp_path: Path) -> None:
    folder = sharded(random_state(), tmp_path / "shards", index=True)
    digest = checkpoint_digest(folder)
    shard = sorted(folder.glob("*.safetensors"))[2]
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    assert checkpoint_digest(folder) != digest
