"""Every attack of benchmarks/artifact_attacks.py is refused in one sentence or changes nothing, in little time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artifact_attacks import ATTACKS, Case, Model, attacked, flipped_bytes, outcome, packed
from steadylens.deployment import artifact

SECONDS = 20.0  # for one case: a thousand times what each takes, since tests share a machine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return packed(tmp_path_factory.mktemp("attacked") / "model")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_is_refused_or_changes_nothing(
    attack: Callable[[Model, int], Iterator[Case]], model: Model, tmp_path: Path
) -> None:
    original, said = artifact.load(model.folder), []
    cases = list(attack(model, 331))
    for case in cases[:: 1 + len(cases) // 100]:
        attacked(model, case, tmp_path / "copy")
        begin = time.perf_counter()
        said.append(outcome(tmp_path / "copy", original))
        assert time.perf_counter() - begin < SECONDS
    assert set(said) <= {"refused", "the same"}
    assert said.count("refused") > len(said) // 2


def test_what_an_attack_would_do_would_be_seen(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = artifact.load(model.folder)
    assert outcome(attacked(model, lambda _: None, tmp_path / "copy"), original) == "the same"
    monkeypatch.setattr("steadylens.files.sha256", lambda _: "0" * 64)  # a loader that does not look
    monkeypatch.setattr("steadylens.deployment.artifact._read_checked", lambda path, _: path.read_bytes())
    monkeypatch.setattr("steadylens.deployment.artifact._digest", lambda _: original.document["digest"])
    said = {outcome(attacked(model, case, tmp_path / "copy"), original) for case in flipped_bytes(model, 97)}
    assert "loads otherwise" in said
