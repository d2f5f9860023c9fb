"""Remedies for class imbalance: how often a class is drawn, and what the loss makes of its images.

The remedies may be combined. Weights and priors are therefore computed from what is *drawn*, not from what lies in
the folder: oversampling together with class weights does not correct twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from steadylens.models.heads import SCALE

BETA = 0.9999  # Cui et al. 2019: their best for long-tailed CIFAR-10, and that of Cao et al.'s re-weighting
GAMMA = 2.0  # Lin et al. 2017, section 3.2: the best of those that they tried, 0 to 5
LARGEST_MARGIN = 0.5  # that of the rarest class, in cosines: Cao et al. 2019, their own experiments
DEFERRED = 0.8  # of a training goes by before deferred re-weighting begins: epoch 160 of 200 in Cao et al. 2019


@dataclass(frozen=True, slots=True)
class Balance:
    """What the remedies come to, for one set of training images.

    Attributes:
        shares: (classes,) share of an epoch that each class gets.
        strengths: (classes,) augmentation strength of each class.
        weights: (classes,) factor of the loss of each class, 1 on average over an epoch.
        late_weights: (classes,) the same, from `DEFERRED` of the training on.
        offsets: (classes,) added to the logits inside the loss.
        margins: (classes,) taken off the logit of the image's own class inside the loss.
        focus: the exponent of the focal loss; 0 is cross-entropy.
    """

    shares: NDArray[np.float64]
    strengths: NDArray[np.float64]
    weights: NDArray[np.float64]
    late_weights: NDArray[np.float64]
    offsets: NDArray[np.float64]
    margins: NDArray[np.float64]
    focus: float

    def in_full(self, progress: float) -> bool:
        """Whether at this share of the training all of the remedy acts; before, no training is stopped as finished."""
        return progress >= DEFERRED or np.array_equal(self.weights, self.late_weights)


def balance(counts: NDArray[np.int64], remedy: str, minority_augment: float, base_strength: float) -> Balance:
    """Work out what a remedy and a degree of minority augmentation mean for these class counts.

    Args:
        counts: (classes,) training images of each class, all above 0.
        remedy: one of `config.IMBALANCE`.
        minority_augment: 0 (off) to 1; see `minority_shares`.
        base_strength: augmentation strength of the largest class; 0 where augmentation is off.
    """
    shares = minority_shares(counts, 1.0 if remedy == "oversample" else minority_augment)
    lift = shares / shares.max() * counts.max() / counts  # copies of an image, relative to the largest class
    strengths = base_strength + (0.5 * np.log10(lift) if minority_augment else 0.0 * lift)
    ones, zeros = np.ones(len(counts)), np.zeros(len(counts))
    effective = effective_number_weights(counts, shares)
    weights = {"class-weights": class_weights(shares), "effective-number": effective}.get(remedy, ones)
    return Balance(
        shares=shares,
        strengths=strengths,
        weights=weights,
        late_weights=effective if remedy == "ldam-drw" else weights,
        offsets=log_prior(shares) if remedy == "logit-adjust" else zeros,
        margins=SCALE * ldam_margins(counts) if remedy == "ldam-drw" else zeros,
        focus=GAMMA if remedy == "focal" else 0.0,
    )


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


def effective_number_weights(counts: NDArray[np.int64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights in inverse proportion to the effective number of images, (1 - beta^n) / (1 - beta) (Cui et al. 2019).

    The more images a class has, the more of them show what others show already. The paper's weights are for images that
    are each drawn once an epoch; where classes are drawn in other `shares`, the weights are such that each class has
    the same say in an epoch as there. They are 1 on average over an epoch; the paper's are 1 on average over classes.
    """
    effective = -np.expm1(counts * np.log(BETA)) / (1 - BETA)
    say = counts / effective
    weights: NDArray[np.float64] = say / say.sum() / shares
    return weights


