#!/usr/bin/env python3
"""How many planted wrong labels are found, and how many of those that are flagged are wrong: ours beside the peers.

label_issues.py DATA TRUTH [--budget 5m | --epochs 24] [--seed 0]

DATA is a folder of labelled images; TRUTH is a JSON file whose "flipped" lists the images with a wrong label, each with
its "path" relative to DATA, as `planted.py` writes it. The truth only scores: every method chooses by itself how many
labels it flags. The average precision is of the whole ranking. What is measured:

- steadylens: networks cross-fitted within the budget, and `evaluation.labels.doubt`;
- cleanlab's `find_label_issues`, as it is, on the same probabilities;
- cleanlab's `find_label_issues`, as its tutorials use it, on five-fold probabilities of scikit-learn's logistic
  regression, here on standardised pixels;
- CleanVision looks at images alone and says nothing of labels.

cleanlab is not among the dependencies: `pip install cleanlab`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from steadylens.config import Config, parse
from steadylens.data.batches import LabelledPixels, preprocessing_of
from steadylens.data.sources import read_index
from steadylens.data.store import Store, cache_folder, decode
from steadylens.evaluation.calibration import apply_temperature, fit_temperature
from steadylens.evaluation.labels import doubt
from steadylens.training.crossfit import CrossFit, choose_recipe, cross_fit


def main() -> None:
    """Print the table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("data", type=Path)
    words.add_argument("truth", type=Path)
    words.add_argument("--budget", default="5m")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--epochs", type=int, help="So many for each network, instead of a budget.")
    given = words.parse_args()
    time_or_epochs = {"epochs": given.epochs} if given.epochs else {"budget": given.budget}
    options = parse({"seed": given.seed, **time_or_epochs})

    index = read_index(given.data)
    store = decode(index, int(np.median(index.widths)), cache=cache_folder())
    planted = {str(given.data.resolve() / row["path"]) for row in json.loads(given.truth.read_text("utf-8"))["flipped"]}
    truth = np.array([str(Path(path).resolve()) in planted for path in store.index.paths])
    labels = store.index.labels
    print(f"{len(labels):,} images of {len(store.index.classes)} classes, {truth.sum()} with a planted wrong label")

    begin = time.perf_counter()
    said = ours(store, options)
    doubts = doubt(said.logits, labels, said.seen)
    rows = [row("steadylens", doubts.suspicious, doubts.scores, truth, time.perf_counter() - begin)]
    alone = doubt(said.logits, labels)
    rows.append(row("steadylens, held-out networks alone", alone.suspicious, alone.scores, truth, None))
    probabilities = apply_temperature(said.logits, fit_temperature(said.logits, labels))
    rows.append(cleanlab("cleanlab on their probabilities", probabilities, labels, truth, None))

    begin = time.perf_counter()
    rows.append(cleanlab("cleanlab on logistic regression of pixels", pixels(store), labels, truth, begin))
    rows.append(["CleanVision", "does not look at labels", "", "", "", ""])
    print("| | flagged | precision | recall | average precision | seconds |\n|---|---|---|---|---|---|")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")
    right = (said.logits.argmax(1) == labels)[~truth].mean()
    print(f"Held-out accuracy on the labels that were not flipped: {right:.1%}; estimated noise {doubts.noise:.1%}.")


def ours(store: Store, config: Config) -> CrossFit:
    """What cross-fitted networks say of every image."""
    labels, seconds = store.index.labels, config.budget
    images = LabelledPixels(store.pixels, np.arange(len(labels)), labels)
    units = np.unique(store.index.sha256, return_inverse=True)[1]
    begin, preprocessing = time.perf_counter(), preprocessing_of(images)
    recipe = choose_recipe(images, units, store.index.classes, preprocessing, config, seconds=seconds)
    left = None if seconds is None else seconds - (time.perf_counter() - begin)
    said = cross_fit(images, units, recipe, preprocessing, seconds=left)
    if len(said.judged) < len(labels):
        raise SystemExit("Some images are the only ones of their class. Give several of each class.")
    return said


def pixels(store: Store) -> NDArray[np.float64]:
    """Five-fold probabilities of logistic regression."""
    flat = store.pixels.reshape(len(store.pixels), -1).astype(np.float32)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-4, max_iter=200))
    probabilities: NDArray[np.float64] = cross_val_predict(model, flat, store.index.labels, method="predict_proba")
    return probabilities


def cleanlab(
    name: str,
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    truth: NDArray[np.bool_],
    begin: float | None,
) -> list[str]:
    """What cleanlab flags by its default, and its default ranking."""
    flagged = find_label_issues(labels, probabilities, n_jobs=1)
    doubt_of = 1 - get_label_quality_scores(labels, probabilities)
    return row(name, flagged, doubt_of, truth, None if begin is None else time.perf_counter() - begin)


def row(
    name: str, flagged: NDArray[np.bool_], score: NDArray[np.float64], truth: NDArray[np.bool_], seconds: float | None
) -> list[str]:
    """One line of the table; seconds are None where the work is that of a line above."""
    took = "" if seconds is None else f"{seconds:.0f}"
    hits = int((flagged & truth).sum())
    precision = f"{hits / flagged.sum():.1%}" if flagged.any() else "-"
    average = average_precision_score(truth, score)
    return [name, str(int(flagged.sum())), precision, f"{hits / truth.sum():.1%}", f"{average:.3f}", took]


if __name__ == "__main__":
    main()
