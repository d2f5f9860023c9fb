"""Tensors to logits: the networks and the one way to run them for prediction."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from steadylens.config import TIMM, Recipe
from steadylens.errors import ConfigError
from steadylens.models import cnn, pretrained
from steadylens.models.ensemble import Ensemble
from steadylens.models.heads import HEADS
from steadylens.models.mirrored import Mirrored


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """All that is needed to build a network again, its weights apart.

    Attributes:
        name: one of `NETWORKS`, or "timm:NAME".
        classes: the number of logits.
        image_size: height and width of the input, in pixels.
        depth: convolutions in `keras-blog`; convolutions after the first in each stage of the cnn family.
        width: multiplies the number of neurons of every hidden layer; 1.0 is the network as published.
        dropout: probability with which a feature before the last layer is dropped in training.
        arguments: with which timm builds the backbone; empty for `NETWORKS`.
        head: the last layer, one of `heads.HEADS`; "linear" for backbones.
        members: how many networks answer together, see `ensemble.Ensemble`.
        mirrored: whether it answers with the mean over an image and its mirror image, see `mirrored.Mirrored`.
    """

    name: str
    classes: int
    image_size: int
    depth: int
    width: float
    dropout: float
    arguments: dict[str, pretrained.Argument] = field(default_factory=dict)
    head: str = "linear"
    members: int = 1
    mirrored: bool = False


NETWORKS: dict[str, Callable[[NetworkSpec], nn.Module]] = {
    "keras-blog": lambda s: cnn.keras_blog(s.classes, s.image_size, s.depth, s.width, s.dropout, s.head),
    "cnn-s": lambda s: cnn.stages((32, 96, 128), s.classes, s.image_size, s.depth, s.width, s.dropout, s.head),
    "cnn-m": lambda s: cnn.stages((64, 160, 256), s.classes, s.image_size, s.depth, s.width, s.dropout, s.head),
    "cnn-l": lambda s: cnn.stages((128, 320, 512), s.classes, s.image_size, s.depth, s.width, s.dropout, s.head),
    "cnn-xl": lambda s: cnn.stages((256, 640, 1024), s.classes, s.image_size, s.depth, s.width, s.dropout, s.head),
}
FAMILY = ("cnn-s", "cnn-m", "cnn-l", "cnn-xl")  # from small to large
DEFAULT_DEPTH = {"keras-blog": 3, "cnn-s": 1, "cnn-m": 1, "cnn-l": 1, "cnn-xl": 1}


def spec_of(recipe: Recipe) -> NetworkSpec:
    """The network that a recipe asks for."""
    return NetworkSpec(
        recipe.network,
        len(recipe.classes),
        recipe.image_size,
        recipe.depth,
        recipe.width,
        recipe.dropout,
        json.loads(recipe.arguments),
        "cosine" if recipe.imbalance == "ldam-drw" else "linear",
    )


def fresh(recipe: Recipe) -> nn.Module:
    """The recipe's network before its first step, drawn with the recipe's seed, on its device."""
    return answering(recipe, 1, mirrored=False)


def answering(recipe: Recipe, members: int, *, mirrored: bool) -> nn.Module:
    """A network of so many members, for weights that were trained by the recipe, on its device."""
    torch.manual_seed(recipe.seed)
    network = build(replace(spec_of(recipe), members=members, mirrored=mirrored))
    network.to(torch.device(recipe.device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def spec_answering(recipe: Recipe, network: nn.Module) -> NetworkSpec:
    """What a network that was trained by the recipe is built from, as it answers now."""
    alone = network.network if isinstance(network, Mirrored) else network
    members = len(alone.members) if isinstance(alone, Ensemble) else 1
    return replace(spec_of(recipe), members=members, mirrored=isinstance(network, Mirrored))


def build(spec: NetworkSpec) -> nn.Module:
    """Build the network with fresh weights drawn from torch's global generator; nothing is fetched.

    Raises:
        ConfigError: no network has this name or this last layer, or timm does not build it with these arguments.
    """
    if spec.head not in HEADS or (spec.head != "linear" and spec.name.startswith(TIMM)):
        raise ConfigError(f"The network {spec.name} cannot have a last layer '{spec.head}'.")
    if spec.members > 1:
        alone = replace(spec, members=1, mirrored=False)
        network: nn.Module = Ensemble([build(alone) for _ in range(spec.members)])
    elif spec.name.startswith(TIMM):
        network = pretrained.Backbone(spec.name.removeprefix(TIMM), spec.classes, spec.dropout, spec.arguments)
    elif spec.name in NETWORKS:
        network = NETWORKS[spec.name](spec)
    else:
        raise ConfigError(f"There is no network '{spec.name}'. Choose one of: {', '.join(NETWORKS)}, {TIMM}NAME.")
    return Mirrored(network) if spec.mirrored else network
