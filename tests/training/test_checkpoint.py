"""What is kept is whole or counts as not there, the training never waits for it, and damage is named."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steadylens import files
from steadylens.errors import ResourceError
from steadylens.training import checkpoint
from steadylens.training.checkpoint import Checkpoint, Checkpoints, copied


def place(number: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(number)
    tensors = {"weight": torch.rand(3, 4, generator=generator), "count": torch.tensor(number)}
    return Checkpoint({"number": number, "loss": 0.1 * number}, tensors)


def same(one: Checkpoint | None, other: Checkpoint) -> bool:
    return (
        one is not None
        and one.state == other.state
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    )


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def kept(tmp_path: Path, said: list[str]) -> Checkpoints:
    return Checkpoints(tmp_path, lambda: 12.5, said.append)


def test_the_last_two_positions_are_kept_each_with_its_digest(tmp_path: Path, kept: Checkpoints) -> None:
    for number in range(1, 6):
        kept.save_now("training", lambda n=number: place(n))  # type: ignore[misc]
        assert same(kept.position("training"), place(number))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000004.json", "000004.safetensors", "000005.json", "000005.safetensors",
    ]  # fmt: skip
    for path in tmp_path.glob("*.json"):
        digest = json.loads(path.read_text())["tensors"]["sha256"]
        assert digest == hashlib.sha256(path.with_suffix(".safetensors").read_bytes()).hexdigest()
    assert same(Checkpoints(tmp_path).position("training"), place(5))
    assert kept.position("fine-tuning") is None


def test_numbers_go_on_after_a_restart(tmp_path: Path, kept: Checkpoints) -> None:
    kept.save_now("training", lambda: place(1))
    again = Checkpoints(tmp_path)
    again.save_now("training", lambda: place(2))
    assert sorted(path.stem for path in tmp_path.glob("*.json")) == ["000001", "000002"]
    assert same(again.position("training"), place(2))


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "gone"])
def test_a_damaged_position_is_named_and_the_one_before_is_used(
    tmp_path: Path, kept: Checkpoints, said: list[str], suffix: str, how: str
) -> None:
    for number in (1, 2):
        kept.save_now("training", lambda n=number: place(n))  # type: ignore[misc]
    victim = tmp_path / f"000002{suffix}"
    whole = victim.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(20 if how in ("flipped", "cut") else 1):
        said.clear()
        at = int(rng.integers(len(whole)))
        if how == "flipped":
            victim.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1 :])
        elif how == "gone":
            victim.unlink()
        else:
            victim.write_bytes(whole[: at if how == "cut" else 0])
        assert same(Checkpoints(tmp_path, say=said.append).position("training"), place(1))
        if (suffix, how) != (".json", "gone"):  # without its JSON file there never was one: a kill may leave it so
            assert len(said) == 1
            assert "000002 cannot be used" in said[0]
            assert said[0].endswith("The one before it is used.")


def test_nothing_whole_is_nothing(tmp_path: Path, kept: Checkpoints, said: list[str]) -> None:
    kept.save_now("training", lambda: place(1))
    kept.keep("probe", place(2))
    for path in tmp_path.iterdir():
        path.write_bytes(b"[]")
    assert kept.position("training") is None
    assert kept.outcome("probe") is None
    assert kept.seconds_spent() == 0.0
    assert len(said) == 2


def test_what_rests_on_another_outcome_is_done_again(kept: Checkpoints, said: list[str]) -> None:
    kept.keep("selection", place(1))
    kept.keep("trained", place(2))
    kept.keep("test", place(3))
    kept.save_now("training", lambda: place(4))
    assert same(kept.outcome("test"), place(3))
    kept.keep("trained", place(5))
    assert kept.outcome("test") is None
    assert same(kept.position("training"), place(4))
    kept.keep("selection", place(6))
    assert kept.outcome("trained") is None
    assert kept.position("training") is None
    assert [text.rsplit(". ", 1)[-1] for text in said] == [
        "The stage is done again.", "The stage is done again.", "The training begins anew.",
    ]  # fmt: skip
    assert all("what it was made from is not there any more" in text for text in said)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_what_cannot_be_read_for_a_moment_is_not_taken_for_damaged(
    kept: Checkpoints, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    kept.save_now("training", lambda: place(1))
    kept.keep("probe", place(2))
    read_bytes, read_text = Path.read_bytes, Path.read_text

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def read(path: Path, *arguments: Any) -> Any:  # noqa: ANN401 - what the real one takes and gives
            if path.suffix == suffix:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(path, *arguments)

        return read

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing(read_bytes))
        patch.setattr(Path, "read_text", failing(read_text))
        with pytest.raises(ResourceError, match="could not be read"):
            kept.position("training")
        with pytest.raises(ResourceError, match="could not be read"):
            kept.outcome("probe")
    assert same(kept.position("training"), place(1))
    assert same(kept.outcome("probe"), place(2))


def test_a_position_whose_weights_are_no_numbers_does_not_replace_a_good_one(kept: Checkpoints) -> None:
    kept.save_now("training", lambda: place(1))
    bad = Checkpoint({}, {"network.weight": torch.tensor([1.0, float("nan")])})
    for _ in range(3):
        kept.save_now("training", lambda: bad)
    assert same(kept.position("training"), place(1))
    infinite = Checkpoint({}, {"optimizer.0.exp_avg_sq": torch.tensor([float("inf")])})  # of which a training recovers
    kept.save_now("training", lambda: infinite)
    assert same(kept.position("training"), infinite)


def test_an_outcome_stays_until_the_run_is_finished(tmp_path: Path, kept: Checkpoints) -> None:
    (tmp_path / "begun.json").write_text("{}")
    kept.keep("probe", place(7))
    for number in range(4):
        kept.save_now("training", lambda n=number: place(n))  # type: ignore[misc]
    assert same(kept.outcome("probe"), place(7))
    assert kept.outcome("trained") is None
    assert kept.seconds_spent() == 12.5
    kept.keep("probe", place(8))
    assert same(kept.outcome("probe"), place(8))
    kept.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["begun.json"]


def test_a_training_does_not_wait_for_the_disk(
    tmp_path: Path, kept: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    free, write, taken = threading.Event(), files.write_bytes, list[int]()

    def slow(path: Path, content: bytes) -> None:
        assert free.wait(20)
        write(path, content)

    def take(number: int) -> Checkpoint:
        taken.append(number)
        return place(number)

    monkeypatch.setattr(files, "write_bytes", slow)
    kept.offer("training", lambda: take(1), epoch_ended=False)
    kept.offer("training", lambda: take(2), epoch_ended=True)  # the disk is busy: not even copied
    assert taken == [1]
    assert not list(tmp_path.iterdir())
    free.set()
    kept.settle()
    assert same(kept.position("training"), place(1))
    kept.offer("training", lambda: take(3), epoch_ended=False)
    kept.settle()
    assert taken == [1, 3]


def test_positions_come_every_so_often_and_at_the_end_of_epochs_that_are_not_too_short(
    kept: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "thread_time", lambda: 0.2)  # what each costs: 20 s at a share of 1 %
    kept = Checkpoints(kept._folder)
    taken: list[float] = []

    def take() -> Checkpoint:
        taken.append(now)
        return place(1)

    def offered(*, epoch_ended: bool) -> bool:
        before = len(taken)
        kept.offer("training", take, epoch_ended=epoch_ended)
        kept.settle()
        return len(taken) > before

    assert not offered(epoch_ended=False)
    assert offered(epoch_ended=True)
    now += 19.0
    assert not offered(epoch_ended=True)
    now += 2.0
    assert not offered(epoch_ended=False)
    assert offered(epoch_ended=True)
    now += checkpoint.EVERY_S - 1.0
    assert not offered(epoch_ended=False)
    now += 2.0
    assert offered(epoch_ended=False)


def test_a_failure_in_the_background_reaches_the_training(
    tmp_path: Path, kept: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.save_now("training", lambda: place(1))

    def full(path: Path, _: bytes) -> None:
        raise ResourceError(f"{path} could not be written: No space left on device.")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", full)
        with pytest.raises(ResourceError, match="No space left"):
            kept.save_now("training", lambda: place(2))
        with pytest.raises(ResourceError, match="No space left"):
            kept.keep("trained", place(2))
    assert same(Checkpoints(tmp_path).position("training"), place(1))
    kept.save_now("training", lambda: place(3))
    assert same(kept.position("training"), place(3))


def test_a_disk_that_hangs_is_said_to(kept: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    monkeypatch.setattr(files, "write_bytes", lambda *_: free.wait(20))
    monkeypatch.setattr(checkpoint, "_PATIENCE_S", 0.05)
    with pytest.raises(ResourceError, match="takes longer"):
        kept.save_now("training", lambda: place(1))
    free.set()


def test_without_a_folder_nothing_is_kept_or_found() -> None:
    nowhere = Checkpoints(None)
    nowhere.offer("training", lambda: place(1), epoch_ended=True)
    nowhere.save_now("training", lambda: place(1))
    nowhere.keep("probe", place(1))
    assert nowhere.position("training") is None
    assert nowhere.outcome("probe") is None
    nowhere.clear()


def test_copies_are_plain_and_apart() -> None:
    image = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    copy = copied({"image": image})["image"]
    assert torch.equal(copy, image)
    assert copy.is_contiguous()
    image.zero_()
    assert copy.any()
