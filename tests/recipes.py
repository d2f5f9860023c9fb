"""The recipe of the tests that train a small network on drawn images: nothing but the network and two epochs."""

from __future__ import annotations

from steadylens.config import Recipe

PLAIN = Recipe(
    classes=("bright", "dark"),
    network="cnn-s",
    depth=1,
    width=0.25,
    image_size=10,
    imbalance="none",
    minority_augment=0.0,
    augment="off",
    flip=False,
    l1=0.0,
    l2=0.0,
    dropout=0.0,
    label_smoothing=0.0,
    mixup=0.0,
    early_stopping=0,
    epochs=2,
    budget=None,
    batch_size=16,
    learning_rate=5e-3,
    averaging=0.0,
    precision="fp32",
    seed=0,
    device="cpu",
)
