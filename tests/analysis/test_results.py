"""A folder of results as sections: what is compared, what is the floor, what is said."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from analysis.section import Section
from analysis.sources.results import sections
from harness.benchmarks.made_up import write_results
from harness.results import all_runs, observation, observations
from harness.results.run import Run
from harness.system import parquet
from harness.system.errors import UserError
from harness.system.files import write_json
from tests.support.commands import command

CLIP = [
    *("suite=moviegen", "suite.source=bundled", "suite.num_prompts=1", "suite.frames=6"),
    *("track=disabled", "run.threads=1", "metrics=[psnr,ssim,lpips]"),
]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BF16 and its noise floor, a row of the study, and a method with a setting."""
    results = tmp_path_factory.mktemp("real")
    for words in (
        ["experiment=noise_floor"],
        ["-m", "method=published/rtn_int4,rtn_int4"],
        ["method=rtn_int4", "method.key.bits=8"],
    ):
        done = command(*words, *CLIP, f"results_dir={results}", "data_dir=null")
        assert done.returncode == 0, done.stderr
    return results


@pytest.fixture(scope="module")
def section(real: Path) -> Section:
    (found,) = sections(real)
    return found


def test_bf16_comes_first_and_its_other_runs_are_known(section: Section) -> None:
    first, second, third, *others = section.methods
    assert first == section.reference
    assert first.startswith("bf16")
    assert [second] == section.reruns
    assert [third] == section.floors
    assert "portable_tokens" in third
    assert set(others) == {"published/rtn_int4", "rtn_int4", "rtn_int4 key.bits=8"}


def test_a_row_of_the_study_is_known_by_its_file(section: Section) -> None:
    rows = {name: method.row for name, method in section.methods.items() if method.row}
    assert rows == {"published/rtn_int4": "RTN_INT4"}
    assert section.methods["rtn_int4"].family == "RTN"
    assert section.methods["rtn_int4"].description.startswith("Round to nearest, 4 bits")


def test_values_are_means_and_largest_peaks_of_the_rows(section: Section, real: Path) -> None:
    rows = all_runs.load(real)
    own = rows[(rows["method"] == "rtn_int4") & (rows["settings"] == "")]
    found = section.values.loc["rtn_int4"]
    assert found["peak_gib"] == own["peak_bytes"].max() / 2**30
    assert found["runtime_s"] == pytest.approx(own["generate_s"].mean())
    assert found["psnr_db"] == pytest.approx(own["psnr_db"].mean())
    assert found["ratio"] == pytest.approx(3.2)
    assert section.methods["rtn_int4"].flops == own["flops"].mean() > 0
    assert section.seconds_generated == pytest.approx(own["num_pixel_frames"].iloc[0] / 16)
    assert found["seconds_ratio"] == pytest.approx(found["runtime_s"] / section.seconds_generated)


def test_another_way_of_building_in_is_said(section: Section) -> None:
    (said,) = [note for note in section.notes if "integration=" in note]
    assert said.startswith("integration=published: published/rtn_int4;")


def test_bf16_has_no_fidelity_and_what_is_missing_says_why(section: Section) -> None:
    assert section.reference is not None
    assert pd.isna(section.values.loc[section.reference, "ssim"])
    assert not section.has("lpips")
    assert "fetch weights metrics=lpips" in section.why_not("lpips")
    assert "metrics=[vbench/imaging_quality]" in section.why_not("imaging")


def test_curves_have_a_value_a_second_and_traces_are_of_one_video(section: Section) -> None:
    curve = section.curves["ssim"]
    assert section.reference not in curve
    assert curve.index[0] == 9 / 16 + 0.5, "the first second behind the first chunk"
    assert set(section.traces["kv"]) == set(section.methods)
    kv, memory = (section.traces[name]["rtn_int4"] for name in ("kv", "memory"))
    assert len(kv.gib) == 2  # chunks
    assert (kv.gib < memory.gib).all()
    held = section.values.loc["rtn_int4", "kv_gib"]
    assert kv.gib[-1] == pytest.approx(held)
    peak = section.components.loc["rtn_int4"].sum()
    assert peak <= section.values.loc["rtn_int4", "peak_gib"] * 1.001
    assert section.traced == "prompt 0, sample 0"


