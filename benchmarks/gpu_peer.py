"""The recipe of airbench94 with Muon (Jordan 2024), as its paper tells it, beside which gpu.py measures ours.

Three blocks of convolution, pooling, norm, GELU, convolution, norm, GELU; whitened patches first; identity where a
convolution can be one; Muon at 0.24 with weights of fixed norm, SGD for the rest; everything falls to zero in a line.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from steadylens.data.augment import augment, policy_of
from steadylens.data.batches import LabelledPixels, to_input
from steadylens.data.images import Preprocessing
from steadylens.models.cnn import WhiteningStem
from steadylens.training.optimizers import orthogonal

BATCH, SMOOTHING, MUON, MOMENTUM = 2000, 0.2, 0.24, 0.6
BIASES, HEAD = 0.053 / 1024, 0.67 / 1024  # rates of SGD, for losses that are summed over the batch


class Block(nn.Module):
    """Two convolutions, the first of which halves the map."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(n, out, 3, padding=1, bias=False) for n in (channels, out))
        self.norm, self.last_norm = (nn.BatchNorm2d(out, momentum=0.4, eps=1e-12) for _ in range(2))
        for conv, norm in ((self.first, self.norm), (self.second, self.last_norm)):
            nn.init.dirac_(conv.weight.data[: conv.weight.shape[1]])
            norm.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, out, h // 2, w // 2)."""
        x = F.gelu(self.norm(F.max_pool2d(self.first(x), 2)))
        return F.gelu(self.last_norm(self.second(x)))


class Network(nn.Module):
    """The network of airbench94."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = WhiteningStem(1)
        self.blocks = nn.Sequential(Block(24, 64), Block(64, 256), Block(256, 256))
        self.head = nn.Linear(256, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 32, 32) to logits (n, classes)."""
        logits: Tensor = self.head(self.blocks(F.gelu(self.stem.conv(x))).amax((2, 3))) / 9
        return logits


@torch.no_grad()
def muon_step(weights: list[nn.Parameter], momenta: list[Tensor], rate: float) -> None:
    """One step of Muon, on weights that are first brought back to their norm."""
    for weight, momentum in zip(weights, momenta, strict=True):
        gradient = weight.grad
        assert gradient is not None  # noqa: S101 - for the type checker: backward was just called
        momentum.mul_(MOMENTUM).add_(gradient)
        ahead = gradient.add(momentum, alpha=MOMENTUM).reshape(len(weight), -1)
        weight.mul_(len(weight) ** 0.5 / weight.norm())
        weight.sub_(orthogonal(ahead.bfloat16()).float().view(weight.shape), alpha=rate)


def airbench(
    train: LabelledPixels, test: LabelledPixels, frame: Preprocessing, epochs: int, seed: int
) -> tuple[NDArray[np.int64], float]:
    """Train and classify the test images: their labels, and the seconds of it, images on the GPU beforehand."""
    torch.manual_seed(seed)
    pixels, labels, unseen = (torch.from_numpy(part).cuda() for part in (train[:], train.labels, test[:]))
    torch.cuda.synchronize()
    start = time.perf_counter()
    network = Network(int(train.labels.max()) + 1).cuda().to(memory_format=torch.channels_last)
    network.stem.whiten(to_input(pixels[:5000], frame.mean, frame.std))
    weights = [p for p in network.parameters() if p.ndim == 4 and p.requires_grad]
    biases = [p for p in network.parameters() if p.ndim == 1 and p.requires_grad]
    groups = [{"params": biases, "base": BIASES}, {"params": [network.head.weight], "base": HEAD}]
    rest = torch.optim.SGD(groups, lr=0.0, momentum=0.85, nesterov=True, weight_decay=2e-6 * BATCH)
    momenta, steps = [torch.zeros_like(p) for p in weights], len(labels) // BATCH
    policy, ones = policy_of("light", flip=True, minority_only=False), torch.ones(BATCH, device="cuda")
    for epoch in range(epochs):
        for number, some in enumerate(torch.randperm(len(labels), device="cuda")[: steps * BATCH].view(steps, BATCH)):
            left = 1 - (epoch * steps + number) / (epochs * steps)
            images = augment(to_input(pixels[some], frame.mean, frame.std), policy, ones, None)
            with torch.autocast("cuda", torch.bfloat16):
                logits = network(images)
            loss = F.cross_entropy(logits.float(), labels[some], label_smoothing=SMOOTHING, reduction="sum")
            network.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for group in rest.param_groups:
                group["lr"] = group["base"] * left
            rest.step()
            muon_step(weights, momenta, MUON * left)
    network.eval()
    found = []
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        for piece in torch.tensor_split(unseen, -(-len(unseen) // BATCH)):
            images = to_input(piece, frame.mean, frame.std)
            found.append((network(images) + network(images.flip(3))).argmax(1))
    answer = torch.cat(found).cpu().numpy()
    return answer, time.perf_counter() - start
