"""The figures of a finished model on other labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from steadylens.console import Console
from steadylens.data.sources import ImageIndex, read_index_to_measure
from steadylens.data.split import read_splits
from steadylens.deployment import predictor
from steadylens.errors import DataError
from steadylens.evaluation.evaluate import evaluate
from steadylens.models.inference import logits_of
from steadylens.preparation import Stopwatch, decoded, indexed
from steadylens.report.run_folder import INDEX


def evaluate_on(model: Path, data: Path, console: Console) -> dict[str, Any]:
    """The figures of a finished model on other labelled images, as a test block of report.json with `refusals`.

    `seen` counts the images, by content, that the run learned from or validated on, whose figures come out too good;
    None where the model lies apart from its run and so does not tell.

    Raises:
        ArtifactError: the model cannot be used.
        DataError: the images cannot be used, or are of classes that the model does not know.
    """
    loaded = predictor.load(model).artifact
    watch = Stopwatch()
    index = indexed(lambda tally: read_index_to_measure(data, advance=tally), console, watch)
    unknown = [name for name in index.classes if name not in loaded.classes]
    if unknown:
        raise DataError(
            f"{data} has classes that the model does not know: {', '.join(unknown)}. "
            f"It knows {', '.join(loaded.classes)}."
        )
    store = decoded(index, loaded.preprocessing, console, watch)
    with console.stage("Evaluating"):
        logits = logits_of(loaded.network, store.pixels, loaded.preprocessing)
        labels = np.array([loaded.classes.index(name) for name in store.index.classes])[store.index.labels]
        scores = evaluate(logits, labels, loaded.classes, loaded.temperature, seed=0)
    for note in store.index.notes:
        console.say(f"  {note}")
    for refusal in store.index.refusals:
        console.say(f"  {refusal.path} was left out: {refusal.reason}")
    seen = _seen_in_training(model, store.index)
    if seen:
        what = f"{seen} of {len(store.index)} images were learned from or validated on by this very run"
        console.say(f"  {what}: the figures come out too good.")
    return {
        **scores,
        "seen": seen,
        "refusals": [{"path": r.path, "class": r.class_name, "reason": r.reason} for r in store.index.refusals],
    }


def _seen_in_training(model: Path, index: ImageIndex) -> int | None:
    """How many images the run of a model, given by its own folder or by RUN/model, learned from or validated on."""
    run = model.resolve().parent if model.resolve().name == "model" else model
    if not (run / INDEX).is_file():
        return None
    splits = read_splits(run)
    return sum(splits.get(content) in ("train", "validation") for content in index.sha256)