def test_the_command_of_a_run_makes_it_again(section: Section, real: Path) -> None:
    said = section.methods["rtn_int4 key.bits=8"].command
    assert said.startswith("python -m harness method=rtn_int4 suite=moviegen model=small")
    assert "method.key.bits=8" in said
    before = {path: path.stat().st_mtime_ns for path in real.glob("**/observations.parquet")}
    assert command(*said.split()[3:]).returncode == 0
    after = {path: path.stat().st_mtime_ns for path in real.glob("**/observations.parquet")}
    assert before == after


def test_another_length_or_reference_is_another_section(tmp_path: Path) -> None:
    write_results(tmp_path / "a", 4, 2)
    (run,) = (tmp_path / "a").glob("**/bf16-*")
    other = replace(Run.from_folder(run), seed=7, results_dir=str(tmp_path / "b"))
    other.make_folders()
    write_json(other.folder / "request.json", {**asdict(other), "reference_id": other.run_id})
    rows = parquet.read(run / observations.OBSERVATIONS, None, "").to_pylist()
    table = [{**row, "run_id": other.run_id} for row in rows]
    schema = parquet.schema(observation.Observation)
    parquet.write(other.folder / observations.OBSERVATIONS, pa.Table.from_pylist(table, schema))
    found = sections(tmp_path)
    assert len(found) == 2
    assert len({each.title for each in found}) == 2
    assert [each.reference for each in found] == ["bf16", "bf16"]


def test_failed_and_unfinished_and_unreadable_are_said(tmp_path: Path) -> None:
    write_results(tmp_path, 12, 3)
    ours = sorted(tmp_path.glob("**/observations.parquet"))
    _, failed, unread = [path for path in ours if "bf16-" in path.parent.name] + [
        path for path in ours if not path.parent.name.startswith("bf16-")
    ]
    table = parquet.read(failed, None, "").to_pylist()
    table[0] |= {"failure": "oom", "failure_reason": "no room", "device": "other"}
    parquet.write(failed, pa.Table.from_pylist(table[:3], parquet.schema(observation.Observation)))
    (unread.parent / "request.json").write_text("{")
    (section,) = sections(tmp_path)
    method = next(each for each in section.methods.values() if each.num_failed)
    assert (method.num_videos, method.num_failed, method.num_wanted) == (2, 1, 4)
    assert method.failures == ("1 x oom: no room",)
    notes = "\n".join(section.notes)
    assert "mixed: rows of 2 machines" in notes
    assert f"{method.name}: 1 of 3 videos failed (oom)" in notes
    assert f"{method.name}: unfinished, 3 of 4 videos" in notes
    assert "request.json cannot be read" in notes


def test_a_damaged_file_takes_nothing_else_with_it(tmp_path: Path) -> None:
    write_results(tmp_path, 12, 3)
    first, second, third = sorted(path.parent for path in tmp_path.glob("**/observations.parquet"))
    (second / "trace").mkdir(exist_ok=True)
    (second / "trace" / "0000-0.parquet").write_bytes(b"PAR1 and no more")
    (third / "observations.parquet").write_bytes(b"PAR1 and no more")
    (section,) = sections(tmp_path)
    assert [method.folder for method in section.methods.values()] == [first, second]
    said = [note for note in section.notes if "damaged" in note]
    assert len(said) == 2
    assert said[0].startswith("left out, a run that cannot be read:") and str(third) in said[0]
    assert f"no trace, {second / 'trace' / '0000-0.parquet'} is damaged" in said[1]
    for folder in (first, second):
        (folder / "observations.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="is damaged"):
        sections(tmp_path)


def test_without_bf16_there_is_no_reference_and_that_is_said(tmp_path: Path) -> None:
    write_results(tmp_path, 4, 2)
    (bf16,) = tmp_path.glob("**/bf16-*")
    bf16.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "observations.parquet").unlink()
    (section,) = sections(tmp_path)
    assert section.reference is None
    assert any("no BF16 run among them" in note for note in section.notes)


def test_nothing_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results below"):
        sections(tmp_path)
