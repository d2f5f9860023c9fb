"""From a pretrained backbone to a classifier: the probe, then fine-tuning, and of the two what validation can tell.

The last layer starts as the probe, so that the first gradients do not tear up what pretraining learned (LP-FT, Kumar et
al. 2022). It is trained together with the upper stages, each at a lower rate than the next one above it. The result is
blended with the probe's network, weight by weight (WiSE-FT, Wortsman et al. 2022), and takes its place only where the
validation images show that it is better, by more than chance.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steadylens import interruption
from steadylens.config import Recipe
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.metrics import balanced_accuracy, balanced_log_loss, softmax
from steadylens.models.inference import logits_of
from steadylens.models.pretrained import Backbone
from steadylens.training.checkpoint import Checkpoint, Checkpoints, copied
from steadylens.training.gain import Gain, gain_of
from steadylens.training.loop import fit
from steadylens.training.optimizers import Rates
from steadylens.training.position import fitted_from, outcome_of
from steadylens.training.probe import Features, Probe, features_of, fit_probe
from steadylens.training.state import Epoch, Fitted, Step, judged, judged_on_both, validation_figures

DECAY = 0.7  # of the learning rate from one stage to the one below it
# The lowest stages, which hold together no more of the weights than this, stay as they are: of a MobileNet they hold
# 3 % of the weights, the most general ones, and cost half of the time of a step.
FROZEN_SHARE = 0.05
STAGE = "fine-tuning"  # the name of its checkpoints
BLENDS = (1 / 3, 2 / 3, 1.0)  # shares of the fine-tuned weights that are tried
# Below, the loss on the validation images says too little for any gain to be believed, and no time is spent on one.
FEWEST_TO_JUDGE = 30
# Training costs about so many times what prediction does. With time for fewer epochs none is begun.
STEP_COST, FEWEST_EPOCHS = 1.5, 0.5
# Of the time for training: a second view is looked at only while both take no more. It gains the probe little, and
# fine-tuning gains more in the same time.
VIEWS_SHARE = {"probe": 0.4, "fine-tune": 0.1}


AfterProbe = Callable[[Features, float | None], float | None]


@dataclass(frozen=True)
class Adapted:
    """What became of a pretrained backbone.

    Attributes:
        fitted: the network that is kept; epoch 0 of its curve is the probe.
        account: for the report, JSON values: the probe, the blends, the decision and the speeds.
    """

    fitted: Fitted
    account: dict[str, object]


def adapt(
    network: Backbone,
    train: LabelledPixels,
    validation: LabelledPixels,
    recipe: Recipe,
    preprocessing: Preprocessing,
    *,
    seconds: float | None = None,
    seconds_per_image: float = 0.0,
    cache: Path | None = None,
    clusters: NDArray[np.int64] | None = None,
    checkpoints: Checkpoints | None = None,
    after_probe: AfterProbe = lambda _logits, left: left,
    on_features: Callable[[float, float], None] = lambda _share, _rate: None,
    on_step: Callable[[Step], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Adapted:
    """Fit the probe, fine-tune where the recipe says so, and keep the better of the two.

    Args:
        network: holding its pretrained weights; it is trained in place.
        train: images to learn from.
        validation: images to judge by.
        recipe: what to do.
        preprocessing: that of the weights.
        seconds: of wall time for everything done here; None where the recipe's epochs alone decide.
        seconds_per_image: of prediction, as measured.
        cache: the folder of the cache, for the features.
        clusters: (n,) number of the set of near-duplicates of each training image; None: each its own.
        checkpoints: where the probe and the training are kept, and gone on from; None keeps them nowhere.
        after_probe: told the probe's logits of the validation images, (n, classes), and the seconds that are left; it
            gives those that there are for the rest.
        on_features: told the share of images looked at, and images a second.
        on_step: told after each step of fine-tuning.
        on_epoch: told of the probe as epoch 0, and after each measured epoch.

    Raises:
        ConfigError: the loss is no longer a number.
    """
    begin, checkpoints = time.perf_counter(), checkpoints or Checkpoints(None)
    network.to(torch.device(recipe.device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    kept = checkpoints.outcome("probe")
    if kept is None:
        looked = _look(network, train, validation, recipe, preprocessing, seconds, cache, on_features)
        kept = _probed(looked, train, validation, recipe, clusters, time.perf_counter() - begin)
        on_epoch(Epoch(**kept.state["row"]))  # before it counts as done, as in `fit`
        checkpoints.keep("probe", kept)
    probe_logits = kept.tensors["validation"].numpy()
    left = after_probe(probe_logits, None if seconds is None else seconds - (time.perf_counter() - begin))
    row, account = Epoch(**kept.state["row"]), dict(kept.state["account"])
    weight, bias = (kept.tensors[name].numpy() for name in ("weight", "bias"))
    Probe(weight, bias, account["strength"], account["folds"]).write_into(network.head)
    fitted = Fitted(network.eval(), preprocessing, (row,), 0, row, 0, "probe", row.seconds, row.images_per_second)
    if recipe.transfer != "fine-tune":
        return Adapted(fitted, account)
    if left is not None:
        left -= (len(BLENDS) + 1) * len(validation) * seconds_per_image
        too_little = left < FEWEST_EPOCHS * len(train) * STEP_COST * seconds_per_image
        if too_little and not _was_begun(checkpoints):
            return Adapted(fitted, account | {"decision": "the probe is kept: it left too little time for fine-tuning"})
    before = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    tuned = _fine_tune(network, train, validation, recipe, preprocessing, left, checkpoints, on_step, on_epoch)
    blend = _blend(network, before, probe_logits, validation, preprocessing, recipe.precision)
    account |= {"fine_tuned": _figures(tuned.kept), "blend": blend.share, "decision": _decision(blend)}
    whole = replace(tuned, network=network.eval(), curve=(row, *tuned.curve), seconds=row.seconds + tuned.seconds)
    if blend.share == 0:
        return Adapted(replace(whole, best_epoch=0, kept=row), account)
    sample = train.sample(len(validation), recipe.seed)  # as in the rows of the curve, but by the weights that are kept
    seen = logits_of(network, sample, preprocessing, precision=recipe.precision)
    final = judged_on_both(tuned.kept, blend.logits, validation.labels, seen, sample.labels)
    return Adapted(replace(whole, kept=final), account)


def _probed(
    looked: _Looked,
    train: LabelledPixels,
    validation: LabelledPixels,
    recipe: Recipe,
    clusters: NDArray[np.int64] | None,
    looking_s: float,
) -> Checkpoint:
    """The probe as its checkpoint holds it: the last layer, its logits of the validation images, and its account."""
    begin = time.perf_counter()
    probe = fit_probe(
        looked.train, train.labels, len(recipe.classes), remedy=recipe.imbalance, seed=recipe.seed, clusters=clusters
    )
    row = _row_of_probe(probe, looked, train, validation, looking_s + time.perf_counter() - begin)
    account = {
        "views": len(looked.train),
        "features_per_second": looked.images_per_second,
        "strength": probe.strength,
        "folds": probe.folds,
        "probe": _figures(row),
        "fine_tuned": None,
        "blend": 0.0,
        "decision": "only the last layer was trained",
    }
    arrays = {"weight": probe.weight, "bias": probe.bias, "validation": probe.logits(looked.validation)}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Checkpoint({"row": asdict(row), "account": account}, copied(tensors))


def _was_begun(checkpoints: Checkpoints) -> bool:
    """Whether fine-tuning was interrupted."""
    return checkpoints.outcome(STAGE) is not None or checkpoints.position(STAGE) is not None


@dataclass(frozen=True)
class _Looked:
    """Features; `images_per_second` is None where they were all in the cache."""

    train: list[Features]
    validation: Features
    images_per_second: float | None


def _look(
    network: Backbone,
    train: LabelledPixels,
    validation: LabelledPixels,
    recipe: Recipe,
    preprocessing: Preprocessing,
    seconds: float | None,
    cache: Path | None,
    on_features: Callable[[float, float], None],
) -> _Looked:
    """The features of all images, and of their mirror images where flips keep the label and the time allows it."""
    begin, computed, total = time.perf_counter(), 0, len(train) + len(validation)

    def told(images: int) -> None:
        nonlocal computed
        computed += images
        if interruption.asked():
            interruption.leave()  # features count once all are there: nothing is won by going on
        on_features(min(1.0, computed / total), computed / max(1e-9, time.perf_counter() - begin))

    def look(images: LabelledPixels, *, mirrored: bool = False) -> Features:
        return features_of(
            network, images, preprocessing,
            weights=weights_of(recipe), mirrored=mirrored, precision=recipe.precision, cache=cache, advance=told,
        )  # fmt: skip

    views, unseen = [look(train)], look(validation)
    spent = time.perf_counter() - begin
    if recipe.flip and (seconds is None or spent * (1 + len(train) / total) <= VIEWS_SHARE[recipe.transfer] * seconds):
        total += len(train)
        views.append(look(train, mirrored=True))
    return _Looked(views, unseen, computed / (time.perf_counter() - begin) if computed else None)


def weights_of(recipe: Recipe) -> str:
    """What tells the pretrained weights and their network from all others."""
    return f"{recipe.network} {recipe.arguments} {recipe.weights_sha256}"


def _fine_tune(
    network: Backbone,
    train: LabelledPixels,
    validation: LabelledPixels,
    recipe: Recipe,
    preprocessing: Preprocessing,
    seconds: float | None,
    checkpoints: Checkpoints,
    on_step: Callable[[Step], None],
    on_epoch: Callable[[Epoch], None],
) -> Fitted:
    """Train the last layer and the upper stages, or find the training that an earlier process finished."""
    outcome = checkpoints.outcome(STAGE)
    if outcome is not None:
        return fitted_from(outcome, network, preprocessing)
    thaw(network)
    fitted = fit(
        network,
        train,
        validation,
        recipe,
        preprocessing,
        seconds=seconds,
        rates=rates_of(network),
        seen=0,
        checkpoints=checkpoints,
        stage=STAGE,
        on_step=on_step,
        on_epoch=on_epoch,
    )
    checkpoints.keep(STAGE, outcome_of(fitted))
    return fitted


def thaw(network: Backbone) -> None:
    """Train all but the lowest stages, which hold together up to `FROZEN_SHARE` of the body's weights."""
    sizes = np.array([sum(parameter.numel() for parameter in stage) for stage in network.stages()])
    frozen = np.cumsum(sizes) <= FROZEN_SHARE * sizes.sum()
    for stage, is_frozen in zip(network.stages(), frozen, strict=True):
        for parameter in stage:
            parameter.requires_grad_(not is_frozen)


