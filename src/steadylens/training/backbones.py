"""Whether a pretrained backbone is used, which one, and at which size of images: before anything is decoded."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from steadylens.config import FROM_SCRATCH_ONLY, IMBALANCE, TIMM, Config
from steadylens.data import images
from steadylens.data.images import Preprocessing, Refusal
from steadylens.data.sources import ImageIndex
from steadylens.errors import ConfigError
from steadylens.models import NetworkSpec, build, hub, pretrained
from steadylens.models.folding import folded
from steadylens.models.inference import exact, suitable_batch
from steadylens.models.pretrained import Pretrained
from steadylens.training.finetune import STEP_COST
from steadylens.training.speed import choose_precision


@dataclass(frozen=True)
class Candidate:
    """A backbone that "auto" may take, with what its authors and timm's own tests say of it.

    Attributes:
        network: "timm:NAME".
        top1: accuracy on ImageNet-1k in percent, at the size of images that timm tests it at.
        parameters: in millions.
    """

    network: str
    top1: float
    parameters: float


# From small to large; the figures are those of timm's results/results-imagenet.csv.
CURATED = (
    Candidate("timm:mobilenetv2_100.ra_in1k", 73.0, 3.5),
    Candidate("timm:mobilenetv3_large_100.miil_in21k_ft_in1k", 77.9, 5.5),
    Candidate("timm:convnext_nano.in12k_ft_in1k", 82.9, 15.6),
    Candidate("timm:convnext_tiny.in12k_ft_in1k", 84.5, 28.6),
    Candidate("timm:convnext_small.in12k_ft_in1k", 85.3, 50.2),
)
FEWEST_COLOURS = 500
LARGER_THAN = 64  # px; smaller images are learned from scratch as well and far faster
# A larger backbone is taken while looking at every image once takes no more than this share of the time.
SHARE_OF_LARGER = 0.15
# Of the time: for decoding, looking at images and fine-tuning. The rest goes to the audit, the probe and the report.
SHARE_OF_LEARNING = 0.75
# Images are made smaller for so many epochs of fine-tuning. In fewer it gains less than the probe gains by the whole
# size: on clothing, the probe's balanced log-loss on validation was 0.57 at 128 px and 0.49 at 192 px.
EPOCHS_THAT_PAY = 4.0
STEPS_OF_SIZE = (1.0, 6 / 7, 5 / 7, 4 / 7)  # of 224 px: 192, 160 and 128
_SAMPLE = 32
_HELD_OUT = 0.25  # of the images: validation and test images, whose figures are those of single precision


@dataclass(frozen=True)
class BackboneChoice:
    """What images are to be prepared for.

    Attributes:
        pretrained: the weights; None trains from scratch.
        image_size: side of the square, in pixels; None where it is not decided here.
        images_per_second: of the bare network in `precision`, as measured; infinite where there is none.
        decode_per_second: images decoded a second, by all processors, as measured on a few; likewise.
        why: a sentence for "network" and "image_size".
        precision: in which training images are looked at.
    """

    pretrained: Pretrained | None
    image_size: int | None
    images_per_second: float
    decode_per_second: float
    why: dict[str, str]
    precision: str = "fp32"

    def frame(self, image_fit: str, image_size: int) -> Preprocessing:
        """How images are prepared; a network from scratch gets its colours, and its size, from elsewhere."""
        fit, weights = "squash" if image_fit == "auto" else image_fit, self.pretrained
        if weights is None:
            return Preprocessing(image_size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), fit)
        size = self.image_size or image_size
        return Preprocessing(size, weights.mean, weights.std, fit, interpolation=weights.interpolation)


def choose_backbone(config: Config, index: ImageIndex, device: str, *, seconds: float | None) -> BackboneChoice:
    """Find the pretrained weights that were asked for, or those that are at hand and worth it.

    Nothing is downloaded that was not asked for by name.

    Args:
        config: what was asked for.
        index: the images; a few of them are looked at.
        device: on which the network will run.
        seconds: left of the budget; None where there is none.

    Raises:
        ConfigError: the weights that were asked for cannot be used.
        ResourceError: they cannot be had.
    """
    _check(config)
    if config.network == "auto" and config.weights is None:
        if config.imbalance in FROM_SCRATCH_ONLY:
            found, reason = None, f"{config.imbalance} is for networks trained from scratch"
        elif config.depth != "auto" or "width" in config.given:
            found, reason = None, "a depth or a width was given, which networks trained from scratch have"
        elif config.members not in ("auto", 1):
            found, reason = None, "several networks were asked for, which are trained from scratch"
        else:
            found, reason = _at_hand(config, index, device, seconds)
        if found is None:
            return BackboneChoice(None, None, math.inf, math.inf, {"network": reason} if reason else {})
    elif config.weights is not None:
        asked = None if config.network == "auto" else config.network
        sidecar = None if config.sidecar is None else Path(config.sidecar)
        found = pretrained.from_file(Path(config.weights), sidecar, asked)
        reason = f"given, with the weights {config.weights}"
    elif config.network.startswith(TIMM):
        found, reason = hub.from_hub(config.network), "given"
    else:
        return BackboneChoice(None, None, math.inf, math.inf, {})
    return _sized(found, reason, config, index, device, seconds)


def _check(config: Config) -> None:
    """Options that do not go together are said at once.

    Raises:
        ConfigError: some do not.
    """
    backbone = config.weights is not None or config.network.startswith(TIMM)
    wrong = []
    if config.weights is not None and config.network != "auto" and not config.network.startswith(TIMM):
        wrong.append(f"--weights goes with --network {TIMM}NAME or auto, and not with {config.network}.")
    if config.sidecar is not None and config.weights is None:
        wrong.append("--sidecar says what --weights mean: give both.")
    if backbone and (config.depth != "auto" or "width" in config.given):
        wrong.append("A pretrained backbone has the depth and the width it was trained with: leave them out.")
    if backbone and config.members not in ("auto", 1):
        wrong.append("Several members are for networks trained from scratch: leave members out.")
    if config.refit and config.members not in ("auto", 1):
        wrong.append("Training again on more images is for one network: leave out refit or members.")
    if "transfer" in config.given and not backbone and config.network != "auto":
        wrong.append(f"transfer is for pretrained backbones, and {config.network} is trained from scratch.")
    if (backbone or "transfer" in config.given) and config.imbalance in FROM_SCRATCH_ONLY:
        others = ", ".join(name for name in IMBALANCE if name not in FROM_SCRATCH_ONLY)
        wrong.append(
            f"--imbalance {config.imbalance} is for networks trained from scratch: a pretrained backbone begins with a "
            f"logistic regression, which has no such loss. Choose one of {others}, or --network cnn-m."
        )
    if wrong:
        raise ConfigError("\n".join(wrong))


def _at_hand(config: Config, index: ImageIndex, device: str, seconds: float | None) -> tuple[Pretrained | None, str]:
    """The largest backbone of `CURATED` whose weights are on this machine and for which the time suffices, and why."""
    rows = index.but_test()
    side = int(np.median(np.minimum(index.widths, index.heights)[rows]))
    if side <= LARGER_THAN:
        return None, ""
    shown = _sample(index, rows, LARGER_THAN)
    if not looks_like_photos(shown):
        return None, "the images do not look like colour photographs, so no pretrained backbone was tried"
    here = [candidate for candidate in CURATED if hub.cached(candidate.network)]
    if not here:
        return None, (
            "no pretrained weights are on this machine: ask for some by name, such as --network "
            f"{CURATED[0].network}, or give a file by --weights; for photographs they are usually worth most"
        )
    chosen, precision = here[0], choose_precision(config.precision, device)[0]
    for candidate in here[1:]:
        if seconds is None:
            break
        cfg = hub.from_hub(candidate.network)
        rate = forward_rate(_bare(cfg, device), cfg.image_size, device, precision)
        if len(index) / rate > SHARE_OF_LARGER * seconds:
            break
        chosen = candidate
    figures = f"{chosen.parameters:g} million parameters, {chosen.top1:g} % on ImageNet"
    how = "the largest at hand for which the time suffices" if seconds is not None else "the smallest at hand"
    return hub.from_hub(chosen.network), f"{how}, for photographs: {figures}"


def looks_like_photos(shown: NDArray[np.uint8]) -> bool:
    """Whether most of some images, uint8 (n, 64, 64, 3), are colour photographs, and not drawings, digits or screens.

    Noise and shading give one hundreds of colours among its 4,096 pixels, even on a white ground; grey images have
    256 at most. A grey photograph is not told from a blurred digit: who has such asks for a backbone by name.
    """
    colours = [len(np.unique(image.reshape(-1, 3), axis=0)) for image in shown]
    return bool(np.mean(np.array(colours) >= FEWEST_COLOURS) > 0.5) if colours else False


def _sized(
    found: Pretrained, reason: str, config: Config, index: ImageIndex, device: str, seconds: float | None
) -> BackboneChoice:
    """The size of images for some weights: their own, or a smaller one where the time does not suffice for it."""
    own, whole = found.image_size, "the size that the weights were trained at"
    if found.fixed_size and config.image_size not in ("auto", own):
        raise ConfigError(f"{found.network} takes images of {own} px only. Got image_size {config.image_size} instead.")
    begin = time.perf_counter()
    _sample(index, index.but_test(), own)
    decode = _SAMPLE * (os.cpu_count() or 1) / max(1e-9, time.perf_counter() - begin)
    precision = choose_precision(config.precision, device)[0]
    body = _bare(found, device)
    size, why = (own, whole) if config.image_size == "auto" else (config.image_size, "given")
    rate = forward_rate(body, size, device, precision)
    if config.image_size == "auto" and seconds is not None and not found.fixed_size:
        exact = rate if precision == "fp32" else forward_rate(body, own, device, "fp32")
        speeds = _Speeds(len(index), 1 / rate + _HELD_OUT / exact, 1 / rate, 1 / decode)
        factor = _factor_of_size(speeds, seconds, tuned=config.transfer == "auto")
        if factor < 1:
            size = round(own * factor / 32) * 32
            rate = forward_rate(body, size, device, precision)
            why = f"smaller than the {own} px that the weights were trained at, so that the time suffices"
    reasons = {"network": reason, "image_size": why if why == "given" else f"{why}; {rate:,.0f} images/s to look at"}
    return BackboneChoice(found, size, rate, decode, reasons, precision)


@dataclass(frozen=True)
class _Speeds:
    """Seconds for an image at the weights' own size: to look at it for its features and its figures, and to decode."""

    images: int
    look: float
    forward: float
    decode: float


