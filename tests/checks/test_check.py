"""Each contract, held against a method that breaks it; the verb; and a user's own folder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from harness.api import DROP, CacheSpec, Exact, History, Method, Packed, Placement, VideoSize
from harness.checks.error_by_bits import errors_by_bits, with_bits
from harness.checks.method_contracts import CONTRACTS, verdicts
from harness.checks.method_subject import Subject
from harness.checks.walk import live_bytes
from methods.quantizers.rtn import RTN
from methods.retention.keep import KeepAll
from methods.retention.window import Window
from tests.support.commands import SHORT, command, one_sentence, within
from tests.support.geometry import configured

CALLS = count()


class Cut(Exact):
    """Loses the last token."""

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        return super().decode(packed, dtype)[:, :, :, :-1]


class Wide(Exact):
    """Gives back fp32, whatever is asked for."""

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        return super().decode(packed, torch.float32)


class Nothing(Exact):
    """Stores zeros."""

    def encode(self, x_BHFTD: Tensor) -> Packed:
        return super().encode(torch.zeros_like(x_BHFTD))


class Flat(Exact):
    """Its parts have no heads."""

    def encode(self, x_BHFTD: Tensor) -> Packed:
        packed = super().encode(x_BHFTD)
        return replace(packed, parts={**packed.parts, "extra": torch.zeros(3)})


class Noisy(Exact):
    """Never twice the same."""

    def encode(self, x_BHFTD: Tensor) -> Packed:
        return super().encode(x_BHFTD * (1 + next(CALLS) % 7 / 100))


@dataclass(frozen=True)
class Backwards(RTN):
    """Rounds to 10 - bits."""

    def __post_init__(self) -> None:
        if self.bits != 4:
            object.__setattr__(self, "bits", 10 - self.bits)


class Hoarder(Exact):
    """Keeps what it has encoded, where nobody counts."""

    def __init__(self) -> None:
        self.hoard: list[Tensor] = []

    def encode(self, x_BHFTD: Tensor) -> Packed:
        self.hoard.append(x_BHFTD.clone())
        return super().encode(x_BHFTD)


class Padded(Exact):
    """Takes more for many heads than for one."""

    def encode(self, x_BHFTD: Tensor) -> Packed:
        packed = super().encode(x_BHFTD)
        heads = x_BHFTD.shape[1]
        extra = x_BHFTD.new_zeros(*x_BHFTD.shape[:3], 100 * (heads - 1))
        return replace(packed, parts={**packed.parts, "extra": extra})


@dataclass(frozen=True)
class Secret(KeepAll):
    """Keeps what it has seen of one video, where nobody counts."""

    hoard: list[Tensor] = field(default_factory=list)

    def sized(self, room: VideoSize) -> Secret:
        return Secret()

    def observe(self, k_BHTD: Tensor, v_BHTD: Tensor) -> None:
        self.hoard.append(k_BHTD.clone())


@dataclass(frozen=True)
class Liar(KeepAll):
    """Says that it keeps three frames."""

    def max_frames(self, tier: str, num_frames: int) -> int:
        return 3


@dataclass(frozen=True)
class Remembers(KeepAll):
    """Drops a frame of every video but the first."""

    seen: list[int] = field(default_factory=list)

    def decide(self, history: History) -> dict[int, Placement]:
        self.seen.append(1)
        late = len(self.seen) > 12 and 0 in history.frames and len(history.frames) > 3
        return {0: DROP} if late else {}


@dataclass(frozen=True)
class Moody(KeepAll):
    """Refuses windows without saying what would do."""

    def check(self, spec: CacheSpec) -> None:
        if spec.window is not None:
            raise ValueError("no")


@dataclass(frozen=True)
class Explodes(KeepAll):
    """Divides by zero."""

    def decide(self, history: History) -> dict[int, Placement]:
        return {0: DROP} if 1 // (9 - len(history.frames)) > 1 else {}


def broken(changes: dict[str, Any], contract: str) -> str:
    """What is said of a contract that a changed method breaks; `contract` begins its name."""
    config = configured("method=bf16")
    config["method"] |= changes
    first, name = CONTRACTS[0], contract.replace(" ", "_")
    asked = [each for each in CONTRACTS if each is first or each.__name__.startswith(name)]
    found = list(verdicts(Subject("mine", config), contracts=asked))
    (note,) = [each.note for each in found if not each.held and each.name.startswith(contract)]
    return note


def of(kind: type, **changes: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.{kind.__name__}", **changes}


@pytest.mark.parametrize(
    ("changes", "contract", "sentence"),
    [
        ({"key": of(Cut)}, "round trip", "gives [2, 2, 3, 31, 32]"),
        ({"key": of(Wide)}, "round trip", "torch.float32 back"),
        ({"value": of(Nothing)}, "round trip", "keep.value loses what it stores"),
        ({"key": of(Flat)}, "any heads", "part extra has shape [3]"),
        ({"key": of(Noisy)}, "same input", "keep.key gives the same values other codes"),
        ({"key": of(Hoarder)}, "methods hold", "history belongs into parts"),
        ({"retention": of(Secret)}, "stored bytes", "are counted"),
        ({"key": of(Padded)}, "declared", "declare"),
        ({"retention": of(Liar)}, "declared", "Liar.max_frames says 3 frames for keep"),
        ({"retention": of(Remembers)}, "prompts", "after another one than alone"),
        ({"retention": of(Moody)}, "runs on", "without naming what to choose instead: no"),
        ({"retention": of(Explodes)}, "first chunk", "ZeroDivisionError"),
        ({"keys": "sideways"}, "builds", "give one of model, roped, pre_rope"),
        ({"key": {"_target_": "nope.Nope"}}, "builds", "there is no class nope.Nope"),
        ({"_target_": "builtins.dict"}, "builds", "give a harness.api.Method"),
    ],
)
def test_a_broken_method_is_found(changes: dict[str, Any], contract: str, sentence: str) -> None:
    found = broken(changes, contract)
    assert sentence in found
    assert "\n" not in found


def test_bits_that_run_backwards_are_found() -> None:
    key = of(Backwards, bits=4, group=16, axis="tokens", short_tail=False)
    found = broken({"key": key}, "error falls")
    assert "8 bits have a relative error" in found or "4 bits have a relative error" in found


def test_only_what_can_be_built_is_held_against_the_rest() -> None:
    config = configured("method=rtn_int4", "method.key.bits=3")
    (only,) = verdicts(Subject("x", config))
    assert (only.name, only.held) == ("builds", False)
    assert only.note == "RTN.bits=3: choose 2, 4 or 8"
    assert CONTRACTS[0].__name__ == "builds"


def test_every_contract_says_what_it_is() -> None:
    assert all(contract.__doc__ for contract in CONTRACTS)


def test_widths_are_set_wherever_they_stand() -> None:
    config = configured("method=prq_int4")["method"]
    two = with_bits(config, 2)
    assert two["key"]["base"]["bits"] == two["value"]["residual"]["bits"] == 2
    assert config["key"]["base"]["bits"] == 4
    assert list(errors_by_bits(config, (3, 1))) == [2, 4, 8]
    assert errors_by_bits(configured("method=bf16")["method"], (3, 1)) == {}


def test_bytes_are_found_once_wherever_they_hide() -> None:
    x = torch.zeros(4, 4)
    method = Method(key=Exact(), value=Exact(), retention=Window("3 frames"))
    assert live_bytes(method, {"a": [x, x[1:]], "b": (x.view(16),)}) == x.nbytes


def test_the_verb_prints_a_line_a_contract() -> None:
    done = command("check", "method=rtn_int4")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(CONTRACTS)
    assert all(line.startswith("✓ ") and " s" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=rtn_int"], "did you mean rtn_int"),
        ([], "give method=<name>"),
        (["rtn_int4"], "give method=<name>"),
        (["method=rtn_int4", "method.key.bitz=3"], "did you mean bits"),
        (["method=bf16", "--config-dir", "nowhere"], "is no folder"),
    ],
)
def test_bad_input_ends_with_one_sentence(words: list[str], message: str) -> None:
    done = within("check", *words)
    assert done.returncode == 2
    assert message in one_sentence(done)


MINE = '''
from dataclasses import dataclass

import torch

from harness.api import DROP, KEEP, FramePolicy, Packed, Quantizer


class Half(Quantizer):
    """FP16 with the last byte cut off."""

    def encode(self, x):
        return Packed({"top": (x.half().view(torch.int16) >> 8).to(torch.int8)}, 8, x.shape[3:])

    def stage(self, packed, out):
        out.copy_((packed.parts["top"].to(torch.int16) << 8).view(torch.float16))


@dataclass(frozen=True)
class Newest(FramePolicy):
    frames: int = 6

    def most(self, tier, num_frames):
        return min(num_frames, self.frames) if tier == KEEP else 0

    def decide(self, history):
        return {frame: DROP for frame in history.frames[: -self.frames]}
'''
FILE = """# Mine: the newest six frames in a byte a value
_target_: harness.api.Method
key:
  _target_: my_file.Half
