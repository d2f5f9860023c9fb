#!/usr/bin/env python3
"""The peers of pretrained.py, each a script as its users write it; prints one line of JSON.

pretrained_peer.py sklearn|timm|fastai DATA --weights FILE.safetensors --sidecar FILE.json --seconds 600 [--seed 0]

DATA holds train/ and test/ of class folders. None of the three is told of class imbalance but scikit-learn, by
class_weight="balanced"; all see the whole image squashed to the size that the weights want.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from side_by_side import figures_of

Split = tuple[torch.Tensor, torch.Tensor]
BATCH = 32


def read(folder: Path, names: list[str], said: dict[str, Any]) -> Split:
    """All images of a folder of class folders, normalised, and their labels."""
    found = [(path, label) for label, name in enumerate(names) for path in sorted((folder / name).iterdir())]
    size = (said["image_size"],) * 2
    pixels = [np.asarray(Image.open(p).convert("RGB").resize(size, Image.Resampling.BICUBIC)) for p, _ in found]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    return images, torch.tensor([label for _, label in found])


def normalised(images: torch.Tensor, said: dict[str, Any]) -> torch.Tensor:
    """uint8 images as the weights want them."""
    mean, std = (torch.tensor(said[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def network_of(a: argparse.Namespace, said: dict[str, Any], classes: int) -> torch.nn.Module:
    """The backbone with its weights, and a last layer for so many classes; 0 is none."""
    name = said["network"].removeprefix("timm:")
    network: Any = timm.create_model(name, num_classes=classes, **said["arguments"])
    head = network.pretrained_cfg["classifier"]
    weights = {k: t.float() for k, t in load_file(a.weights).items() if not k.startswith(f"{head}.")}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    if unexpected or any(not key.startswith(head) for key in missing):
        raise SystemExit(f"the weights do not fit: {missing}, {unexpected}")
    made: torch.nn.Module = network.to(memory_format=torch.channels_last)
    return made


def predict(network: torch.nn.Module, images: torch.Tensor, said: dict[str, Any]) -> np.ndarray:
    """The network's output for all images."""
    network.eval()
    with torch.inference_mode():
        return np.concatenate([network(normalised(part, said)).numpy() for part in torch.split(images, 8)])


def by_sklearn(a: argparse.Namespace, said: dict[str, Any], train: Split, test: Split, classes: int) -> np.ndarray:
    """Logistic regression with balanced class weights on the pooled features; probabilities of the test images."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - each peer imports its own

    network = network_of(a, said, 0)
    seen, unseen = (predict(network, images, said) for images, _ in (train, test))
    model = LogisticRegression(class_weight="balanced", max_iter=2000).fit(seen, train[1].numpy())
    assert len(model.classes_) == classes  # noqa: S101 - a class without images would shift the columns
    found: np.ndarray = model.predict_proba(unseen)
    return found


def by_timm(a: argparse.Namespace, said: dict[str, Any], train: Split, test: Split, classes: int) -> np.ndarray:
    """A plain fine-tune: AdamW with a cosine to zero over the time, random crops and flips, label smoothing."""
    begin = time.perf_counter()
    network = network_of(a, said, classes)
    optimizer = torch.optim.AdamW(network.parameters(), lr=a.rate, weight_decay=0.05)
    images, labels = train
    seconds = a.seconds - 6 - len(test[0]) / 80  # for starting, reading and the test images
    generator = torch.Generator().manual_seed(a.seed)
    network.train()
    while (progress := (time.perf_counter() - begin) / seconds) < 1:
        for rows in torch.split(torch.randperm(len(images), generator=generator), BATCH):
            progress = (time.perf_counter() - begin) / seconds
            if progress >= 1:
                break
            x = cropped(normalised(images[rows], said), generator)
            for group in optimizer.param_groups:
                group["lr"] = a.rate * min(1.0, progress / 0.05) * 0.5 * (1 + math.cos(math.pi * progress))
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(x)
            loss = F.cross_entropy(logits.float(), labels[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    logits_of_test = torch.from_numpy(predict(network, test[0], said))
    found: np.ndarray = logits_of_test.softmax(1).numpy()
    return found


def cropped(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One random crop of at least 60 % of the side for the batch, resized back, and each image mirrored or not."""
    side = images.shape[-1]
    size = int(side * (0.6 + 0.4 * float(torch.rand((), generator=generator))))
    top, left = (int(torch.randint(0, side - size + 1, (), generator=generator)) for _ in range(2))
    part = F.interpolate(images[:, :, top : top + size, left : left + size], side, mode="bilinear")
    mirrored = torch.rand(len(part), 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, part.flip(3), part).contiguous(memory_format=torch.channels_last)


def by_fastai(a: argparse.Namespace, said: dict[str, Any], _train: Split, test: Split, classes: int) -> np.ndarray:
    """`vision_learner` and `fine_tune` with their defaults, for as many epochs as fit into the time."""
    from fastai.vision.all import (  # type: ignore[import-not-found]  # noqa: PLC0415 - in an environment of its own
        ImageDataLoaders,
        Normalize,
        Resize,
        ResizeMethod,
        aug_transforms,
        set_seed,
        vision_learner,
    )  # fmt: skip

    begin = time.perf_counter()
    set_seed(a.seed, reproducible=True)
    loaders = ImageDataLoaders.from_folder(
        a.data / "train", valid_pct=0.1, seed=a.seed, bs=64,
        item_tfms=Resize(said["image_size"], method=ResizeMethod.Squish),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(said["mean"], said["std"], cuda=False)],
    )  # fmt: skip
    name = said["network"].removeprefix("timm:")
    learner = vision_learner(loaders, name, pretrained=False, normalize=False, n_out=classes, **said["arguments"])
    account: Any = timm.create_model(name).pretrained_cfg
    head = account["classifier"]
    weights = {k: t.float() for k, t in load_file(a.weights).items() if not k.startswith(f"{head}.")}
    learner.model[0].model.load_state_dict(weights)
    learner.freeze()
    once = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1, slice(2e-3), pct_start=0.99)  # fine_tune's frozen epoch, timed
        frozen_s = time.perf_counter() - once
        left = a.seconds - (time.perf_counter() - begin) - 10 - len(test[0]) / 20
        epochs = max(1, int(left / (2.2 * frozen_s)))  # an epoch with everything unfrozen takes about twice as long
        learner.unfreeze()
        learner.fit_one_cycle(epochs, slice(1e-3 / 100, 1e-3), pct_start=0.3, div=5.0)
    shown = [str(p) for c in loaders.vocab for p in sorted((a.data / "test" / c).iterdir())]
    with learner.no_bar(), learner.no_logging():
        probabilities, _ = learner.get_preds(dl=loaders.test_dl(shown))
    found: np.ndarray = probabilities.numpy()
    return found


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = {"sklearn": by_sklearn, "timm": by_timm, "fastai": by_fastai}
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--sidecar", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of timm's fine-tune")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    said = json.loads(a.sidecar.read_text())
    names = sorted(folder.name for folder in (a.data / "train").iterdir() if folder.is_dir())
    train, test = (read(a.data / part, names, said) for part in ("train", "test"))
    probabilities = kinds[a.kind](a, said, train, test, len(names))
    print(json.dumps(figures_of(test[1].numpy(), probabilities)))


if __name__ == "__main__":
    main()
