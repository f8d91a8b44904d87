"""`run.json`: what a finished run is made of. Written last; its presence means done."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from harness import store
from harness.errors import UserError
from harness.files import sha256, write_json
from harness.run import ENVIRONMENT, Run
from harness.scores import SCORES

MANIFEST = "run.json"


def write(run: Run) -> None:
    """Say that all videos asked for are made and scored, and by what."""
    environment = run.folder / ENVIRONMENT
    write_json(
        run.folder / MANIFEST,
        {
            "run_id": run.run_id,
            "state": "done",
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "suite": {"name": run.suite.name, "source": run.suite.source, "seed": run.seed}
            | {"sha256": run.suite.sha256, "num_latent_frames": run.suite.num_frames},
            "num_videos": len(store.made(run.folder)),
            "model": {"name": run.model_name, **run.model},
            "method": {"name": run.method_name, **run.method},
            "attention": run.attention,
            "integration": run.integration,
            "weights": store.weights(run.folder),
            "schema_version": store.SCHEMA_VERSION,
            "code_versions": store.code_versions(run.folder),
            "environment": json.loads(environment.read_text()) if environment.exists() else None,
            "files": {name: sha256(run.folder / name) for name in (store.OBSERVATIONS, SCORES)},
        },
    )


def is_there(folder: Path) -> bool:
    """Whether a run says that it is done; a damaged manifest says nothing.

    Raises  UserError: it is of a version to come.
    """
    path = folder / MANIFEST
    if not path.exists():
        return False
    try:
        version = int(json.loads(path.read_text())["schema_version"])
    except (ValueError, LookupError, TypeError):
        return False
    if version > store.SCHEMA_VERSION:
        raise UserError(
            f"{path} was written by a newer version of the harness (schema {version}, this one "
            f"writes {store.SCHEMA_VERSION}): update the harness, or move {folder} away and type "
            "the same command again"
        )
    return version == store.SCHEMA_VERSION


def clear(folder: Path) -> None:
    """A run that is worked on is not done."""
    (folder / MANIFEST).unlink(missing_ok=True)
