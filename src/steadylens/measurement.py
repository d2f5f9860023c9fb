"""The figures of a finished model on other labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from steadylens.console import Console
from steadylens.data.sources import read_index_to_measure
from steadylens.deployment import predictor
from steadylens.errors import DataError
from steadylens.evaluation.evaluate import evaluate
from steadylens.models.inference import logits_of
from steadylens.preparation import Stopwatch, decoded, indexed


def evaluate_on(model: Path, data: Path, console: Console) -> dict[str, Any]:
    """The figures of a finished model on other labelled images, as a test block of report.json with `refusals`.

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
    return {
        **scores,
        "refusals": [{"path": r.path, "class": r.class_name, "reason": r.reason} for r in store.index.refusals],
    }
