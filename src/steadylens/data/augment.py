"""Batched augmentation on tensors, with one strength per image (so one per class, where minority classes need more)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far an image of strength 1 may be changed.

    Attributes:
        shift: largest translation, as a share of the side.
        rotate: largest rotation, in degrees.
        scale: largest relative zoom, in or out.
        colour: largest relative change of brightness, contrast and saturation.
        cutout: side of the square that is greyed out (DeVries & Taylor 2017), as a share of the image's side.
        flip: whether half of the images are mirrored left to right.
    """

    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    colour: float = 0.0
    cutout: float = 0.0
    flip: bool = False


LEVELS = {
    "off": Augmentation(),
    "light": Augmentation(shift=0.07),
    "medium": Augmentation(shift=0.1, rotate=4.0, scale=0.08, colour=0.1, cutout=0.25),
    "strong": Augmentation(shift=0.125, rotate=10.0, scale=0.2, colour=0.25, cutout=0.4),
}
GREATEST_STRENGTH = 3.0  # beyond it, shifts leave less than half of the image and colours clip


def policy_of(level: str, *, flip: bool, minority_only: bool) -> Augmentation:
    """How far an image of strength 1 may be changed at a level of `LEVELS`.

    Where augmentation is off but minority classes have a strength of their own, theirs is of the medium kind.
    """
    return replace(LEVELS["medium" if level == "off" and minority_only else level], flip=flip)


def augment(images: Tensor, policy: Augmentation, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Give every image a random change no larger than `policy` times its strength.

    Args:
        images: float, (n, 3, side, side), normalised so that 0 is the mean colour.
        policy: how far an image of strength 1 may be changed.
        strength: float, (n,); 0 leaves an image as it is, mirroring included.
        generator: the only source of randomness.

    Returns:
        New images of the same shape and memory format.
    """
    strength = strength.clamp(0.0, GREATEST_STRENGTH)
    images = _move(images, policy, strength, generator)
    if policy.colour:
        images = _recolour(images, policy.colour * strength, generator)
    if policy.cutout:
        images = _cut_out(images, policy.cutout * strength.clamp(max=1.5), generator)
    return images


def _symmetric(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) * 2 - 1


def _move(images: Tensor, policy: Augmentation, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror, shift, rotate and zoom in one resampling; what comes in over the border is the image reflected."""
    n, _, _, side = images.shape
    mirror = torch.where((torch.rand(n, generator=generator) < 0.5) & (strength > 0) & policy.flip, -1.0, 1.0)
    # Shifts are whole pixels: an image that is only shifted or mirrored keeps its pixels to the bit.
    shift_x = torch.round(_symmetric(n, generator) * policy.shift * strength * side) * 2 / side
    shift_y = torch.round(_symmetric(n, generator) * policy.shift * strength * side) * 2 / side
    if not (policy.rotate or policy.scale):
        return _shift_and_mirror(images, shift_x, shift_y, mirror)
    angle = _symmetric(n, generator) * strength * math.radians(policy.rotate)
    zoom = torch.exp(_symmetric(n, generator) * strength * math.log1p(policy.scale))
    theta = torch.stack(
        [
            zoom * mirror * angle.cos(),
            -zoom * angle.sin(),
            shift_x,
            zoom * mirror * angle.sin(),
            zoom * angle.cos(),
            shift_y,
        ],
        1,
    )
    grid = F.affine_grid(theta.view(n, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _shift_and_mirror(images: Tensor, shift_x: Tensor, shift_y: Tensor, mirror: Tensor) -> Tensor:
    n, _, _, side = images.shape
    steps = torch.arange(side)
    columns = _reflect(steps + torch.round(shift_x * side / 2).long()[:, None], side)
    rows = _reflect(steps + torch.round(shift_y * side / 2).long()[:, None], side)
    columns = torch.where(mirror[:, None] < 0, columns.flip(1), columns)
    pixels = images.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return pixels.permute(0, 3, 1, 2)


def _reflect(position: Tensor, side: int) -> Tensor:
    """Fold positions outside 0..side-1 back in, the border pixel repeated (the reflection of grid_sample)."""
    position = position.remainder(2 * side)
    return torch.minimum(position, 2 * side - 1 - position)


def _recolour(images: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    n = len(images)
    contrast, saturation, brightness = ((_symmetric(n, generator) * amount).view(n, 1, 1, 1) for _ in range(3))
    grey = images.mean(1, keepdim=True)
    return (grey + (images - grey) * (1 + saturation)) * (1 + contrast) + brightness


def _cut_out(images: Tensor, share: Tensor, generator: torch.Generator) -> Tensor:
    n, _, _, side = images.shape
    half = (share * side / 2).view(n, 1)
    steps = torch.arange(side) + 0.5
    x = (steps - torch.rand(n, 1, generator=generator) * side).abs() >= half
    y = (steps - torch.rand(n, 1, generator=generator) * side).abs() >= half
    return images * (x[:, None, None, :] | y[:, None, :, None])
