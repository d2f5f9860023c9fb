"""Steps on a GPU as CUDA graphs: recorded once, then replayed, so that no time goes by between two kernels.

In its place a step of small networks costs the processor ten times what it costs the GPU (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steadylens.training.imbalance import DEFERRED
from steadylens.training.regularize import Mixing

Found = TypeVar("Found")
Learn = Callable[[Tensor, Mixing | None, float], Tensor]  # positions, mixing and progress to the mean loss
PLAIN_STEPS = 3  # of a training come before any is recorded: the first set up what must not be recorded


def recorded(call: Callable[[], object]) -> Callable[[], None]:
    """A function without arguments as one CUDA graph, for work on tensors that stay where they are."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
    for _ in range(PLAIN_STEPS):
        _aside(stream, call)
    with torch.cuda.graph(graph, stream=stream):
        call()
    replay: Callable[[], None] = graph.replay
    return replay


def _aside(stream: torch.cuda.Stream, call: Callable[[], Found]) -> Found:
    """On the stream on which steps are recorded: what autograd keeps of a stream must be the same."""
    now = torch.cuda.current_stream(stream.device)
    stream.wait_stream(now)
    with torch.cuda.stream(stream):
        found = call()
    now.wait_stream(stream)
    return found


class Recorder:
    """Records each kind of step on a GPU once, as a CUDA graph, and replays it: hundreds of kernels by one call.

    A kind is what the recording fixes: how many images, how they are mixed, and whether deferred weights act. All else
    is read from tensors when it is replayed: which images, the figures of the mixing, the learning rate. Random numbers
    are those that torch's generator of the device gives when it is replayed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._recordings: dict[tuple[int, bool | None, bool], _Recording] = {}
        self._plain = 0

    def step(self, learn: Learn, positions: NDArray[np.int64], mixing: Mixing | None, progress: float) -> Tensor:
        """Do one step, by replaying where its kind is known, or else recording it first.

        Args:
            learn: what a step is.
            positions: (n,) of the images.
            mixing: how the batch is mixed with itself.
            progress: of the training.

        Returns:
            What `learn` does: the mean loss.
        """
        there = torch.from_numpy(positions).pin_memory().to(self._device, non_blocking=True)
        if self._plain < PLAIN_STEPS:
            self._plain += 1
            return _aside(self._stream, lambda: learn(there, mixing, progress))
        kind = len(positions), None if mixing is None else mixing.cut, progress >= DEFERRED
        if kind not in self._recordings:
            self._recordings[kind] = self._record(learn, there.clone(), mixing, progress)
        return self._recordings[kind].replay(there, mixing)

    def _record(self, learn: Learn, positions: Tensor, mixing: Mixing | None, progress: float) -> _Recording:
        figures, graph = torch.zeros(4, device=self._device), torch.cuda.CUDAGraph()
        own = None if mixing is None else Mixing(mixing.cut, *figures.unbind())
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            loss = learn(positions, own, progress)
        return _Recording(graph, positions, figures, loss)


@dataclass(frozen=True, slots=True)
class _Recording:
    """One kind of step, with the tensors that it reads from and writes to."""

    graph: torch.cuda.CUDAGraph
    positions: Tensor
    figures: Tensor
    loss: Tensor

    def replay(self, positions: Tensor, mixing: Mixing | None) -> Tensor:
        """Do the step with these images and these figures."""
        self.positions.copy_(positions)
        if mixing is not None:
            figures = torch.tensor([mixing.share, mixing.left, mixing.top, mixing.box]).pin_memory()
            self.figures.copy_(figures, non_blocking=True)
        self.graph.replay()
        return self.loss.clone()
