"""Results on disk: the schema, durable rows, atomic files, and reading them back as one table."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from harness.errors import UserError
from harness.files import whole_file

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SCHEMA_VERSION = 4
OBSERVATIONS, SCORES = "observations.parquet", "scores.parquet"
WIDE = "results.parquet"  # all runs of a results folder in one table, for other tools
NO_REFERENCE = "the BF16 reference could not be generated"
PHASES = ("text", "denoise", "commit", "decode")  # of a video, in order
KEY = ["run_id", "prompt_index", "sample"]
Key = tuple[int, int]  # prompt index and sample: one video of a run


@dataclass(frozen=True)
class Observation:
    """One generated video and the systems measurements of making it; a row of observations.parquet.

    settings are the words that changed method or model on the command line. Times are seconds
    after the device has finished, by phase; `generate_s` is their sum; `text_s` and
    `peak_text_bytes` are those of the run that encoded the prompt, where runs share it. Of the
    `num_passes` of a video, earlier ones stood in for `num_reused`. Peaks are bytes a phase:
    allocated memory on CUDA, resident memory of the process on a CPU (`memory_source`);
    `peak_bytes` is the largest but that of `text`, whose encoder is gone before the first video
    starts. KV bytes: `nominal` codes alone, `stored` tensors held after the last commit, `peak` the
    most that history and scratch ever held together. `contract` is how much history attention may
    reach, `integration` how the method is built in (`conf/integration`), `attention_backend` what
    attended. Ratios put BF16 bytes over stored bytes: of
    the frames that still have a place in the attention, and of all frames; null where nothing is
    stored. A video that could not be made has a `failure` (`harness.errors.RunFailed` lists the
    causes), its reason, and no measurements. frames_sha256 is that of its
    shape and pixels (`harness.video.digest`).
    """

    run_id: str
    suite: str
    model: str
    method: str
    settings: str
    prompt_index: int
    sample: int
    seed: int
    prompt: str
    prompt_source: str
    num_latent_frames: int
    num_pixel_frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: int | None = None
    failure: str | None = None
    failure_reason: str | None = None
    text_s: float | None = None
    denoise_s: float | None = None
    commit_s: float | None = None
    decode_s: float | None = None
    generate_s: float | None = None
    num_passes: int | None = None
    num_reused: int | None = None
    memory_source: str | None = None
    peak_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    peak_text_bytes: int | None = None
    peak_denoise_bytes: int | None = None
    peak_commit_bytes: int | None = None
    peak_decode_bytes: int | None = None
    kv_nominal_bytes: int | None = None
    kv_stored_bytes: int | None = None
    kv_peak_bytes: int | None = None
    kv_bf16_same_frames_bytes: int | None = None
    kv_bf16_full_length_bytes: int | None = None
    kv_ratio_same_frames: float | None = None
    kv_ratio_full_length: float | None = None
    kv_frames_held: float | None = None
    scratch_bytes: int | None = None
    attention_backend: str | None = None
    integration: str | None = None
    contract: str | None = None
    preset: str | None = None
    weights: str | None = None
    device: str | None = None
    torch_version: str | None = None
    code_version: str | None = None
    video: str | None = None
    frames_sha256: str | None = None
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class Score:
    """Fidelity of one video against the BF16 video of the same prompt and seed.

    `fidelity_reason` says why all values are null, `lpips_reason` why LPIPS is. Definitions:
    `harness.metrics`. video_sha256 is that of the lossless file.
    """

    run_id: str
    prompt_index: int
    sample: int
    reference_run_id: str | None = None
    fidelity_reason: str | None = None
    psnr_db: float | None = None
    psnr_frame_mean_db: float | None = None
    psnr_first_chunk_db: float | None = None
    psnr_rest_db: float | None = None
    psnr_windows_db: list[float] | None = None
    psnr_slope_db_per_s: float | None = None
    ssim: float | None = None
    ssim_first_chunk: float | None = None
    ssim_rest: float | None = None
    ssim_windows: list[float] | None = None
    ssim_slope_per_s: float | None = None
    lpips: float | None = None
    lpips_first_chunk: float | None = None
    lpips_rest: float | None = None
    lpips_windows: list[float] | None = None
    lpips_slope_per_s: float | None = None
    lpips_reason: str | None = None
    lpips_backbone_sha256: str | None = None
    video_sha256: str | None = None
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class TracePoint:
    """Bytes of one component at a moment of a video.

    moment is `chunk` (after the commit of that chunk: what the cache holds) or `peak` (the largest
    moment of that phase: everything, adding up to the measured peak; time and chunk are null).
    """

    run_id: str
    prompt_index: int
    sample: int
    moment: str
    phase: str
    chunk: int | None
    time_s: float | None
    component: str
    bytes: int


Row = TypeVar("Row", Observation, Score)


def schema(row_type: type) -> pa.Schema:
    """The parquet schema of a row type, from its annotations; every column may be null."""
    import pyarrow as pa

    arrow = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        list[float]: pa.list_(pa.float64()),
    }
    columns = []
    for name, hint in typing.get_type_hints(row_type).items():
        if isinstance(hint, types.UnionType):
            hint = next(arg for arg in typing.get_args(hint) if arg is not types.NoneType)
        columns.append((name, arrow[hint]))
    return pa.schema(columns)


class Rows(Generic[Row]):
    """A parquet file of one row a video, durable row by row.

    Each `put` writes the whole file beside itself, syncs it and moves it into place. A run has at
    most a few thousand rows, so that costs milliseconds and leaves no half-written state behind.
    Raises  UserError: the file is damaged, or of another schema.
    """

    def __init__(self, path: Path, row_type: type[Row]) -> None:
        """Open an existing file, or begin one."""
        self._path = path
        self._row_type: type[Row] = row_type
        self._table = _table(path, row_type) if path.exists() else schema(row_type).empty_table()

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._table.num_rows)

    def put(self, row: Row) -> None:
        """Add a row, in place of an earlier one of the same video.

        Rows lie in the order of videos, so the file is the same whatever order they came in.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        same = pc.and_(
            pc.equal(self._table["prompt_index"], row.prompt_index),
            pc.equal(self._table["sample"], row.sample),
        )
        added = pa.Table.from_pylist([dataclasses.asdict(row)], schema=schema(self._row_type))
        table = pa.concat_tables([self._table.filter(pc.invert(same)), added])
        self._table = table.sort_by([(name, "ascending") for name in KEY])
        write(self._path, self._table)


