"""Options of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.system.paths import checkout


@dataclass(frozen=True)
class Options:
    """Options of a bench.

    out: folder of its files; None for the default.
    quick: small sizes, to check that it runs.
    dry_run: the GPU bench on a CPU at tiny sizes; its times mean nothing.
    """

    out: Path | None = None
    quick: bool = False
    dry_run: bool = False

    @property
    def words(self) -> list[str]:
        """The options as the user types them."""
        # For the report, which tells how to repeat the bench.
        out = [] if self.out is None else ["--out", str(self.out)]
        return [*out, *["--quick"] * self.quick, *["--dry-run"] * self.dry_run]

    @property
    def folder(self) -> Path:
        """Folder of the files: docs of the checkout for full sizes, else below results."""
        if self.out is not None:
            return self.out
        # Only measurements at full size go to the docs, where they are read as results.
        root = checkout()
        if root is None or self.quick or self.dry_run:
            return (root or Path.cwd()) / "results" / "bench"
        return root / "docs" / "benchmarks"