def ldam_margins(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The label-distribution-aware margin of each class, in cosines (Cao et al. 2019, section 3).

    They are proportional to n^(-1/4): of two classes whose margins have a given sum, these give the least bound on the
    balanced error. That of the rarest class is `LARGEST_MARGIN`. How often images are drawn changes none: drawing
    an image twice does not tell more of its class.
    """
    margins: NDArray[np.float64] = LARGEST_MARGIN * (counts.min() / counts) ** 0.25
    return margins


def log_prior(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithm of each class's prior, for the prior-adjusted softmax.

    Added to the logits inside the cross-entropy, it makes the bare logits those of balanced classes
    (Menon et al. 2021, equation 10 with tau = 1; Ren et al. 2020).
    """
    prior: NDArray[np.float64] = np.log(shares)
    return prior


def natural_logits(logits: NDArray[np.floating], remedy: Balance, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The logits that cross-entropy on the data's own class shares would have taught, from those that were learned.

    A softmax learns the shares that its loss sees: those drawn, times the weights, less what the offsets explain. To
    another prior it moves by the logarithm of their ratio (Saerens, Latinne & Decaestecker 2002). The focal loss
    teaches flatter probabilities, which are brought back first (see `unfocused`). Both are exact for a network that has
    found the least of its loss. For LDAM the step is an approximation: it is taken to have learned the shares of its
    re-weighted last part, and no shift of logits undoes its margins.

    Args:
        logits: (n, classes), before calibration.
        remedy: with which the network was trained.
        counts: (classes,) training images of each class.
    """
    learned = np.log(remedy.shares * remedy.late_weights) - remedy.offsets
    found = unfocused(logits, remedy.focus) if remedy.focus else np.asarray(logits, np.float64)
    natural: NDArray[np.float64] = found + log_prior(counts / counts.sum()) - learned
    return natural


def unfocused(logits: NDArray[np.floating], focus: float) -> NDArray[np.float64]:
    """Log-probabilities (n, classes), up to a constant, of which the focal loss taught these logits.

    Where the true probabilities are q, the focal loss is least at p with q proportional to p / phi(p),
    phi(p) = (1 - p)^g - g (1 - p)^(g - 1) p log p (Charoenphakdee et al. 2021).
    """
    log_p = np.minimum(log_softmax(np.asarray(logits, np.float64), axis=1), -np.finfo(np.float64).eps)
    p, rest = np.exp(log_p), -np.expm1(log_p)
    found: NDArray[np.float64] = log_p - np.log(rest**focus - focus * rest ** (focus - 1) * p * log_p)
    return found


def objective_of(
    remedy: Balance, label_smoothing: float, device: torch.device
) -> Callable[[Tensor, Tensor, float], Tensor]:
    """The loss of each image, (n,), as a function of logits (n, classes), labels (n,) and the training's progress."""
    early, late, offsets, margins = (
        as_tensor(values, device) for values in (remedy.weights, remedy.late_weights, remedy.offsets, remedy.margins)
    )

    def objective(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
        weights = late if progress >= DEFERRED else early
        return loss_of(logits, labels, weights, offsets, margins, remedy.focus, label_smoothing)

    return objective


def loss_of(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    offsets: Tensor,
    margins: Tensor,
    focus: float,
    label_smoothing: float,
) -> Tensor:
    """The loss of each image, (n,): of the offset logits, less the own class's margin, times the class's weight.

    Without a focus it is cross-entropy; with one, each -log(p) of it counts by (1 - p)^focus (Lin et al. 2017).

    Args:
        logits: (n, classes).
        labels: (n,).
        weights: (classes,), see `Balance`.
        offsets: (classes,), see `Balance`.
        margins: (classes,), see `Balance`.
        focus: see `Balance`.
        label_smoothing: share of each target spread evenly over all classes (Szegedy et al. 2016).
    """
    own = F.one_hot(labels, logits.shape[1])
    log_p = F.log_softmax(logits.float() + offsets - own * margins, dim=1)
    surprise = -log_p * (1 - log_p.exp()) ** focus if focus else -log_p
    targets = (1 - label_smoothing) * own + label_smoothing / logits.shape[1]
    return (surprise * targets).sum(1) * weights[labels]


def as_tensor(values: NDArray[np.float64], device: torch.device) -> Tensor:
    """A float32 tensor on `device`."""
    return torch.from_numpy(values.astype(np.float32)).to(device)