def observations(folder: Path, *columns: str) -> list[dict[str, Any]]:
    """The rows of a run's videos, with all columns or some; none where nothing was tried yet.

    Raises  UserError: they cannot be read.
    """
    path = folder / OBSERVATIONS
    return _table(path, Observation, columns).to_pylist() if path.exists() else []


def failures(folder: Path) -> dict[Key, str | None]:
    """The videos of a run that have a row, and what each failed of; None for those made."""
    path = folder / OBSERVATIONS
    if not path.exists():
        return {}
    state = path.stat()
    return dict(_failures(folder, state.st_ino, state.st_mtime_ns))


@lru_cache(maxsize=1024)
def _failures(folder: Path, inode: int, changed_ns: int) -> dict[Key, str | None]:
    """Read once as long as it is the same file; every change is a new one with a new inode."""
    rows = observations(folder, "prompt_index", "sample", "failure")
    return {(row["prompt_index"], row["sample"]): row["failure"] for row in rows}


def made(folder: Path) -> set[Key]:
    """Videos of a run that were generated without failure."""
    return {key for key, failure in failures(folder).items() if failure is None}


def code_versions(folder: Path) -> list[str]:
    """The versions of the code that made the videos of a run."""
    versions = {row["code_version"] for row in observations(folder, "code_version")}
    return sorted(filter(None, versions))


def scores(folder: Path) -> dict[Key, bool]:
    """The videos of a run that have a score, and whether one without a reference."""
    path = folder / SCORES
    if not path.exists():
        return {}
    rows = _table(path, Score, ("prompt_index", "sample", "fidelity_reason")).to_pylist()
    return {
        (row["prompt_index"], row["sample"]): row["fidelity_reason"] == NO_REFERENCE for row in rows
    }


def write_trace(path: Path, points: Sequence[TracePoint]) -> None:
    """Write the trace of one video."""
    import pyarrow as pa

    rows = [dataclasses.asdict(point) for point in points]
    write(path, pa.Table.from_pylist(rows, schema=schema(TracePoint)))


def write(path: Path, table: pa.Table) -> None:
    """Replace a file by this table, atomically and durably."""
    import pyarrow.parquet as pq

    with whole_file(path) as unfinished:
        pq.write_table(table, unfinished)


def load(results: Path | str) -> pd.DataFrame:
    """Every observation below a results folder with its scores beside it, one wide table.

    Raises  UserError: no results here, or a damaged file (named, with what to do).
    """
    root = Path(results)
    folders = sorted(path.parent for path in root.glob(f"**/{OBSERVATIONS}"))
    if not folders:
        raise UserError(f"no results below {root}: run python -m harness first")
    return load_runs(folders)


def write_wide(results: Path) -> None:
    """Rewrite `results.parquet`, the table of `load`, atomically."""
    import pyarrow as pa

    wide = schema(Observation)
    for column in schema(Score):
        if column.name not in wide.names:
            wide = wide.append(column)
    write(results / WIDE, pa.Table.from_pandas(load(results), schema=wide, preserve_index=False))


def load_run(folder: Path) -> pd.DataFrame:
    """The observations of one run with their scores, a row a video."""
    return load_runs([folder])


def load_runs(folders: Sequence[Path]) -> pd.DataFrame:
    """The same of several runs, one after the other."""
    import pyarrow as pa

    observations = [_table(folder / OBSERVATIONS, Observation) for folder in folders]
    paths = [folder / SCORES for folder in folders if (folder / SCORES).exists()]
    scores = [schema(Score).empty_table(), *(_table(path, Score) for path in paths)]
    right = pa.concat_tables(scores).to_pandas().drop(columns="schema_version")
    left = pa.concat_tables(observations).to_pandas()
    wide: pd.DataFrame = left.merge(right, on=KEY, how="left", validate="one_to_one")
    return wide


def _table(path: Path, row_type: type, columns: Sequence[str] = ()) -> pa.Table:
    """Read a file, or some columns of it, and hold it against the schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        table = file.read(list(columns) or None)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path} is damaged ({str(error).splitlines()[0][:80]}): move it away and run the same "
            "command again to make its rows anew"
        ) from error
    expected = schema(row_type)
    if file.schema_arrow.names != expected.names:
        raise UserError(
            f"{path} was written by another version of the harness: move its folder away and run "
            "the same command again"
        )
    return table.cast(pa.schema([expected.field(name) for name in table.schema.names]))
