"""Client of `tests/support/forks.py` that replaces `python -m ...` in a command line.

The first word is the server's socket. The client sends the other words, the folder, the environment
and the three standard files. It waits and ends as the command did. It runs without `site`, so that
it starts in a few milliseconds.
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
    if -code not in (signal.SIGKILL, signal.SIGSTOP):  # no handler can be set for them
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
