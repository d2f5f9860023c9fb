"""Where a run is, kept so that a crash at any moment costs a minute at most: the files of RUN/checkpoints.

There are two kinds. A *position* is a place in a training: numbered, written while the training goes on, and the last
two are kept. An *outcome* is what came of a stage, named after it and kept until the run is finished.

Each is two files: NAME.safetensors with the tensors, and NAME.json with everything else, among it the SHA-256 of the
first file and of its own content. The JSON file is written last: without it, or where a digest does not fit, there is
no checkpoint, and the one before it counts.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from steadylens import files
from steadylens.errors import ResourceError, SteadylensError

FORMAT = 2
# The stages of a run, and the outcome that each rests on: made anew from another outcome, it would be another. A stage
# that comes several times has a name for each time, such as "trial.2": what stands before the dot is the stage.
RESTS_ON = {
    "resolved": "",
    "trial": "resolved",
    "selection": "",
    "training": "selection",
    "member": "selection",
    "probe": "selection",
    "fine-tuning": "probe",
    "beside": "probe",
    "trained": "selection",
    "validation": "trained",
    "test": "trained",
    "refit-probe": "trained",
    "refit-tuning": "refit-probe",
    "refitting": "trained",
    "refitted": "trained",
    "refitted-test": "refitted",
}
KEPT = 2  # positions
EVERY_S = 45.0  # between two positions within an epoch, so that each is on the disk within a minute
# Where epochs are short, a position is saved at the end of those only that keep its cost below this share of the time.
COST_SHARE = 0.01
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError, safetensors.SafetensorError)
_PATIENCE_S = 600.0  # for a position to reach the disk, before the run stops


@dataclass(frozen=True)
class Checkpoint:
    """What was saved.

    Attributes:
        state: JSON values.
        tensors: on the CPU, in the plain layout.
    """

    state: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)


Take = Callable[[], Checkpoint]


class Checkpoints:
    """The checkpoints of one run; it writes positions in a thread of its own, which the training does not wait for.

    Args:
        folder: where they are; None keeps nothing and finds nothing.
        spent: tells the seconds that the run has taken so far, for each checkpoint to hold.
        say: told of what is damaged.
    """

    def __init__(
        self,
        folder: Path | None,
        spent: Callable[[], float] = lambda: 0.0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._folder, self._spent, self._say = folder, spent, say
        self._next = 1 + max(self._numbers(), default=0)
        self._saved_at, self._cost_s = time.monotonic(), 0.0
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._said: list[str] = []

    def seconds_spent(self) -> float:
        """The seconds that the run had taken when the latest of its checkpoints was made; 0 where there is none."""
        return max((float(document["spent"]) for document in self._documents()), default=0.0)

    def outcome(self, stage: str) -> Checkpoint | None:
        """What came of a stage, one of `RESTS_ON`; None where that is not known, or no longer.

        Raises:
            ResourceError: it is there and cannot be read.
        """
        found = self._read(stage, stage)
        if found is None:
            self._say_instead("The stage is done again.")
        return found

    def keep(self, stage: str, outcome: Checkpoint) -> None:
        """Keep what came of a stage, one of `RESTS_ON`.

        Raises:
            ResourceError: it cannot be written, or a position before it could not.
        """
        self.settle()
        if self._folder is not None:
            self._write(stage, stage, self._digest_of(_rests_on(stage)), outcome)

    def position(self, stage: str) -> Checkpoint | None:
        """The latest place in the training of a stage that is whole; None where there is none.

        Raises:
            ResourceError: it is there and cannot be read.
        """
        for number in sorted(self._numbers(), reverse=True):
            found = self._read(_name(number), stage)
            if found is not None:
                self._say_instead("The one before it is used.")
                return found
        self._say_instead("The training begins anew.")
        return None

    def good_weights(self) -> str:
        """A sentence that says where the last good weights of a training are; "" where none are kept."""
        with suppress(ResourceError):
            self.settle()
        number = max(self._numbers(), default=0)  # the last ones whose weights were numbers
        return f"The last good weights are in {self._folder}/{_name(number)}.safetensors." if number else ""

    def offer(self, stage: str, take: Take, *, epoch_ended: bool) -> None:
        """Save a position where it is time to: `take` is called then, and what it gives is written in the background.

        Raises:
            ResourceError: the last position could not be written.
        """
        self._raise_failure()
        if self._folder is None or (self._writer is not None and self._writer.is_alive()):
            return
        since = time.monotonic() - self._saved_at
        if since >= EVERY_S or (epoch_ended and since * COST_SHARE >= self._cost_s):
            self._begin(stage, take)

    def save_now(self, stage: str, take: Take) -> None:
        """Save a position now, and return when it is on the disk.

        Raises:
            ResourceError: it could not be written.
        """
        self.settle()
        if self._folder is not None:
            self._begin(stage, take)
            self.settle()

    def settle(self) -> None:
        """Wait until what was begun is on the disk.

        Raises:
            ResourceError: it could not be written.
        """
        if self._writer is not None:
            self._writer.join(_PATIENCE_S)
            if self._writer.is_alive():
                raise ResourceError(
                    f"Writing a checkpoint to {self._folder} takes longer than {_PATIENCE_S:.0f} s. Look at the disk, "
                    "and run the same command again: it goes on from the checkpoint before."
                )
        self._raise_failure()

    def clear(self) -> None:
        """Remove all checkpoints, since the run is finished."""
        self.settle()
        for document in self._jsons():
            files.remove(document)
            files.remove(document.with_suffix(".safetensors"))

    def _begin(self, stage: str, take: Take) -> None:
        begin = time.monotonic()
        taken = take()
        self._saved_at = time.monotonic()
        took = self._saved_at - begin
        number, self._next = self._next, self._next + 1
        what = (number, stage, self._digest_of(_rests_on(stage)), taken, took)
        self._writer = threading.Thread(target=self._write_position, args=what, daemon=True)
        self._writer.start()

    def _write_position(self, number: int, stage: str, of: str, position: Checkpoint, took: float) -> None:
        try:
            weights = (t for name, t in position.tensors.items() if name.startswith(("network.", "average.")))
            if not all(tensor.isfinite().all() for tensor in weights):
                return  # the training has diverged, as its next loss will tell: the last good weights stay
            self._write(_name(number), stage, of, position)
            for old in sorted(self._numbers())[:-KEPT]:
                self._remove(_name(old))
        except BaseException as failure:  # told to the training, which alone can stop the run
            self._failure = failure
        self._cost_s = took + time.thread_time()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if isinstance(failure, SteadylensError):
            raise failure
        if failure is not None:
            raise RuntimeError("A checkpoint could not be made.") from failure

    def _write(self, name: str, stage: str, of: str, checkpoint: Checkpoint) -> None:
        assert self._folder is not None  # noqa: S101 - for the type checker: whoever calls has looked
        weights = safetensors.torch.save(checkpoint.tensors)
        document = {
            "format": FORMAT,
            "stage": stage,
            "of": of,
            "spent": self._spent(),
            "state": checkpoint.state,
            "tensors": {"bytes": len(weights), "sha256": files.sha256(weights)},
        }
        self._remove(name)  # what is damaged under this name must not meet half of what replaces it
        files.write_bytes(self._folder / f"{name}.safetensors", weights)
        signed = json.dumps({**document, "sha256": _digest(document)}, allow_nan=False)
        files.write_text(self._folder / f"{name}.json", signed)

    def _remove(self, name: str) -> None:
        assert self._folder is not None  # noqa: S101 - as above
        files.remove(self._folder / f"{name}.json")  # first, since it is what makes the checkpoint
        files.remove(self._folder / f"{name}.safetensors")

    def _read(self, name: str, stage: str) -> Checkpoint | None:
        """A checkpoint of a stage, or None where there is none, or a damaged one, which is said."""
        if self._folder is None or not (path := self._folder / f"{name}.json").exists():
            return None
        try:
            document = _document(path)
            if document["stage"] != stage:
                return None
            content = path.with_suffix(".safetensors").read_bytes()
            if files.sha256(content) != document["tensors"]["sha256"]:
                raise ValueError("its digest does not match its content")
            if document["of"] != self._digest_of(_rests_on(stage)):
                raise ValueError("what it was made from is not there any more")
            return Checkpoint(document["state"], safetensors.torch.load(content))
        except _DAMAGED as error:
            self._said.append(f"The checkpoint {path.with_suffix('')} cannot be used ({error}).")
            return None
        except OSError as error:  # a disk that fails for a moment must not cost what lies on it
            raise ResourceError(
                f"{path.with_suffix('')} could not be read: {error.strerror or error}. Make sure that it can be, and "
                "run the same command again."
            ) from error

    def _say_instead(self, what: str) -> None:
        """Say what was damaged, if anything was, and what is done instead."""
        for text in self._said:
            self._say(f"{text} {what}")
        self._said.clear()

    def _digest_of(self, stage: str) -> str:
        """Of the outcome of a stage as it is now, "" where there is none."""
        if self._folder is None or not stage:
            return ""
        try:
            return _digest(_document(self._folder / f"{stage}.json"))
        except (*_DAMAGED, OSError):
            return ""

    def _jsons(self) -> Iterator[Path]:
        if self._folder is not None and self._folder.is_dir():
            named = sorted(self._folder.glob("*.json"))
            yield from (path for path in named if path.stem.isdecimal() or _stage_of(path.stem) in RESTS_ON)

    def _documents(self) -> Iterator[dict[str, Any]]:
        for path in self._jsons():
            try:
                yield _document(path)
            except (*_DAMAGED, OSError):
                continue  # who wants to use it will say so

    def _numbers(self) -> list[int]:
        return [int(path.stem) for path in self._jsons() if path.stem.isdecimal()]


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU in the plain layout, that a training can no longer change."""
    return {name: torch.empty(t.shape, dtype=t.dtype).copy_(t.detach()) for name, t in tensors.items()}


def _stage_of(name: str) -> str:
    return name.partition(".")[0]


def _rests_on(name: str) -> str:
    return RESTS_ON[_stage_of(name)]


def _name(number: int) -> str:
    return f"{number:06d}"


def _document(path: Path) -> dict[str, Any]:
    """The content of a checkpoint's JSON file.

    Raises:
        ValueError: it is damaged or of a newer format.
    """
    document = json.loads(path.read_text("utf-8"))
    digest = document.pop("sha256")
    if digest != _digest(document):
        raise ValueError("its digest does not match its content")
    if document["format"] != FORMAT:
        raise ValueError(f"it has format {document['format']}, and {FORMAT} is known")
    return dict(document)


def _digest(document: Mapping[str, Any]) -> str:
    return files.sha256(json.dumps(document, sort_keys=True).encode())
