"""The networks trained from scratch: the Keras tutorial's CNN and a small family of one shape.

All take float images of shape (n, 3, image_size, image_size) and give logits of shape (n, classes). Their method
`features` gives what the last layer sees of the images instead, without dropout, of shape (n, features).
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from steadylens.models.heads import HEADS


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


class StagedCNN(nn.Module):
    """A strided stem for large images, then stages at half the resolution each, then the maximum over what is left."""

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
        # One stem step of stride 2 for each doubling of the side over 32 px: the stages always see about 32 px.
        halvings = max(0, math.ceil(math.log2(image_size / 48)))
        stem: list[nn.Module] = []
        inputs = 3
        for i in range(max(1, halvings)):
            stem += [
                nn.Conv2d(
                    inputs,
                    channels[0] // 2 if halvings else 24,
                    3,
                    padding=1,
                    stride=2 if i < halvings else 1,
                    bias=False,
                ),
                nn.BatchNorm2d(channels[0] // 2 if halvings else 24),
                nn.ReLU(),
            ]
            inputs = channels[0] // 2 if halvings else 24
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
