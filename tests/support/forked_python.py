"""Stands in for `python -m ...` in a command line: the server of `tests/support/forks.py` runs it.

The first word is the server's socket. Hands over the other words, the folder, the environment and
the three standard files, waits, and ends as the command did. Runs without `site`, so it starts in a
few milliseconds.
"""

import json
import os
import signal
import socket
import sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    asked = {"words": sys.argv[2:], "folder": os.getcwd(), "variables": dict(os.environ)}
    socket.send_fds(server, [b"+"], [0, 1, 2])
    server.sendall(json.dumps(asked).encode() + b"\n")
    answer = server.makefile("r").readline()
if not answer:
    sys.exit("the server of tests/support/forks.py has ended")
code = os.waitstatus_to_exitcode(int(answer))
if code < 0:
    if -code not in (signal.SIGKILL, signal.SIGSTOP):  # which nothing can ignore
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
