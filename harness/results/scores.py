"""Reads and writes scores: one row per video, with the columns of each metric.

The file describes itself: the metadata of each field holds the metric's name, the unit, the better
direction and the meaning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from harness.results.observation import column
from harness.system import parquet
from harness.system.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

SCORES = "scores.parquet"
VERSION = 5  # of the columns of `Scored`
CONSTANT = "constant, every frame is one flat colour"  # part of reasons, with or without values
Key = tuple[int, int]  # prompt index and sample
BESIDE = {  # suffixes of the columns that every metric has in addition to its values
    "reason": "why the metric has no value; null where it has one",
    "version": "definition, packages and windows behind the value; null where it was not tried",
    "weights": "files of weights and their checksums",
}
Row = dict[str, Any]
Value = float | int | str | list[float] | list[float | None] | None


@dataclass(frozen=True)
class Column:
    """One column of a metric.

    unit: empty for a pure number.
    better: which direction is an improvement; None: neither.
    kind: float, int, str or list[float].
    """

    name: str
    meaning: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    kind: type = float


# A protocol, because the class `Metric` lies in harness.scoring, which builds on this package.
class DescribedMetric(Protocol):
    """The part of a metric's interface that is needed to store its scores."""

    against_reference: ClassVar[bool]

    @property
    def name(self) -> str:
        """Prefix of the metric's columns."""

    def columns(self) -> tuple[Column, ...]:
        """Describe the columns of its values, in order."""


AnyMetric = TypeVar("AnyMetric", bound=DescribedMetric)


@dataclass(frozen=True)
class Scored:
    """The identity columns of a row: the video that was scored, and its reference."""

    run_id: str = column("as in the observations")
    prompt_index: int = column("as in the observations")
    sample: int = column("as in the observations")
    reference_run_id: str = column("run of the BF16 videos that the scores are against")
    frames_sha256: str | None = column(
        "digest of shape and pixels of the frames scored; null where they could not be read"
    )
    reference_frames_sha256: str | None = column("the same of the BF16 video")
    video_sha256: str | None = column("checksum of the lossless file")
    scores_version: int = column("version of these columns", default=VERSION)


# A reason beside values is a remark; without values it says why there are none.
@dataclass(frozen=True)
class Result:
    """The result of one metric for one video: values, or the reason why there are none.

    reason: set together with values if they mean little: the video is CONSTANT, or columns were not
    finite.
    version: None if the metric could not run (no weights, no reference). It is tried again as soon
    as it can run.
    """

    values: Mapping[str, Value]
    reason: str | None
    version: str | None
    weights: str | None


def fields(metric: DescribedMetric) -> list[pa.Field]:
    """Return the fields of a metric: its values, then reason, version and weights."""
    import pyarrow as pa

    whose = {"metric": metric.name, "against": "reference" if metric.against_reference else ""}

    def field(column: Column) -> pa.Field:
        about = {
            "meaning": column.meaning,
            "unit": column.unit,
            "better": column.better or "neither",
        }
        return pa.field(column.name, parquet.arrow_type(column.kind), metadata=whose | about)

    return [
        *map(field, metric.columns()),
        *(
            pa.field(f"{metric.name}_{name}", pa.string(), metadata=whose | {"meaning": meaning})
            for name, meaning in BESIDE.items()
        ),
    ]


class Scores:
    """The scores of a run; each `put` is on disk when it returns.

    The columns of the file are those of `Scored`, then the `fields` of each metric.

    Raises  UserError: the file is damaged, or of another version.
    """

    def __init__(self, path: Path) -> None:
        """Read the file if it exists; the first `put` creates it otherwise."""
        self._path = path
        table = read(path) if path.exists() else parquet.schema(Scored).empty_table()
        self._fields: dict[str, pa.Field] = {field.name: field for field in table.schema}
        self._rows: dict[Key, Row] = {key(row): row for row in table.to_pylist()}

    def put(self, scored: Scored, results: Mapping[AnyMetric, Result]) -> None:
        """Add results to a video's row, and drop results of other frames or another reference.

        Rows are sorted by video and columns by metric, so the file does not depend on the order of
        the calls.
        """
        import pyarrow as pa

        identity = dataclasses.asdict(scored)
        row = self._rows.get(key(identity), {})
        # Scores of other frames are dropped, even those of metrics that are not scored now.
        if row.get("frames_sha256") != scored.frames_sha256:
            row = {}
        # Of another reference only the scores against it are dropped; the rest is of these frames.
        if scored.reference_frames_sha256 is None:
            # The reference video is not there now, so earlier scores against it stay valid.
            identity["reference_frames_sha256"] = row.get("reference_frames_sha256")
        elif row.get("reference_frames_sha256") != scored.reference_frames_sha256:
            against = {
                name
                for name, field in self._fields.items()
                if (field.metadata or {}).get(b"against") == b"reference"
            }
            row = {name: value for name, value in row.items() if name not in against}
        row |= identity
        for metric, result in results.items():
            self._describe(metric)
            # By `get`: a metric without a result has null in each of its columns.
            row |= {column.name: result.values.get(column.name) for column in metric.columns()}
            row |= {f"{metric.name}_{name}": getattr(result, name) for name in BESIDE}
        self._rows[key(identity)] = row
        # The whole file is rewritten, as in `observations.Rows.put`.
        # Columns that a row lacks become null.
        rows = [self._rows[each] for each in sorted(self._rows)]
        parquet.write(self._path, pa.Table.from_pylist(rows, pa.schema(self._fields.values())))

    def _describe(self, metric: DescribedMetric) -> None:
        """Add a metric's fields, or replace those of an earlier version of the metric."""
        wanted = fields(metric)
        known = [x for x in self._fields.values() if _metric_of(x) == metric.name]
        # Units and meanings count too: other metadata means another definition of the columns.
        if not all(x.equals(y, check_metadata=True) for x, y in zip(known, wanted, strict=False)):
            known = []
        if len(known) == len(wanted):
            return
        of_others = [x for x in self._fields.values() if _metric_of(x) != metric.name]
        # Sorted by metric: a run that was killed and resumed has the columns of one that was not.
        in_order = sorted([*of_others, *wanted], key=lambda field: _metric_of(field) or "")
        self._fields = {field.name: field for field in in_order}


def read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file of scores; with `columns`, only these and those of `Scored`.

    Raises  UserError: it is damaged, or of another version.
    """
    again = f"remove it and type python -m harness score {path.parent}"
    if columns is not None:
        columns = [*parquet.schema(Scored).names, *columns]
    table = parquet.read(path, columns, again)
    expected = parquet.schema(Scored)
    # The other columns are those of the metrics that were asked for, so they differ between runs.
    if table.schema.names[: len(expected)] != expected.names:
        raise UserError(f"{path} was written by another version of the harness: {again}")
    return parquet.plain(table)


def rows(folder: Path, columns: Sequence[str] | None = None) -> dict[Key, Row]:
    """Return a run's scores by video, all columns or some in addition to those of `Scored`."""
    # Some columns are long lists, with a value for each frame.
    path = folder / SCORES
    return {key(row): row for row in read(path, columns).to_pylist()} if path.exists() else {}


def key(row: Row) -> Key:
    """Return prompt index and sample of a row."""
    return row["prompt_index"], row["sample"]


def stem(video: Key) -> str:
    """Return the name of a video's files without their suffix."""
    # Padded, so that files lie in the order of prompts.
    return f"{video[0]:04d}-{video[1]}"


def _metric_of(field: pa.Field) -> str | None:
    return (field.metadata or {}).get(b"metric", b"").decode() or None
