"""Finds the data folder with prompt lists and weights: named by the user, or a cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from harness.system.errors import UserError
from harness.system.paths import CACHE


def data_folder(configured: str | None) -> tuple[Path, bool]:
    """Return the data folder, and whether the user named it (`data_dir=...` or HARNESS_DATA).

    Raises  UserError: the named folder does not exist.
    """
    # What was typed counts before the environment.
    named = configured or os.environ.get("HARNESS_DATA")
    if not named:
        return CACHE, False
    folder = Path(named).expanduser()
    # A named folder that is missing is a typing error; the cache is made when it is needed.
    if not folder.is_dir():
        raise UserError(
            f"the data folder {folder} does not exist or is no folder: create it with "
            "prompts/moviegen.txt inside, or drop data_dir and HARNESS_DATA"
        )
    return folder, True
