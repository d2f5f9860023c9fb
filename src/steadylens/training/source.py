"""Where a training takes its images from: the store, batch by batch, or the GPU's own memory, where they fit in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steadylens.data.batches import LabelledPixels

RESIDENT_SHARE = 0.25  # of a GPU's free memory that images may take; the rest is for the network's work


@dataclass(frozen=True, slots=True)
class FromStore:
    """Images that are read from the store when they are due."""

    images: LabelledPixels
    device: torch.device

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels, uint8 (n, side, side, 3), and labels, (n,), at some positions, on the device."""
        pixels, labels = self.images.take(positions.numpy())
        return torch.from_numpy(pixels).to(self.device), torch.from_numpy(labels).to(self.device)


@dataclass(frozen=True, slots=True)
class Resident:
    """Images that lie in a GPU's memory as they are stored."""

    pixels: Tensor
    labels: Tensor

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels, uint8 (n, side, side, 3), and labels, (n,), at some positions."""
        there = positions.to(self.labels.device)
        return self.pixels[there], self.labels[there]


def source_of(images: LabelledPixels, device: torch.device) -> FromStore | Resident:
    """The images on a device: in its memory, where it is a GPU and they take little of it."""
    if device.type != "cuda" or images_bytes(images) > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return FromStore(images, device)
    return Resident(torch.from_numpy(images[:]).to(device), torch.from_numpy(images.labels).to(device))


def images_bytes(images: LabelledPixels) -> int:
    """How much memory the pixels take."""
    return len(images) * int(images.pixels[0].nbytes)
