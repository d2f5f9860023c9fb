"""Want of memory is recognised, and the batch size that fits is found and said."""

from __future__ import annotations

import errno
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from steadylens.training.memory import SMALLEST_BATCH, advice, largest_batch_that_fits, out_of_memory

CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you ...")


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (CPU, True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("std::bad_alloc"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_want_of_memory_is_recognised(error: BaseException, is_it: bool) -> None:
    assert out_of_memory(error) is is_it


def test_numpy_and_torch_say_it_in_words_that_are_known() -> None:
    with pytest.raises(MemoryError) as of_numpy:
        np.ones(2**55, np.uint8)
    with pytest.raises(RuntimeError) as of_torch:
        torch.ones(2**55, dtype=torch.uint8)
    assert out_of_memory(of_numpy.value)
    assert out_of_memory(of_torch.value)


@pytest.mark.parametrize(
    ("batch_size", "room", "found"),
    [(256, 255, 128), (256, 128, 128), (256, 127, 64), (100, 99, 50), (100, 13, 12), (100, 3, 3), (100, 2, 0),
     (64, 2, 2), (16, 1, 0), (16, 0, 0), (5, 4, 2), (3, 2, 0), (2, 1, 0)],
)  # fmt: skip
def test_the_largest_half_that_fits_is_found(batch_size: int, room: int, found: int) -> None:
    tried: list[int] = []

    def step(size: int) -> None:
        tried.append(size)
        if size > room:
            raise CPU

    assert largest_batch_that_fits(step, batch_size) == found
    assert all(size >= SMALLEST_BATCH for size in tried)


def test_another_error_is_not_taken_for_want_of_memory() -> None:
    def step(_: int) -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        largest_batch_that_fits(step, 64)


def test_what_a_failed_step_held_is_let_go_of_before_the_next() -> None:
    class Held:
        alive = 0

        def __init__(self) -> None:
            Held.alive += 1
            self.itself = self  # only a collection of garbage frees it

        def __del__(self) -> None:
            Held.alive -= 1

    def step(size: int) -> None:
        assert not Held.alive
        held = Held()
        if size > 8:
            raise CPU
        assert held

    assert largest_batch_that_fits(step, 128) == 8


def test_the_advice_names_both_sizes() -> None:
    assert "a batch of 256 images; a batch of 64 fits. Train with --set batch_size=64" in advice(256, 64)
    assert "a batch of 2 images, and for the smallest batch too" in advice(2, 0)
    assert "--image-size" in advice(2, 0)


UNDER_A_LIMIT = """
import json, resource, sys
import torch
from steadylens.models import NetworkSpec, build
from steadylens.training.memory import largest_batch_that_fits, out_of_memory
torch.set_num_threads(1)
network = build(NetworkSpec("cnn-s", classes=10, image_size=32, depth=1, width=1.0, dropout=0.0))

def step(size):
    network.zero_grad()
    network(torch.rand(size, 3, 32, 32)).logsumexp(1).mean().backward()

step(2)  # libraries are loaded
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 400 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    bytearray(2**30)
except MemoryError:
    pass
else:
    print(json.dumps("no limit")); sys.exit()
told = False
try:
    step(8192)
except Exception as error:
    told = out_of_memory(error) or repr(error)
print(json.dumps([told, largest_batch_that_fits(step, 8192)]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits on memory hold on Linux only")
def test_a_real_network_under_a_limit() -> None:
    done = subprocess.run([sys.executable, "-c", UNDER_A_LIMIT], capture_output=True, text=True, check=False)  # noqa: S603 - our own
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    if answer == "no limit":
        pytest.skip("this machine does not hold a process to its limit of memory")
    told, fits = answer
    assert told is True
    assert 2 <= fits <= 4096
