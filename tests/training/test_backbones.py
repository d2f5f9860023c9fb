"""A backbone is used where it was asked for, or is at hand and worth it; nothing else is fetched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_sample_images

from steadylens.config import Config, parse
from steadylens.data.images import Preprocessing, fit_array
from steadylens.data.sources import ImageIndex, index_arrays
from steadylens.errors import ConfigError, ResourceError
from steadylens.models import hub
from steadylens.models.pretrained import Pretrained, from_file
from steadylens.training import backbones
from steadylens.training.backbones import CURATED, BackboneChoice, choose_backbone, looks_like_photos

MakeWeights = Callable[..., Path]


def photos(side: int, number: int = 12) -> NDArray[np.uint8]:
    """Parts of two real photographs."""
    rng, whole = np.random.default_rng(0), load_sample_images().images
    parts = []
    for i in range(number):
        top, left = rng.integers(0, 427 - 200), rng.integers(0, 640 - 200)
        parts.append(fit_array(whole[i % 2][top : top + 200, left : left + 200], side))
    return np.stack(parts)


def digits(side: int) -> NDArray[np.uint8]:
    grey = (load_digits().images[:12] * 15).astype(np.uint8)
    return np.stack([fit_array(image, side) for image in grey])


def index_of(pixels: NDArray[np.uint8]) -> ImageIndex:
    return index_arrays(pixels, ["bolt", "nut"] * (len(pixels) // 2))


def choose(options: dict[str, Any], pixels: NDArray[np.uint8], seconds: float | None = None) -> BackboneChoice:
    return choose_backbone(parse(options), index_of(pixels), "cpu", seconds=seconds)


def test_photographs_are_told_from_drawings() -> None:
    assert looks_like_photos(photos(64))
    assert not looks_like_photos(digits(64))
    assert not looks_like_photos(np.zeros((0, 64, 64, 3), np.uint8))
    on_white = np.full((12, 64, 64, 3), 255, np.uint8)
    on_white[:, 16:48, 16:48] = photos(32)
    assert looks_like_photos(on_white)
    assert not looks_like_photos(np.repeat(photos(64)[..., :1], 3, axis=3)), "grey ones are asked for by name"


@pytest.fixture
def at_hand(make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch) -> Callable[[set[str]], None]:
    """Puts weights of some of the curated backbones on this machine, all of them the tiny one's."""
    tiny = from_file(make_weights())

    def found(network: str) -> Pretrained:
        return Pretrained(**{**{f: getattr(tiny, f) for f in tiny.__dataclass_fields__}, "source": network})

    def put(networks: set[str]) -> None:
        monkeypatch.setattr(hub, "cached", networks.__contains__)
        monkeypatch.setattr(hub, "from_hub", found)

    return put


