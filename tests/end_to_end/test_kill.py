"""A run that is killed at random moments, again and again, is never lost and ends with the same bits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steadylens
from faults import assert_valid
from kills import begun, ended
from steadylens.report import run_folder, runs
from steadylens.training.checkpoint import Checkpoints

MakeWeights = Callable[..., Path]
KILLS = 10  # for each kind of run
SMALL: dict[str, Any] = {"epochs": 4, "precision": "fp32", "device": "cpu"}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")


def best_figure(run: Path) -> float:
    """The figure of the best weights that the run's checkpoints hold."""
    damage: list[str] = []
    kept = Checkpoints(run / run_folder.CHECKPOINTS, say=damage.append)
    if kept.outcome("trained") is not None:
        return -float("inf")  # nothing better is looked for any more
    place = kept.position("training") or kept.position("fine-tuning")
    assert not damage
    figure = None if place is None else place.state["best"]["figure"]  # None before the first measurement
    return float("inf") if figure is None else float(figure)


@pytest.mark.parametrize("kind", ["from scratch", "fine-tuned", "refitted"])
def test_killed_at_random_moments_it_ends_with_the_same_bits(
    images_folder: Path, tmp_path: Path, make_weights: MakeWeights, kind: str
) -> None:
    options = {**SMALL, "network": "cnn-s", "width": 0.2}
    if kind == "fine-tuned":
        options = {**SMALL, "weights": make_weights(), "image_size": 24}
    if kind == "refitted":
        options |= {"refit": True, "early_stopping": "off"}  # so that the second training is as long as the first
    begin = time.monotonic()
    whole = steadylens.train(images_folder, out=tmp_path / "whole", quiet=True, **options)
    lasted = time.monotonic() - begin
    rng, kills, number = np.random.default_rng(0), 0, 0
    while kills < KILLS:
        run, best, number = tmp_path / f"run-{number}", float("inf"), number + 1
        for longest in np.linspace(0.3, 1.5, KILLS):  # so that each comes to its end some time
            process = begun(images_folder, run, options)
            code = ended(process, timeout_s=float(rng.uniform(0.0, longest * lasted)))
            if code is None:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                kills += 1
                if run.exists():
                    assert_valid(run)
                    if runs.is_finished(run):
                        break  # killed while it tidied up
                    if runs.is_unfinished(run):
                        assert best_figure(run) <= best or best == float("inf")
                        best = min(best, best_figure(run))
            else:
                assert code == 0
                break
        if not runs.is_finished(run):
            assert ended(begun(images_folder, run, options), timeout_s=60.0) == 0
        assert_valid(run)
        model = "model/model.safetensors"
        assert (run / model).read_bytes() == (whole.folder / model).read_bytes()
