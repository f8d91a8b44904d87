"""Facts about methods: counted, the same everywhere, and what `ls` and the docs say."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.commands.methods_page import PAGE, page
from harness.planning import method_facts
from harness.planning.method_facts import Facts, facts
from harness.system import notes
from tests.support.commands import one_sentence, within


def fact(name: str) -> Facts:
    (found,) = facts([name])
    return found


@pytest.mark.parametrize(
    ("name", "bits", "ratio"),
    [
        ("bf16", 16, 1),
        ("rtn_int4", 4 + 16 * 98 / 1560, 16 / (4 + 16 * 98 / 1560)),  # the last group is short
        ("quarot_int4", 4 + 32 / 32, 16 / 5),
        ("window_bf16", 16, 42 / 12),
    ],
)
def test_by_hand(name: str, bits: float, ratio: float) -> None:
    found = fact(name)
    assert found.bits == pytest.approx(bits)
    assert found.ratio == pytest.approx(ratio)
    assert not found.varies


def test_a_pooled_frame_is_one_token_and_a_note_is_counted() -> None:
    """42 frames: 10 recent, half of the other 32; each of the rest is one token."""
    frame = 2 * 12 * 128 * 1560
    room = 26 * frame * (4 + 16 * 98 / 1560) / 8
    pooled = 16 * 2 * 12 * 128 * 2
    notes = 2 * 42 * 12 * 4  # of the commit pass and the one before it
    assert fact("softprune_int4").ratio == pytest.approx(42 * 2 * frame / (room + pooled + notes))


def test_facts_are_counted_once_per_code_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "FOLDER", tmp_path)
    first = fact("rtn_int4")
    monkeypatch.setattr(method_facts, "in_all_layers", lambda *_: pytest.fail("counted again"))
    monkeypatch.setattr(method_facts, "_composed", lambda *_: pytest.fail("composed again"))
    assert fact("rtn_int4") == first
    (note,) = tmp_path.glob("facts/*.json")
    note.write_text("{")
    with pytest.raises(pytest.fail.Exception):
        fact("rtn_int4")


@pytest.mark.slow
def test_the_page_is_what_make_docs_writes() -> None:
    assert PAGE.read_text() == page(facts()), "docs/methods.md is stale: type make docs"


def test_ls_methods_has_a_line_with_facts_each() -> None:
    done = within("ls", "methods", "round")
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split()[:5] == ["method", "family", "source", "bits", "ratio"]
    assert {row.split()[0] for row in rows} >= {"rtn_int2", "rtn_int4", "rtn_int8"}
    (four,) = [row for row in rows if row.startswith("rtn_int4 ")]
    assert " 5.01    3.20  Round to nearest" in four
    assert one_sentence(within("ls", "methods", "nonsense")).startswith("error: ls methods")
