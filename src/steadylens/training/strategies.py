"""The strategies that `steadylens compare` sets beside each other: what each means, and what it is against.

Each is one change to the same plain training. The strengths are those at which each shows its effect on the tutorial's
CNN (see "Each strategy of the tutorial, alone" in the benchmarks); they are not tuned to any data.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from steadylens.config import TIMM, Config
from steadylens.errors import ConfigError

Aim = Literal["reference", "imbalance", "overfitting", "capacity", "all"]
PLAIN, AUTO = "plain", "auto"
NETWORK = "keras-blog"  # the tutorial's, and its strategies are about it

# Nothing against anything: no remedy, no augmentation, no penalty, and the weights of the last step.
NOTHING: Mapping[str, Any] = {
    "imbalance": "none", "minority_augment": 0.0, "augment": "off", "l1": 0.0, "l2": 0.0, "dropout": 0.0,
    "label_smoothing": 0.0, "mixup": 0.0, "early_stopping": 0, "averaging": 0.0, "mirror": "off", "members": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to train.

    Attributes:
        name: on the command line.
        title: on the page.
        aim: what it is for.
        against: a sentence on what it does against what.
        source: where it comes from, for a reader who wants to know more.
        fields: of `Config`, over `NOTHING`.
    """

    name: str
    title: str
    aim: Aim
    against: str
    source: str
    fields: Mapping[str, Any]


STRATEGIES = (
    Strategy(
        PLAIN, "Plain", "reference",
        "Cross-entropy and nothing else: what all the others are measured against.", "", {},
    ),
    Strategy(
        "class-weights", "Class weights", "imbalance",
        "Against imbalance: a mistake on a rare class costs as many times more as the class has fewer images.",
        "scikit-learn's balanced weights", {"imbalance": "class-weights"},
    ),
    Strategy(
        "effective-number", "Effective-number weights", "imbalance",
        "Against imbalance: like class weights, but milder where a class has thousands of images, since they repeat "
        "each other.",
        "Cui et al. 2019", {"imbalance": "effective-number"},
    ),
    Strategy(
        "oversample", "Oversampling", "imbalance",
        "Against imbalance: images of rare classes are shown again and again, until all classes are shown equally "
        "often.",
        "", {"imbalance": "oversample"},
    ),
    Strategy(
        "minority-augment", "Minority augmentation", "imbalance",
        "Against imbalance: rare classes are shown more often, and their images changed more strongly each time, so "
        "that the network sees more than the same few.",
        "square-root sampling and beyond: Mahajan et al. 2018", {"minority_augment": 0.75},
    ),
    Strategy(
        "logit-adjust", "Prior-adjusted softmax", "imbalance",
        "Against imbalance: the loss is told how frequent each class is, so that the network need not learn to favour "
        "the frequent ones.",
        "Menon et al. 2021; Ren et al. 2020", {"imbalance": "logit-adjust"},
    ),
    Strategy(
        "focal", "Focal loss", "imbalance",
        "Against easy images: what is recognised already counts little, so that the hard images decide. It does not "
        "look at class sizes.",
        "Lin et al. 2017", {"imbalance": "focal"},
    ),
    Strategy(
        "ldam-drw", "LDAM with deferred re-weighting", "imbalance",
        "Against imbalance: rare classes must be told apart by a larger margin, and in the last fifth of the training "
        "they are weighted up as well.",
        "Cao et al. 2019", {"imbalance": "ldam-drw"},
    ),
    Strategy(
        "l1", "L1", "overfitting",
        "Against overfitting: every weight is drawn to zero by a constant step, and what is not needed gets there.",
        "soft thresholding, Parikh & Boyd 2014", {"l1": 0.01},
    ),
    Strategy(
        "l2", "L2", "overfitting",
        "Against overfitting: every weight is shrunk by a constant share, so that none grows large for a few images.",
        "decoupled weight decay, Loshchilov & Hutter 2019", {"l2": 0.5},
    ),
    Strategy(
        "dropout", "Dropout", "overfitting",
        "Against overfitting: half of what the last layer sees is hidden at each step, so that it cannot rely on any "
        "one thing.",
        "Srivastava et al. 2014", {"dropout": 0.5},
    ),
    Strategy(
        "early-stopping", "Early stopping", "overfitting",
        "Against overfitting: the training ends after five epochs without a better validation figure, and the best "
        "weights are put back.",
        "", {"early_stopping": 5},
    ),
    Strategy(
        "capacity-s", "Capacity S", "capacity",
        "Against underfitting: the smallest network of a family with batch normalisation and residual convolutions.",
        "", {"network": "cnn-s"},
    ),
    Strategy(
        "capacity-m", "Capacity M", "capacity",
        "Against underfitting: the same family with about twice the channels of S.", "", {"network": "cnn-m"},
    ),
    Strategy(
        "capacity-l", "Capacity L", "capacity",
        "Against underfitting: the same family with about four times the channels of S.", "", {"network": "cnn-l"},
    ),
    Strategy(
        "capacity-xl", "Capacity XL", "capacity",
        "Against underfitting: the same family with about eight times the channels of S.", "", {"network": "cnn-xl"},
    ),
    Strategy(
        AUTO, "Auto", "all",
        "Against all of it: what `steadylens train` does by itself in the same time.", "", {},
    ),
)  # fmt: skip


def choose_strategies(names: Sequence[str] | None, network: str) -> tuple[Strategy, ...]:
    """The strategies of these names, in the order of `STRATEGIES` and with plain before all; None is all of them.

    Raises:
        ConfigError: one is not known, or is plain itself on this network.
    """
    known = {one.name: one for one in STRATEGIES}
    same = {one.name for one in STRATEGIES if one.fields.get("network") == network}
    wrong = []
    for name in names or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            wrong.append(f"There is no strategy '{name}'.{hint} Choose from {', '.join(known)}.")
        elif name in same:
            wrong.append(f"{name} is what plain is with --network {network}: leave it out.")
    if wrong:
        raise ConfigError("\n".join(wrong))
    asked = {PLAIN, *(set(known) - same if names is None else names)}
    return tuple(one for one in STRATEGIES if one.name in asked)


def config_of(strategy: Strategy, shared: Config) -> Config:
    """What a strategy asks for.

    Args:
        strategy: one of `STRATEGIES`.
        shared: what all of them share: the network, the number of epochs, the size of images, the device, the
            precision, the seed. `auto` chooses its own network.

    Raises:
        ConfigError: the network is not one from scratch.
    """
    if shared.network.startswith(TIMM) or shared.weights is not None:
        raise ConfigError(
            "Strategies are compared on networks trained from scratch: give --network keras-blog or cnn-m."
        )
    if strategy.name == AUTO:
        return replace(shared, network="auto")
    return replace(shared, **{**NOTHING, **strategy.fields})
