"""Runs in processes of their own, to be killed: for the tests and for benchmarks/kill.py."""

from __future__ import annotations

import os
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import steadylens
from steadylens.training import checkpoint


def begun(data: Path, run: Path, options: dict[str, Any]) -> int:
    """Train in a forked process, which saves a position whenever the last one is on the disk; gives its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads in the parent: none of them holds a lock
        process = os.fork()
    if process:
        return process
    code = 1
    try:
        checkpoint.EVERY_S, checkpoint.COST_SHARE = 0.0, 1.0
        steadylens.train(data, out=run, quiet=True, **options)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(process: int, timeout_s: float) -> int | None:
    """How a process ended, as `os.waitstatus_to_exitcode` tells it; None where it goes on."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        pid, status = os.waitpid(process, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None
