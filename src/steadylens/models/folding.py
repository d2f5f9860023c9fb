"""Batch norms of a trained backbone, folded into the convolutions before them: the same answers in less time.

In prediction a batch norm multiplies each channel by one number and adds another, and both can be put into the weights
and the bias of the convolution that made the channel (Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", 2018, section 3.2). A MobileNet, whose convolutions are small beside what
its norms read and write, looks at up to twice as many images a second so.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from steadylens.models.pretrained import Backbone

# Of the largest feature: folding changes the rounding of each layer, by 1e-6 of it in float32.
TOLERANCE = 1e-4

_Network = TypeVar("_Network", bound=nn.Module)
_settled: WeakSet[Backbone] = WeakSet()  # those that were folded, or could not be: nothing is tried twice


def folded(network: _Network, image_size: int) -> _Network:
    """A copy for prediction alone, with batch norms folded where a look at noise shows that its answers are the same.

    Args:
        network: with a `Backbone` in it; any other, and one that has nothing to fold, is returned as it is.
        image_size: side of the images that it takes, in pixels.
    """
    if all(backbone in _settled or not _has_norms(backbone) for backbone in _backbones(network)):
        return network
    try:
        # On a processor, which computes in float32 what a GPU may round to fewer bits.
        copy = deepcopy(network).to("cpu").eval()
        same = min(_fold(backbone, image_size) for backbone in _backbones(copy))
    except RuntimeError:  # it holds what cannot be copied
        same = False
    kept = copy.to(next(network.parameters()).device) if same else network
    _settled.update(_backbones(kept))
    return kept


def _backbones(network: nn.Module) -> list[Backbone]:
    return [module for module in network.modules() if isinstance(module, Backbone)]


def _has_norms(backbone: Backbone) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())


@torch.no_grad()
def _fold(backbone: Backbone, image_size: int) -> bool:
    """Fold each batch norm whose input is what one convolution gave; tell whether its answers are still the same."""
    noise = torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", enabled=False):
        before = backbone.features(noise)
        for convolution, norm in _pairs(backbone, noise):
            _put_into(convolution, norm, backbone)
        return _alike(backbone.features(noise), before)


def _alike(after: Tensor, before: Tensor) -> bool:
    return bool((after - before).abs().max() <= TOLERANCE * before.abs().max())


def _put_into(convolution: nn.Conv2d, norm: nn.BatchNorm2d, backbone: Backbone) -> None:
    """Fold a batch norm into the convolution before it, unless it goes by the batch that it sees."""
    if norm.running_mean is None or norm.running_var is None:
        return
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )  # fmt: skip
    parent, _, name = next(name for name, module in backbone.named_modules() if module is norm).rpartition(".")
    # timm's batch norms with an activation hold what follows the norm as `drop` and `act`.
    after = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
    setattr(backbone.get_submodule(parent), name, nn.Sequential(*after))


def _pairs(backbone: Backbone, noise: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """The convolutions and batch norms that follow one another, each of which is used once for an image."""
    made: dict[int, tuple[Tensor, nn.Conv2d]] = {}
    used: list[nn.Module] = []
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def convolved(module: nn.Module, _inputs: Any, output: Tensor) -> None:  # noqa: ANN401 - as torch calls it
        assert isinstance(module, nn.Conv2d)  # noqa: S101 - for the type checker: hooked below
        used.append(module)
        made[id(output)] = output, module  # the tensor is kept alive, so that no other gets its id

    def normalising(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)  # noqa: S101 - likewise
        used.append(module)
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][1], module))

    hooks = [m.register_forward_hook(convolved) for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(normalising) for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    backbone.features(noise)
    for hook in hooks:
        hook.remove()
    return [pair for pair in pairs if all(used.count(module) == 1 for module in pair)]