def rates_of(network: Backbone) -> Rates:
    """The last layer at the full rate, and every stage at `DECAY` times that of the next one above it."""
    stages = network.stages()
    rates = [(stage, DECAY ** (len(stages) - number)) for number, stage in enumerate(stages)]
    return [*rates, (list(network.head.parameters()), 1.0)]


@dataclass(frozen=True)
class _Blend:
    """How the fine-tuned network and the probe's were put together: `share` is 0 where the probe is kept."""

    share: float
    gain: Gain
    logits: Features


def _blend(
    network: Backbone,
    before: dict[str, Tensor],
    probe_logits: Features,
    validation: LabelledPixels,
    preprocessing: Preprocessing,
    precision: str,
) -> _Blend:
    """Leave in the network the blend of its weights with those `before` that does best, or those before."""
    after = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    tried = []
    for share in BLENDS:
        network.load_state_dict(between(before, after, share))
        logits = logits_of(network, validation, preprocessing, precision=precision)
        tried.append(_Blend(share, gain_of(logits, probe_logits, validation.labels), logits))
    best = min(tried, key=lambda blend: blend.gain.loss)
    if not best.gain.is_sure:
        network.load_state_dict(before)
        return replace(best, share=0.0, logits=probe_logits)
    network.load_state_dict(between(before, after, best.share))
    return best


