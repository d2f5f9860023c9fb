"""A disk that fails: the n-th thing that `steadylens.files` does to it ends in an error, and every other one works."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from steadylens import files
from steadylens.report import run_folder, runs

# All that `files` does to a disk, in its own names.
MAKING = ("_open", "_write", "_fsync", "_reserve", "_sync_map", "_mkdir", "_make_temporary", "_rename", "_sync_folder")
TAKING_AWAY = ("_cut", "_unlink", "_remove_tree", "_remove_empty")
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES)
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class Calls:
    """What was done to the disk so far: the names of all calls, and how many of them failed."""

    names: list[str] = field(default_factory=list)
    failed: int = 0


@contextmanager
def failing(n: int, error: int = errno.ENOSPC, *, lasting: bool = False) -> Iterator[Calls]:
    """Make the n-th call (from 1) that changes the disk fail with this error; a write that fails is half done.

    With `lasting`, all later calls fail too, but from a disk that is full things can still be taken away.
    With an n above the number of calls, none fails, and they are counted.
    """
    calls = Calls()
    with pytest.MonkeyPatch.context() as patch:
        for name in (*MAKING, *TAKING_AWAY):
            real = getattr(files, name)
            patch.setattr(files, name, partial(_call, calls, name, real, n=n, error=error, lasting=lasting))
        yield calls


def _call(
    calls: Calls,
    name: str,
    real: Callable[..., Any],
    *arguments: Any,  # noqa: ANN401 - whatever the real one takes
    n: int,
    error: int,
    lasting: bool,
) -> Any:  # noqa: ANN401 - what the real one returns
    calls.names.append(name)
    now = len(calls.names)
    if now == n or (lasting and now > n and not (error in _FULL and name in TAKING_AWAY)):
        calls.failed += 1
        if name == "_write":
            file, content = arguments
            real(file, content[: len(content) // 2])
        raise OSError(error, os.strerror(error))
    return real(*arguments)


def assert_valid(run: Path) -> None:
    """Whatever is there is whole, and the run can be gone on with or is finished."""
    if not run_folder.is_free(run):
        assert runs.is_unfinished(run) or runs.is_finished(run)
    assert not files.is_locked(run)
    for path in run.rglob("*"):
        if path.name.startswith("."):
            continue  # temporary: under no name that counts
        if path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            assert all(row["epoch"] >= 0 for row in rows)
        elif path.suffix == ".safetensors":
            safetensors.torch.load_file(path)
