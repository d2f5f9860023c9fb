"""Remedies for class imbalance: how often a class is drawn, how its loss is weighted, what the softmax knows of priors.

The remedies may be combined. Weights and priors are therefore computed from what is *drawn*, not from what lies in
the folder: oversampling together with class weights does not correct twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

REMEDIES = ("none", "class-weights", "oversample", "logit-adjust")


@dataclass(frozen=True, slots=True)
class Balance:
    """What the remedies come to, for one set of training images.

    Attributes:
        shares: (classes,) share of an epoch that each class gets.
        strengths: (classes,) augmentation strength of each class.
        weights: (classes,) factor of the loss of each class, 1 on average over an epoch.
        offsets: (classes,) added to the logits inside the loss.
    """

    shares: NDArray[np.float64]
    strengths: NDArray[np.float64]
    weights: NDArray[np.float64]
    offsets: NDArray[np.float64]


def balance(counts: NDArray[np.int64], remedy: str, minority_augment: float, base_strength: float) -> Balance:
    """Work out what a remedy and a degree of minority augmentation mean for these class counts.

    Args:
        counts: (classes,) training images of each class, all above 0.
        remedy: one of `REMEDIES`.
        minority_augment: 0 (off) to 1; see `minority_shares`.
        base_strength: augmentation strength of the largest class; 0 where augmentation is off.
    """
    shares = minority_shares(counts, 1.0 if remedy == "oversample" else minority_augment)
    lift = shares / shares.max() * counts.max() / counts  # copies of an image, relative to the largest class
    strengths = base_strength + (0.5 * np.log10(lift) if minority_augment else 0.0 * lift)
    weights = class_weights(shares) if remedy == "class-weights" else np.ones(len(counts))
    offsets = log_prior(shares) if remedy == "logit-adjust" else np.zeros(len(counts))
    return Balance(shares, strengths, weights, offsets)


def minority_shares(counts: NDArray[np.int64], degree: float) -> NDArray[np.float64]:
    """The share of an epoch for each class: proportional to `counts ** (1 - degree)`.

    Degree 0 is the data's own distribution, 1 draws all classes equally often, 0.5 is square-root sampling
    (Mahajan et al. 2018).
    """
    powered = counts.astype(np.float64) ** (1.0 - degree)
    shares: NDArray[np.float64] = powered / powered.sum()
    return shares


def class_weights(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """scikit-learn's `balanced` weights, n / (classes * n_c), for the shares in which classes are drawn."""
    labels = np.arange(len(shares))
    # compute_class_weight counts labels; weighting one label a class by its share gives the same formula.
    weights: NDArray[np.float64] = compute_class_weight("balanced", classes=labels, y=labels)
    scaled: NDArray[np.float64] = weights / (shares * len(shares))
    return scaled


def log_prior(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithm of each class's prior, for the prior-adjusted softmax.

    Added to the logits inside the cross-entropy, it makes the bare logits those of balanced classes
    (Menon et al. 2021, equation 10 with tau = 1; Ren et al. 2020).
    """
    prior: NDArray[np.float64] = np.log(shares)
    return prior


def natural_offsets(remedy: Balance, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """What to add to a network's logits to get those of the data's own class shares back, (classes,).

    A softmax learns the shares that its loss sees: those drawn, times the weights, less what the offsets explain. To
    another prior it moves by the logarithm of their ratio (Saerens, Latinne & Decaestecker 2002).

    Args:
        remedy: with which the network was trained.
        counts: (classes,) training images of each class.
    """
    learned = np.log(remedy.shares * remedy.weights) - remedy.offsets
    return log_prior(counts / counts.sum()) - learned


def loss_of(logits: Tensor, labels: Tensor, weights: Tensor, offsets: Tensor, label_smoothing: float) -> Tensor:
    """The loss of each image, (n,): cross-entropy of the offset logits, times the class's weight.

    Args:
        logits: (n, classes).
        labels: (n,).
        weights: (classes,), see `Balance`.
        offsets: (classes,), see `Balance`.
        label_smoothing: share of each target spread evenly over all classes (Szegedy et al. 2016).
    """
    losses = F.cross_entropy(logits.float() + offsets, labels, reduction="none", label_smoothing=label_smoothing)
    return losses * weights[labels]


def as_tensor(values: NDArray[np.float64], device: torch.device) -> Tensor:
    """A float32 tensor on `device`."""
    return torch.from_numpy(values.astype(np.float32)).to(device)
