"""Mirrors a run to wandb. The parquet files are the record; a failure here never fails a run."""

from __future__ import annotations

import netrc
import os
from typing import Literal

from harness.results import all_runs
from harness.results.run import Run
from harness.results.summary import summarize
from harness.system.errors import UserError, first_line
from harness.system.logs import log

Mode = Literal["online", "offline", "disabled"]


def mode(wanted: str) -> Mode:
    """Resolve `track.mode`: `auto` is online with an account (WANDB_API_KEY, netrc), else offline.

    Raises  UserError: an unknown mode.
    """
    if wanted in ("online", "offline", "disabled"):
        return wanted  # type: ignore[return-value]
    if wanted != "auto":
        raise UserError(f"track.mode={wanted}: choose auto, online, offline or disabled")
    # wandb itself would ask for an account at the terminal, which stops a job that nobody watches.
    # Its login leaves the key in the user's netrc.
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    # A netrc that is missing or malformed means no account, not a failed run.
    try:
        has_account = netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        has_account = False
    return "online" if has_account else "offline"


def mirror(run: Run) -> None:
    """Send the rows, their summary and the contact sheets of a run to wandb."""
    if mode(run.track["mode"]) == "disabled":
        return
    try:
        _mirror(run)
    except Exception as error:  # noqa: BLE001  whatever a tracker does, the results are on disk
        log.warning(
            f"wandb mirror failed ({first_line(error)}); results are complete in {run.folder}"
        )


def _mirror(run: Run) -> None:
    os.environ.setdefault("WANDB_SILENT", "true")  # read when wandb is imported
    import wandb

    table = all_runs.load_run(run.folder)
    # The whole run every time: a resumed run's page then has all rows, in one table.
    with wandb.init(
        project=run.track["project"],
        name=f"{run.suite.name}/{run.model_name}/{run.folder.name}",
        id=run.track_id,
        resume="allow",  # a run that goes on keeps its page
        mode=mode(run.track["mode"]),
        dir=run.folder,
        config={"model": run.model, "method": run.method, "suite": run.suite.name}
        | {"attention": run.attention, "integration": run.integration},
    ) as session:
        session.log({"observations": wandb.Table(dataframe=table.astype(object))})
        for row in table.itertuples():
            sheet = run.folder / "videos" / f"{row.prompt_index:04d}-{row.sample}.png"
            if sheet.exists():
                session.log({"sheet": wandb.Image(str(sheet), caption=str(row.prompt))})
        session.summary.update(summarize(table))