def _factor_of_size(speeds: _Speeds, seconds: float, *, tuned: bool) -> float:
    """The largest of `STEPS_OF_SIZE` with time to look at all images, and to fine-tune where that pays in the time.

    A network takes its time by the area of an image.
    """
    available = SHARE_OF_LEARNING * seconds

    def looking(step: float) -> float:
        return speeds.images * (speeds.look * step**2 + speeds.decode)

    def epochs(step: float) -> float:
        return (available - looking(step)) / (speeds.images * STEP_COST * speeds.forward * step**2)

    enough = [step for step in STEPS_OF_SIZE if tuned and epochs(step) >= EPOCHS_THAT_PAY]
    fits = [step for step in STEPS_OF_SIZE if looking(step) <= available]
    return max(enough or fits or STEPS_OF_SIZE[-1:])


def _bare(weights: Pretrained, device: str) -> nn.Module:
    """The network of some weights as it looks at images, on its device, but for the weights themselves."""
    spec = NetworkSpec(weights.network, 2, weights.image_size, 0, 1.0, 0.0, weights.arguments)
    body = folded(build(spec).eval(), weights.image_size)
    return body.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def forward_rate(body: nn.Module, image_size: int, device: str, precision: str) -> float:
    """Images a second of the bare forward pass on noise, the median of a third of a second or of three passes."""
    n = min(16, suitable_batch(image_size, torch.device(device)))
    noise = torch.rand(n, 3, image_size, image_size, device=device).to(memory_format=torch.channels_last)
    spent: list[float] = []
    kind = torch.device(device)
    with torch.inference_mode(), exact(kind), torch.autocast(kind.type, torch.bfloat16, enabled=precision == "bf16"):
        body(noise)
        while len(spent) < 3 or sum(spent) < 0.3:
            begin = time.perf_counter()
            body(noise).sum().item()  # which waits for the device
            spent.append(time.perf_counter() - begin)
    return n / float(np.median(spent))


def _sample(index: ImageIndex, among: NDArray[np.int64], image_size: int) -> NDArray[np.uint8]:
    """A few of the images in some rows, evenly spread over them; those that cannot be decoded are left out."""
    rows = among[np.unique(np.linspace(0, len(among) - 1, _SAMPLE).astype(int))]
    if index.arrays is not None:
        return np.stack([images.fit_array(index.arrays[row], image_size) for row in rows])
    contents = [index.read(index.paths[row]) for row in rows]
    decoded = [images.decode(content, image_size) for content in contents if isinstance(content, bytes)]
    kept = [image for image in decoded if not isinstance(image, Refusal)]
    return np.stack(kept) if kept else np.zeros((0, image_size, image_size, 3), np.uint8)
