"""A command in a child process, so that a crash of native code ends in one line as every other error does.

TFLite trusts its models: one whose structure is sound but whose values make no sense can still end the process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # of Linux' prctl(): the signal a process gets when its parent ends
SIGNALLED = 128  # plus the number of the signal: the exit status of a command that a signal ended, as shells have it


def run_guarded(program: str, command: Callable[[], int]) -> int:
    """The exit status of ``command``, run in a child; a signal that ends it becomes one line on stderr.

    Returns in the child too, which then ends as it would have without a guard. To be called before there are threads.
    """
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        return _run(command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the child too, whose status is the answer
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        name = signal.Signals(-status).name
        print(f"{program}: ended by {name}: the model is damaged, or a library is faulty", file=sys.stderr)
        return SIGNALLED - status
    return status


def _run(command: Callable[[], int]) -> int:
    """The command, quiet about Ctrl-C and about a reader of its output that has gone (``| head -1``)."""
    try:
        status = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return SIGNALLED + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush cannot fail
        return SIGNALLED + signal.SIGPIPE
    return status
