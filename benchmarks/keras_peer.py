#!/usr/bin/env python3
"""The peer: what a Keras tutorial on imbalanced image classification teaches, as a script of its own.

keras_peer.py DATA --test DIR [--epochs 60] [--patience 8] [--batch-size 64] [--no-class-weights] [--seed 0]
              [--image-size 32] [--seconds 138]

The tutorial's CNN, Adam, scikit-learn's balanced class weights, early stopping with the best weights restored; with
--seconds the training ends in time for the whole to take no longer. Runs in an environment with
`tensorflow-cpu keras scikit-learn pillow`, and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import keras  # type: ignore[import-not-found]
import numpy as np
from PIL import Image
from sklearn.model_selection import train_test_split
from sklearn.utils.class_weight import compute_class_weight

from side_by_side import figures_of

START_AND_TEST_S = 8.0  # set aside for starting Python and TensorFlow, and for the test images


class EndsInTime(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends the training at a moment of `time.perf_counter`."""

    def __init__(self, end: float) -> None:
        super().__init__()
        self.end = end

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:  # noqa: ARG002 - as Keras calls it
        """Look at the clock."""
        self.model.stop_training |= time.perf_counter() >= self.end


def read(folder: Path, names: list[str], side: int) -> tuple[np.ndarray, np.ndarray]:
    """All images of a folder of class folders, scaled to 0..1, and their labels."""
    found = [(path, label) for label, name in enumerate(names) for path in sorted((folder / name).iterdir())]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB").resize((side, side))) for path, _ in found])
    return pixels.astype("float32") / 255, np.array([label for _, label in found])


def tutorial_cnn(classes: int, side: int) -> keras.Model:
    """Three convolutions of 32, 64 and 64 channels with pooling between, a dense layer of 64, dropout, softmax."""
    model = keras.Sequential([keras.Input((side, side, 3))])
    for channels in (32, 64):
        model.add(keras.layers.Conv2D(channels, 3, activation="relu"))
        model.add(keras.layers.MaxPooling2D(2))
    model.add(keras.layers.Conv2D(64, 3, activation="relu"))
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(64, activation="relu"))
    model.add(keras.layers.Dropout(0.5))
    model.add(keras.layers.Dense(classes, activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--patience", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--no-class-weights", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=math.inf)
    a = parser.parse_args()
    begin = time.perf_counter()
    names = sorted(folder.name for folder in a.data.iterdir() if folder.is_dir())
    x, y = read(a.data, names, a.image_size)
    x, x_val, y, y_val = train_test_split(x, y, test_size=0.1, stratify=y, random_state=0)
    keras.utils.set_random_seed(a.seed)
    model = tutorial_cnn(len(names), a.image_size)
    weights = dict(enumerate(compute_class_weight("balanced", classes=np.unique(y), y=y)))
    stop = keras.callbacks.EarlyStopping(patience=a.patience, restore_best_weights=True)
    x_test, y_test = read(a.test, names, a.image_size)
    in_time = EndsInTime(begin + a.seconds - START_AND_TEST_S)
    fit_begin = time.perf_counter()
    history = model.fit(
        x, y, batch_size=a.batch_size, epochs=a.epochs, validation_data=(x_val, y_val), verbose=0,
        callbacks=[stop, in_time], class_weight=None if a.no_class_weights else weights,
    )  # fmt: skip
    seconds = time.perf_counter() - fit_begin
    if stop.best_weights is not None:
        model.set_weights(stop.best_weights)  # which Keras does only where patience, and not time, ran out
    probabilities = model.predict(x_test, verbose=0)
    epochs = len(history.history["loss"])
    print(
        json.dumps(
            {
                **figures_of(y_test, probabilities),
                "epochs": epochs,
                "fit_seconds": seconds,
                "images_per_second": epochs * len(y) / seconds,
                "seconds": time.perf_counter() - begin,
            }
        )
    )


if __name__ == "__main__":
    main()