def test_auto_takes_the_largest_at_hand_for_which_the_time_suffices(
    at_hand: Callable[[set[str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_hand({CURATED[0].network, CURATED[2].network})
    plenty = choose({}, photos(80), seconds=1e6)
    assert plenty.pretrained is not None
    assert plenty.pretrained.source == CURATED[2].network
    assert f"{CURATED[2].top1:g} % on ImageNet" in plenty.why["network"]
    monkeypatch.setattr(backbones, "forward_rate", lambda *_: 1.0)
    scarce = choose({}, photos(80), seconds=50.0)
    assert scarce.pretrained is not None
    assert scarce.pretrained.source == CURATED[0].network
    without_clock = choose({"epochs": 1}, photos(80))
    assert without_clock.pretrained is not None
    assert without_clock.pretrained.source == CURATED[0].network


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [(photos(80), "no pretrained weights are on this machine"), (digits(80), "do not look like colour photographs")],
    ids=["photos", "digits"],
)
def test_auto_goes_on_from_scratch_and_says_why(
    at_hand: Callable[[set[str]], None], pixels: NDArray[np.uint8], reason: str
) -> None:
    at_hand(set())
    choice = choose({}, pixels)
    assert choice.pretrained is None
    assert reason in choice.why["network"]


def test_a_given_test_split_has_no_say(at_hand: Callable[[set[str]], None]) -> None:
    at_hand({CURATED[0].network})
    mixed = index_of(np.concatenate([photos(80, 4), digits(80)]))
    for ours, others, found in (("train", "test", True), ("test", "train", False)):
        index = replace(mixed, splits=(ours,) * 4 + (others,) * 12)
        assert (choose_backbone(parse({}), index, "cpu", seconds=None).pretrained is not None) is found


def test_small_images_are_learned_from_scratch_without_a_word(at_hand: Callable[[set[str]], None]) -> None:
    at_hand({CURATED[0].network})
    choice = choose({}, photos(64))
    assert (choice.pretrained, choice.why) == (None, {})


@pytest.mark.parametrize("remedy", ["focal", "ldam-drw"])
def test_a_remedy_for_networks_from_scratch_gets_one(at_hand: Callable[[set[str]], None], remedy: str) -> None:
    at_hand({CURATED[0].network})
    choice = choose({"imbalance": remedy}, photos(80))
    assert (choice.pretrained, choice.why) == (None, {"network": f"{remedy} is for networks trained from scratch"})
    assert choose({"imbalance": "effective-number"}, photos(80)).pretrained is not None


def test_weights_that_were_given_are_used_whatever_the_images(make_weights: MakeWeights) -> None:
    path = make_weights()
    choice = choose({"weights": path}, digits(12))
    assert choice.pretrained is not None
    assert choice.pretrained.source == str(path)
    assert choice.image_size == 32
    assert str(path) in choice.why["network"]
    frame = choice.frame("auto", 999)
    assert frame == Preprocessing(32, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "squash")
    assert choice.frame("pad", 999).fit == "pad"


def test_images_are_made_smaller_only_where_the_time_does_not_suffice(
    make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_weights(image_size=224)
    monkeypatch.setattr(backbones, "forward_rate", lambda _body, size, *_: 1.2 * (224 / size) ** 2)
    index = photos(80)
    tuned = [choose({"weights": path}, index, seconds=share * len(index)).image_size for share in (10, 7, 5, 3)]
    probed = [choose({"weights": path}, index, seconds=share * len(index)).image_size for share in (2, 1.2, 0.8, 1e-3)]
    assert tuned == [224, 192, 160, 128], "until four epochs of fine-tuning fit"
    assert probed == [224, 192, 160, 128], "no size has time for those, and the probe gets the largest that it can"
    probe = choose({"weights": path, "transfer": "probe"}, index, seconds=3 * len(index))
    assert probe.image_size == 224
    choice = choose({"weights": path}, photos(80), seconds=1)
    assert "smaller than the 224 px" in choice.why["image_size"]
    given = choose({"weights": path, "image_size": 100}, photos(80), seconds=1e-3)
    assert (given.image_size, given.why["image_size"]) == (100, "given")
    assert choose({"weights": path}, photos(80)).image_size == 224


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"weights": "w.safetensors", "network": "cnn-s"}, "--weights goes with --network timm:NAME or auto"),
        ({"sidecar": "w.json"}, "--sidecar says what --weights mean"),
        ({"weights": "w.safetensors", "depth": 2}, "has the depth and the width it was trained with"),
        ({"network": "timm:test_efficientnet", "width": 1}, "has the depth and the width it was trained with"),
        ({"weights": "w.safetensors", "members": 2}, "Several members are for networks trained from scratch"),
        ({"network": "timm:test_efficientnet", "members": 2}, "Several members are for networks trained from scratch"),
        ({"network": "cnn-s", "members": 2, "refit": True}, "leave out refit or members"),
        ({"network": "cnn-s", "transfer": "probe"}, "cnn-s is trained from scratch"),
        (
            {"network": "timm:test_efficientnet", "imbalance": "ldam-drw"},
            "ldam-drw is for networks trained from scratch",
        ),
        ({"weights": "w.safetensors", "imbalance": "focal"}, "focal is for networks trained from scratch"),
        ({"transfer": "probe", "imbalance": "focal"}, "focal is for networks trained from scratch"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        choose(options, photos(12))


def test_a_network_of_one_size_takes_no_other(make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = from_file(make_weights())
    object.__setattr__(fixed, "fixed_size", True)
    monkeypatch.setattr("steadylens.models.pretrained.from_file", lambda *_: fixed)
    with pytest.raises(ConfigError, match=r"takes images of 32 px only\. Got image_size 40"):
        choose({"weights": "w.safetensors", "image_size": 40}, photos(12))
    assert choose({"weights": "w.safetensors"}, photos(12), seconds=1e-9).image_size == 32


def test_what_is_asked_for_by_name_and_cannot_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(network: str) -> Pretrained:
        raise ResourceError(f"{network} cannot be had")

    monkeypatch.setattr(hub, "from_hub", nothing)
    with pytest.raises(ResourceError, match="timm:resnet50 cannot be had"):
        choose({"network": "timm:resnet50"}, photos(12))


def test_a_network_from_scratch_needs_no_backbone() -> None:
    for name in ("cnn-s", "keras-blog"):
        choice = choose_backbone(Config(network=name), index_of(photos(80)), "cpu", seconds=1.0)
        assert (choice.pretrained, choice.why) == (None, {})
        assert choice.frame("auto", 48).image_size == 48
