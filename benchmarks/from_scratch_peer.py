#!/usr/bin/env python3
"""The peers of from_scratch.py but Keras, each as its users write it; prints one line of JSON.

from_scratch_peer.py fastai|timm|ultralytics DATA --seconds 138 [--image-size 64] [--seed 0]

DATA holds train/, test/ and perhaps validation/, of class folders; without the last, a tenth of the training images
takes its place. None of the three is told of class imbalance. Runs in an environment with what it is named after.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from side_by_side import figures_of

BEGIN = time.perf_counter()
START_S = 6.0  # of Python and the libraries, which BEGIN comes after
Files = list[tuple[Path, int]]


def files_of(folder: Path, names: list[str]) -> Files:
    """All images of a folder of class folders, and their labels."""
    return [(path, label) for label, name in enumerate(names) for path in sorted((folder / name).iterdir())]


def held_out(files: Files, seed: int) -> tuple[Files, Files]:
    """Nine tenths of the files, and one tenth of each class, at least one file."""
    rng, rest, held = np.random.default_rng(seed), [], []
    for label in sorted({label for _, label in files}):
        own = [file for file in files if file[1] == label]
        first = {int(i) for i in rng.permutation(len(own))[: max(1, len(own) // 10)]}
        held += [own[i] for i in sorted(first)]
        rest += [file for i, file in enumerate(own) if i not in first]
    return rest, held


def by_timm(a: argparse.Namespace, names: list[str], test: Files) -> np.ndarray:
    """ResNet-18 by the defaults of timm's training script, but that the cosine goes by the clock.

    They are SGD with Nesterov momentum at 0.1 for 256 images, here 128 a batch, weight decay 2e-5, 5 % of warm-up,
    random resized crops, flips, colour jitter of 0.4, label smoothing of 0.1. Images are read once, to twice the size.
    """
    import timm  # noqa: PLC0415 - each peer imports its own
    from timm.data.transforms_factory import create_transform  # noqa: PLC0415
    from timm.optim._optim_factory import create_optimizer_v2  # noqa: PLC0415

    twice = (2 * a.image_size,) * 2
    train = [(Image.open(p).convert("RGB").resize(twice), label) for p, label in files_of(a.data / "train", names)]
    seen: Any = create_transform(a.image_size, is_training=True, color_jitter=0.4)
    unseen: Any = create_transform(a.image_size, crop_pct=1.0, crop_mode="squash")
    network = timm.create_model("resnet18", num_classes=len(names)).to(memory_format=torch.channels_last)
    peak, batch = 0.1 * 128 / 256, 128
    optimizer = create_optimizer_v2(network, opt="sgd", lr=peak, weight_decay=2e-5, momentum=0.9)
    begin = time.perf_counter()
    seconds = a.seconds - START_S - (begin - BEGIN) - a.test_s
    loader = torch.utils.data.DataLoader(
        Transformed(train, seen), batch, shuffle=True, num_workers=2, drop_last=len(train) > batch,
        persistent_workers=True,
    )  # fmt: skip
    progress = 0.0
    while progress < 1:
        for images, labels in loader:
            progress = (time.perf_counter() - begin) / seconds
            if progress >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = peak * min(1.0, progress / 0.05) * 0.5 * (1 + math.cos(math.pi * progress))
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(images.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    network.eval()
    shown = torch.utils.data.DataLoader(
        Transformed([(Image.open(p).convert("RGB"), label) for p, label in test], unseen), 128
    )
    with torch.inference_mode():
        found: np.ndarray = torch.cat([network(images).softmax(1) for images, _ in shown]).numpy()
    return found


class Transformed(torch.utils.data.Dataset[Any]):
    """Images and labels, each image transformed when it is asked for."""

    def __init__(self, pairs: list[tuple[Image.Image, int]], transform: Any) -> None:  # noqa: ANN401 - untyped in timm
        self.pairs, self.transform = pairs, transform

    def __len__(self) -> int:
        """How many there are."""
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        """One of them, transformed."""
        image, label = self.pairs[i]
        return self.transform(image), label


def by_fastai(a: argparse.Namespace, _names: list[str], test: Files) -> np.ndarray:
    """`vision_learner` with ResNet-18 and `fit_one_cycle` with their defaults, for as many epochs as there is time."""
    from fastai.vision.all import (  # type: ignore[import-not-found]  # noqa: PLC0415 - in an environment of its own
        ImageDataLoaders,
        Resize,
        ResizeMethod,
        aug_transforms,
        resnet18,
        set_seed,
        vision_learner,
    )  # fmt: skip

    set_seed(a.seed, reproducible=True)
    own = (a.data / "validation").is_dir()
    split = {"train": "train", "valid": "validation"} if own else {"valid_pct": 0.1, "seed": a.seed}
    loaders = ImageDataLoaders.from_folder(
        a.data if own else a.data / "train", bs=64, num_workers=2, batch_tfms=aug_transforms(),
        item_tfms=Resize(a.image_size, method=ResizeMethod.Squish), **split,
    )  # fmt: skip
    learner = vision_learner(loaders, resnet18, pretrained=False)
    with learner.no_bar(), learner.no_logging():
        began, few = time.perf_counter(), max(2, len(loaders.train) // 10)
        first = began
        for index, (images, labels) in zip(range(few), loaders.train, strict=False):
            learner.loss_func(learner.model(images), labels).backward()
            if index == 0:  # takes the start of the loader's workers with it, as in every epoch
                first = time.perf_counter()
        learner.model.zero_grad()
        a_batch = (time.perf_counter() - first) / (few - 1)
        epoch_s = (first - began) + 1.1 * a_batch * len(loaders.train)  # and its validation
        left = a.seconds - START_S - (time.perf_counter() - BEGIN) - a.test_s
        learner.fit_one_cycle(max(1, int(left / epoch_s)), 1e-3)
        probabilities, _ = learner.get_preds(dl=loaders.test_dl([path for path, _ in test]))
    found: np.ndarray = probabilities.numpy()
    return found


def by_ultralytics(a: argparse.Namespace, names: list[str], test: Files) -> np.ndarray:
    """YOLO11n-cls from its description, trained with its defaults and its own limit of time, its images in memory."""
    from ultralytics import YOLO  # type: ignore[import-not-found]  # noqa: PLC0415 - in an environment of its own

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        train, held = files_of(a.data / "train", names), []
        if (a.data / "validation").is_dir():
            held = files_of(a.data / "validation", names)
        else:
            train, held = held_out(train, a.seed)
        for split, files in (("train", train), ("val", held)):
            for path, label in files:
                (root / "data" / split / names[label]).mkdir(parents=True, exist_ok=True)
                (root / "data" / split / names[label] / path.name).symlink_to(path.resolve())
        left = a.seconds - START_S - (time.perf_counter() - BEGIN) - a.test_s
        model = YOLO("yolo11n-cls.yaml")
        model.train(
            data=str(root / "data"), time=left / 3600, imgsz=a.image_size, pretrained=False, cache="ram", device="cpu",
            workers=2, plots=False, verbose=False, seed=a.seed, project=str(root), name="run",
        )  # fmt: skip
        model = YOLO(root / "run" / "weights" / "best.pt")
        shown = [str(path) for path, _ in test]
        answers = model.predict(shown, imgsz=a.image_size, verbose=False, stream=True, device="cpu", batch=64)
        rows = [answer.probs.data.numpy() for answer in answers]
        order = [names.index(model.names[column]) for column in range(len(names))]
    found = np.empty((len(rows), len(names)))
    found[:, order] = np.stack(rows)
    return found


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = {"fastai": by_fastai, "timm": by_timm, "ultralytics": by_ultralytics}
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    np.random.seed(a.seed)  # noqa: NPY002 - what the peers draw from
    names = sorted(folder.name for folder in (a.data / "train").iterdir() if folder.is_dir())
    test = files_of(a.data / "test", names)
    a.test_s = 2.0 + sum(path.stat().st_size for path, _ in test) / 10e6 + len(test) / 1000  # decoding, and the network
    probabilities = kinds[a.kind](a, names, test)
    print(json.dumps(figures_of(np.array([label for _, label in test]), probabilities)))


if __name__ == "__main__":
    main()
