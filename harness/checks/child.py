"""Runs contracts in a child process, so that a crash or an endless loop breaks only one of them."""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from harness.checks.verdict import Verdict
from harness.system import child_process
from harness.system.child_process import die_with, report_lines, search_path

LIMIT_S = 600.0  # for one contract of a method, including the start of the process


def judged(
    group: str, configs: Mapping[str, Mapping[str, Any]], limit_s: float | None
) -> Iterator[tuple[str, Verdict]]:
    """Check methods or models in a child; yield each verdict with the name of its subject.

    group: method or model. configs: resolved configurations by name.
    limit_s: seconds per contract; None for no limit.

    If a child dies or exceeds the limit, the current contract is broken and the remaining ones of
    this subject are skipped. Another child checks the other subjects.
    """
    todo = dict(configs)
    # A child checks subjects until it ends. One that dies costs the rest of its current subject,
    # and the next child goes on.
    while todo:
        process, reports = _start(group, todo)
        name, contract, since = next(iter(todo)), "starts", time.perf_counter()
        try:
            # The limit is for one contract: each begins with a report, which starts the limit anew.
            while (line := reports.get(timeout=limit_s)) is not None:
                with suppress(json.JSONDecodeError):  # a dying child may leave an incomplete line
                    report = json.loads(line)
                    if "verdict" in report:
                        yield name, Verdict(**report["verdict"])
                    elif "contract" in report:
                        name, contract = report["name"], report["contract"]
                        since = time.perf_counter()
                    else:
                        del todo[report["finished"]]
            code = process.wait()
            how = (
                f"by {signal.Signals(-code).name}"
                if code < 0
                else f"with exit code {code} and no word"
            )
            death = f"its process ended {how}"
        except queue.Empty:
            death = (
                f"it took longer than {limit_s:g} s and was ended: run.timeout_s=<seconds> sets "
                "another limit"
            )
        finally:  # also if the caller stops reading
            process.kill()
            process.wait()
        if todo:  # the child ended before it had finished the current subject
            yield name, Verdict(contract, False, death, time.perf_counter() - since)
            del todo[name]


def _start(
    group: str, configs: Mapping[str, Mapping[str, Any]]
) -> tuple[subprocess.Popen[str], queue.SimpleQueue[str | None]]:
    """Start a child; return it with the queue of its report lines, which ends with None."""
    # Reports have a pipe of their own: a method may print whatever it likes.
    reader, writer = os.pipe()
    words = ["--group", group, "--reports", str(writer), "--parent", str(os.getpid())]
    variables = {**os.environ, "PYTHONPATH": search_path()}
    process = child_process.start("harness.checks.child", words, (writer,), variables)
    os.close(writer)  # else the pipe would not end when the child dies
    assert process.stdin is not None
    # All configurations together can be too long for a command line, so they come by this pipe. A
    # child that died at its start has closed it; the end of its reports says so.
    with suppress(BrokenPipeError), process.stdin as stdin:
        json.dump(configs, stdin)
    return process, report_lines(reader)


def main(words: Sequence[str]) -> None:
    """Run the child: read configurations from standard input, write one JSON line per report."""
    parser = argparse.ArgumentParser(prog="harness.checks.child")
    parser.add_argument("--group", choices=["method", "model"], required=True)
    parser.add_argument("--reports", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args(words)
    die_with(given.parent)
    os.set_inheritable(given.reports, False)  # processes of a method must not keep the pipe open
    configs = json.load(sys.stdin)

    def report(**content: Any) -> None:
        os.write(given.reports, f"{json.dumps(content)}\n".encode())

    for name, config in configs.items():
        # The default keeps the name of this round, whenever the function is called.
        def begins(contract: str, name: str = name) -> None:
            report(name=name, contract=contract)

        # Imported here, since a child checks one kind only.
        if given.group == "method":
            from harness.checks.method_contracts import verdicts
            from harness.checks.method_subject import Subject

            found = verdicts(Subject(name, config), begins)
        else:
            from harness.checks import model

            subject = model.ModelSubject(name, config["model"], config["data_dir"])
            found = model.verdicts(subject, begins)
        for verdict in found:
            report(verdict=asdict(verdict))
        report(finished=name)


if __name__ == "__main__":
    main(sys.argv[1:])