value: ${.key}
retention:
  _target_: my_file.Newest
  frames: 6
family: mine
source: nobody
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a method of one's own: a module and a file, registered nowhere."""
    folder = tmp_path / "mine"
    (folder / "method").mkdir(parents=True)
    (folder / "my_file.py").write_text(MINE)
    (folder / "method" / "mine.yaml").write_text(FILE)
    return folder


def test_a_method_of_ones_own_is_checked_listed_and_run(own: Path, tmp_path: Path) -> None:
    done = command("check", "method=mine", "--config-dir", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    done = command("--config-dir", "mine", "ls", "methods", "mine", cwd=tmp_path)
    (row,) = done.stdout.splitlines()[1:]
    assert row.split()[:5] == ["mine", "mine", "nobody", "8.00", "14.00"]
    words = ["--config-dir", "mine", "method=mine", *SHORT, "suite.num_prompts=1"]
    done = command(*words, "track=disabled", "results_dir=results", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = pd.read_parquet(tmp_path / "results" / "results.parquet").set_index("method")
    assert set(rows.index) == {"bf16", "mine"}
    assert rows.loc["mine", "kv_ratio_full_length"] == 4  # half of the frames at half the bytes
    assert rows.loc["mine", "psnr_db"] > 10


def test_a_broken_method_of_ones_own_ends_with_one_sentence(own: Path, tmp_path: Path) -> None:
    module = own / "my_file.py"
    module.write_text(MINE.replace("import torch\n", "import torch\nimport not_there\n", 1))
    done = command("--config-dir", "mine", "check", "method=mine", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [done.stdout.strip()]
    assert "✗ builds" in done.stdout and "No module named 'not_there'" in done.stdout
    words = ["--config-dir", "mine", "method=mine", *SHORT, "suite.num_prompts=1"]
    done = command(*words, "results_dir=results", cwd=tmp_path)
    assert done.returncode == 2
    assert "No module named 'not_there'" in one_sentence(done)
    module.write_text(MINE.replace('"top": (x', '"top": (-x'))
    done = command("--config-dir", "mine", "check", "method=mine", cwd=tmp_path)
    assert done.returncode == 1
    assert "✗ round trip keeps shape and dtype" in done.stdout
    assert "keep.key loses what it stores: relative error" in done.stdout