def between(before: dict[str, Tensor], after: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights that are `share` of those after and the rest of those before."""
    return {
        name: torch.lerp(before[name], tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in after.items()
    }


def _decision(blend: _Blend) -> str:
    gain = blend.gain
    figures = (
        f"the balanced log-loss on validation images changes by {gain.difference:+.3f} from the probe's, "
        f"where {-gain.margin:+.3f} would be more than chance"
    )
    if blend.share == 0:
        return f"the probe is kept: with the best blend {figures}"
    return f"fine-tuned weights are kept, {blend.share:.0%} of them and the rest of the probe's: {figures}"


def _row_of_probe(
    probe: Probe, looked: _Looked, train: LabelledPixels, validation: LabelledPixels, seconds: float
) -> Epoch:
    """The probe as epoch 0 of the curve."""
    seen, unseen = probe.logits(looked.train[0]), probe.logits(looked.validation)
    classes = len(probe.bias)
    row = Epoch(
        epoch=0,
        seconds=seconds,
        learning_rate=0.0,
        train_loss=balanced_log_loss(train.labels, softmax(seen)),
        train_balanced_accuracy=balanced_accuracy(train.labels, seen.argmax(1), classes),
        train_balanced_log_loss=balanced_log_loss(train.labels, softmax(seen)),
        validation_balanced_accuracy=0.0,
        validation_balanced_log_loss=0.0,
        validation_tempered_log_loss=0.0,
        validation_worst_class_recall=0.0,
        images_per_second=looked.images_per_second or 0.0,
    )
    return judged(row, unseen, validation.labels)


def _figures(row: Epoch) -> dict[str, float]:
    """A trial's validation block of report.json, and the seconds until then."""
    return {**validation_figures(row), "seconds": row.seconds}
