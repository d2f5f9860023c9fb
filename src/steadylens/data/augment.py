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
        flip: whether half of the images that have any strength are mirrored left to right.
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


def base_strength(level: str, *, flip: bool, minority_only: bool) -> float:
    """The strength of the largest class: 0 where nothing, or only what is rare, is to be changed."""
    return float(level != "off" or (flip and not minority_only))


def different_copies(policy: Augmentation, strength: float, side: int) -> float:
    """How many different images one image can become, at most; infinity where something changes without steps.

    Shifts are whole pixels and mirroring is a yes or no, so that light augmentation has few outcomes.

    Args:
        policy: how far an image of strength 1 may be changed.
        strength: of this image.
        side: of the image, in pixels.
    """
    strength = min(max(strength, 0.0), GREATEST_STRENGTH)
    if strength == 0.0:
        return 1.0
    if policy.rotate or policy.scale or policy.colour or policy.cutout:
        return math.inf
    shifts = 2 * round(policy.shift * strength * side) + 1
    return float(shifts**2 * (2 if policy.flip else 1))


def augment(images: Tensor, policy: Augmentation, strength: Tensor, generator: torch.Generator | None) -> Tensor:
    """Give every image a random change no larger than `policy` times its strength.

    Args:
        images: float, (n, 3, side, side), normalised so that 0 is the mean colour; on any device.
        policy: how far an image of strength 1 may be changed.
        strength: float, (n,), there too; 0 leaves an image as it is up to rounding, mirroring included.
        generator: the only source of randomness, there too; None is torch's own of the device.

    Returns:
        New images of the same shape, channels last in memory.
    """
    if policy == Augmentation():
        return images
    strength = strength.clamp(0.0, GREATEST_STRENGTH)
    images = _move(images, policy, strength, generator)
    if policy.colour:
        images = _recolour(images, policy.colour * strength, generator)
    if policy.cutout:
        images = _cut_out(images, policy.cutout * strength.clamp(max=1.5), generator)
    return images


def _symmetric(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(len(like), generator=generator, device=like.device) * 2 - 1


def _move(images: Tensor, policy: Augmentation, strength: Tensor, generator: torch.Generator | None) -> Tensor:
    """Mirror, shift, rotate and zoom in one resampling; what comes in over the border is the image reflected."""
    side = images.shape[-1]
    heads = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    mirror = torch.where(heads & (strength > 0) & policy.flip, -1.0, 1.0)
    # Shifts are whole pixels: an image that is only shifted or mirrored keeps its pixels to the bit.
    shift_x = torch.round(_symmetric(strength, generator) * policy.shift * strength * side) * 2 / side
    shift_y = torch.round(_symmetric(strength, generator) * policy.shift * strength * side) * 2 / side
    if not (policy.rotate or policy.scale):
        return _shift_and_mirror(images, shift_x, shift_y, mirror)
    angle = _symmetric(strength, generator) * strength * math.radians(policy.rotate)
    zoom = torch.exp(_symmetric(strength, generator) * strength * math.log1p(policy.scale))
    grid = _grid(side, zoom * angle.cos(), zoom * angle.sin(), mirror, torch.stack([shift_x, shift_y], 1))
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


def _grid(side: int, cosine: Tensor, sine: Tensor, mirror: Tensor, shift: Tensor) -> Tensor:
    """Where each pixel comes from, (n, side, side, 2), for `grid_sample`; by hand, since affine_grid is slow."""
    steps = (torch.arange(side, device=mirror.device) + 0.5) * 2 / side - 1
    x, y = steps.view(1, 1, side) * mirror.view(-1, 1, 1), steps.view(1, side, 1)
    cosine, sine = cosine.view(-1, 1, 1), sine.view(-1, 1, 1)
    columns = x * cosine - y * sine + shift[:, 0].view(-1, 1, 1)
    rows = x * sine + y * cosine + shift[:, 1].view(-1, 1, 1)
    return torch.stack([columns, rows], 3)


def _shift_and_mirror(images: Tensor, shift_x: Tensor, shift_y: Tensor, mirror: Tensor) -> Tensor:
    side, device = images.shape[-1], images.device
    steps = torch.arange(side, device=device)
    columns = _reflect(steps + torch.round(shift_x * side / 2).long()[:, None], side)
    rows = _reflect(steps + torch.round(shift_y * side / 2).long()[:, None], side)
    columns = torch.where(mirror[:, None] < 0, columns.flip(1), columns)
    which = torch.arange(len(images), device=device)[:, None, None]
    pixels = images.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]]
    return pixels.permute(0, 3, 1, 2)


def _reflect(position: Tensor, side: int) -> Tensor:
    """Fold positions outside 0..side-1 back in, the border pixel repeated (the reflection of grid_sample)."""
    position = position.remainder(2 * side)
    return torch.minimum(position, 2 * side - 1 - position)


def _recolour(images: Tensor, amount: Tensor, generator: torch.Generator | None) -> Tensor:
    contrast, saturation, brightness = ((_symmetric(amount, generator) * amount).view(-1, 1, 1, 1) for _ in range(3))
    # (grey + (image - grey) * (1 + saturation)) * (1 + contrast) + brightness, with as few passes as it takes
    rest = images.mean(1, keepdim=True) * (-saturation * (1 + contrast)) + brightness
    return (images * ((1 + saturation) * (1 + contrast))).add_(rest)


def _cut_out(images: Tensor, share: Tensor, generator: torch.Generator | None) -> Tensor:
    n, _, _, side = images.shape
    half = (share * side / 2).view(n, 1)
    steps = torch.arange(side, device=images.device) + 0.5
    x, y = (steps - (torch.rand(n, 1, generator=generator, device=images.device) * side) for _ in range(2))
    inside = (x.abs() < half)[:, None, None, :] & (y.abs() < half)[:, None, :, None]
    return images.masked_fill_(inside, 0.0)  # they are ours: _move made them
