"""The networks trained from scratch: the Keras tutorial's CNN and a small family of one shape.

All take float images of shape (n, 3, image_size, image_size) and give logits of shape (n, classes). Their method
`features` gives what the last layer sees of the images instead, without dropout, of shape (n, features).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from steadylens.models.heads import HEADS

LEAST_VARIANCE = 5e-4  # added to each before dividing by it: what hardly varies would become mere noise (Jordan 2024)


def keras_blog(classes: int, image_size: int, depth: int, width: float, dropout: float, head: str) -> nn.Module:
    """The CNN that Keras tutorials teach: 32-64-64 unpadded convolutions with pooling between, dense 64, dropout.

    `depth` convolutions are made (3 in the tutorial); where the map has become too small for an unpadded
    convolution or a pooling, the convolution is padded and the pooling left out. Initialised as Keras does:
    Glorot-uniform weights, zero biases (Glorot & Bengio 2010). `head` is one of `heads.HEADS`.
    """
    layers: list[nn.Module] = []
    channels, side = 3, image_size
    for i in range(depth):
        out = max(1, round((32 if i == 0 else 64) * width))
        unpadded = side >= 5
        layers += [nn.Conv2d(channels, out, 3, padding=0 if unpadded else 1), nn.ReLU()]
        channels, side = out, side - 2 * unpadded
        if i < depth - 1 and side >= 4:
            layers.append(nn.MaxPool2d(2))
            side //= 2
    dense = max(1, round(64 * width))
    layers += [nn.Flatten(), nn.Linear(channels * side * side, dense), nn.ReLU()]
    network = PlainCNN(*layers, nn.Dropout(dropout), HEADS[head](dense, classes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return network


class PlainCNN(nn.Sequential):
    """Layers one after another; the last two are dropout and the layer that gives the logits."""

    def features(self, images: Tensor) -> Tensor:
        """(n, 3, image_size, image_size) to what the last layer sees, (n, features)."""
        for layer in list(self)[:-2]:
            images = layer(images)
        return images


class Stage(nn.Module):
    """Halve the map, widen it, and refine it by `depth` residual convolutions."""

    def __init__(self, channels: int, out: int, depth: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.refine = nn.ModuleList(nn.Conv2d(out, out, 3, padding=1, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm2d(out) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, out, h // 2, w // 2)."""
        x = F.relu(self.norm(F.max_pool2d(self.widen(x), 2)))
        for conv, norm in zip(self.refine, self.norms, strict=True):
            x = x + F.relu(norm(conv(x)))
        return x


class WhiteningStem(nn.Module):
    """Patches of 2 by 2 pixels in coordinates in which they are uncorrelated and of one variance, each with both signs.

    The filters are a function of the training images and are not trained (the whitening layer of Page 2018 and
    Jordan 2024): 12 for the 12 colour values of a patch, and their negatives, since a ReLU follows. Until `whiten` has
    seen images, they are random. `stride` is 1, where the map keeps its size, or 2, where patches do not overlap.
    """

    channels = 24

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, self.channels, 2, stride=stride)
        self.conv.weight.requires_grad_(False)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def whiten(self, images: Tensor, prepare: Callable[[Tensor], Tensor] = lambda images: images) -> None:
        """Take the filters from images; `prepare` makes of a few of them what the network sees, (n, 3, h, w)."""
        moments = torch.zeros(12, 12, dtype=torch.float64, device=images.device)
        for start in range(0, len(images), 32):  # all patches of many large images would not fit into memory
            some = prepare(images[start : start + 32])
            patches = some.double().unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
            moments += patches.T @ patches / len(patches) * len(some) / len(images)
        if not moments.isfinite().all():
            return  # what is no number in the images, the first loss will tell
        values, vectors = torch.linalg.eigh(moments)
        filters = (vectors / (values.clamp_min(0.0) + LEAST_VARIANCE).sqrt()).T.flip(0).view(12, 3, 2, 2)
        self.conv.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, 24, h // stride, w // stride)."""
        if self.conv.stride == (1, 1):
            images = F.pad(images, (0, 1, 0, 1), mode="replicate")
        return F.relu(self.conv(images))


class StagedCNN(nn.Module):
    """A whitening stem, strided for large images, then stages at half the resolution each, then the maximum."""

    def __init__(
        self,
        widths: tuple[int, ...],
        classes: int,
        image_size: int,
        depth: int,
        width: float,
        dropout: float,
        head: str,
    ) -> None:
        super().__init__()
        channels = [max(8, round(w * width / 8) * 8) for w in widths]
        # One halving for each doubling of the side over 32 px: the stages always see about 32 px.
        halvings = max(0, math.ceil(math.log2(image_size / 48)))
        inputs = WhiteningStem.channels
        stem: list[nn.Module] = [WhiteningStem(2 if halvings else 1)]
        for _ in range(halvings - 1):
            stem += [nn.Conv2d(inputs, inputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(inputs), nn.ReLU()]
        self.stem = nn.Sequential(*stem)
        self.stages = nn.ModuleList()
        side = image_size >> halvings
        for out in channels:
            if side < 2:
                break
            self.stages.append(Stage(inputs, out, depth))
            inputs, side = out, side // 2
        self.dropout = nn.Dropout(dropout)
        self.head = HEADS[head](inputs, classes)

    def whiten(self, images: Tensor, prepare: Callable[[Tensor], Tensor] = lambda images: images) -> None:
        """Prepare the stem for images like these; what is trained stays as it is.

        Args:
            images: (n, ...), all in memory.
            prepare: makes of a few of them what the network sees, (n, 3, image_size, image_size).
        """
        stem = self.stem[0]
        assert isinstance(stem, WhiteningStem)  # noqa: S101 - for the type checker: it was made above
        stem.whiten(images, prepare)

    def features(self, images: Tensor) -> Tensor:
        """(n, 3, image_size, image_size) to what the last layer sees, (n, features)."""
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        features: Tensor = x.amax(dim=(2, 3))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, image_size, image_size) to logits (n, classes)."""
        logits: Tensor = self.head(self.dropout(self.features(images)))
        return logits


def stages(
    widths: tuple[int, ...], classes: int, image_size: int, depth: int, width: float, dropout: float, head: str
) -> nn.Module:
    """One member of the family: `widths` channels in its stages, times `width`; `head` is one of `heads.HEADS`."""
    return StagedCNN(widths, classes, image_size, depth, width, dropout, head)
