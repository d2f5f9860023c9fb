"""Weights come with all that they mean, fit their network to the last tensor, and are never random."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from steadylens.errors import ConfigError
from steadylens.models import NetworkSpec, build
from steadylens.models.pretrained import Backbone, from_file

MakeWeights = Callable[..., Path]
NETWORK = "timm:test_efficientnet"


def spec(**arguments: Any) -> NetworkSpec:  # noqa: ANN401
    return NetworkSpec(NETWORK, 3, 32, 0, 1.0, 0.0, arguments)


def pooled(network: Any, images: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - timm's methods are not in nn.Module
    features: torch.Tensor = network.forward_head(network.forward_features(images), pre_logits=True)
    return features


def backbone(path: Path) -> Backbone:
    network = build(spec())
    assert isinstance(network, Backbone)
    network.take_in(from_file(path))
    return network.eval()


@pytest.mark.parametrize("half", [False, True])
def test_the_network_sees_what_the_weights_were_made_for(make_weights: MakeWeights, half: bool) -> None:
    path = make_weights(half=half)
    original = timm.create_model("test_efficientnet", num_classes=7)
    tensors = safetensors.torch.load(path.read_bytes())
    original.load_state_dict({key: t.float() if t.is_floating_point() else t for key, t in tensors.items()})
    images = torch.randn(2, 3, 32, 32)
    network = backbone(path)
    with torch.no_grad():
        expected = pooled(original.eval(), images)
        assert torch.equal(network.features(images), expected)
        assert network(images).shape == (2, 3)
    assert {t.dtype for t in network.state_dict().values() if t.is_floating_point()} == {torch.float32}


def test_what_the_sidecar_says_travels_with_the_weights(make_weights: MakeWeights) -> None:
    found = from_file(make_weights(interpolation="bilinear", image_size=48))
    assert (found.network, found.arguments, found.image_size, found.interpolation) == (NETWORK, {}, 48, "bilinear")
    assert (found.mean, found.std) == ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    assert len(found.sha256) == 64
    assert found.source.endswith("backbone.safetensors")


def test_a_sidecar_may_lie_elsewhere(make_weights: MakeWeights, tmp_path: Path) -> None:
    path = make_weights()
    elsewhere = path.with_suffix(".json").rename(tmp_path / "about.json")
    assert from_file(path, elsewhere).image_size == 32
    with pytest.raises(ConfigError, match=r"there is no .*backbone\.json.*--sidecar.*\"pad_type\": \"same\""):
        from_file(path)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"mean": None}, "'mean' must be three numbers"),
        ({"mean": [0.5, 0.5]}, "'mean' must be"),
        ({"mean": [127, 127, 127]}, "'mean' must be"),
        ({"mean": [float("nan")] * 3}, "'mean' must be"),
        ({"std": [0, 0.1, 0.1]}, "'std' must be"),
        ({"std": 0.5, "image_size": 4}, "'std' must be .*; 'image_size' must be"),
        ({"interpolation": "lanczos"}, "'interpolation' must be one of bicubic, bilinear"),
        ({"interpolation": []}, "'interpolation' must be"),
        ({"arguments": [1]}, "'arguments' must be an object"),
        ({"arguments": {"pad_type": [1]}}, "'arguments' must be an object"),
        ({"network": "test_efficientnet"}, "'network' must be"),
        ({"padding": "same"}, "'padding' is not known"),
        ({"network": "timm:nosuchnet"}, "timm has no network 'nosuchnet'"),
        ({"network": "timm:hf-hub:someone/something"}, "timm has no network"),
        ({"arguments": {"pad_typ": "same"}}, "timm cannot build test_efficientnet with the arguments"),
        ({"arguments": {"checkpoint_path": "evil.pth"}}, "'checkpoint_path' is not an argument"),
        ({"arguments": {"pretrained": True}}, "'pretrained' is not an argument"),
        ({"network": "timm:test_resnet"}, r"do not fit their network: it lacks .* and \d+ more; it has, beyond"),
    ],
)
def test_a_sidecar_that_is_wrong_is_refused(make_weights: MakeWeights, said: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        from_file(make_weights(**said))


@pytest.mark.parametrize("key", ["network", "arguments", "mean", "std", "image_size", "interpolation"])
def test_nothing_may_be_left_out_of_a_sidecar(make_weights: MakeWeights, key: str) -> None:
    path = make_weights()
    about = path.with_suffix(".json")
    said = json.loads(about.read_text())
    del said[key]
    about.write_text(json.dumps(said))
    with pytest.raises(ConfigError, match=f"'{key}' must be"):
        from_file(path)


def test_another_network_than_was_asked_for_is_refused(make_weights: MakeWeights) -> None:
    with pytest.raises(ConfigError, match=r"timm:resnet18 was asked for, but .* weights of timm:test_efficientnet"):
        from_file(make_weights(), network="timm:resnet18")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop("conv_stem.weight"), r"it lacks conv_stem\.weight\."),
        (lambda t: t.update({"extra": torch.ones(1)}), "it has, beyond the network's, extra"),
        (
            lambda t: t.update({"conv_stem.weight": torch.ones(1, 2)}),
            r"another shape conv_stem\.weight \(1, 2\) in plac",
        ),
        (lambda t: t["conv_stem.weight"].fill_(float("nan")), "NaN or infinity in 'conv_stem.weight'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    make_weights: MakeWeights, change: Callable[[dict[str, torch.Tensor]], object], complaint: str
) -> None:
    path = make_weights()
    tensors = safetensors.torch.load(path.read_bytes())
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors))
    with pytest.raises(ConfigError, match=complaint):
        from_file(path)


def test_a_damaged_or_pickled_or_missing_file_is_refused(make_weights: MakeWeights, tmp_path: Path) -> None:
    path = make_weights()
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ConfigError, match="not a whole safetensors file"):
        from_file(path)
    path.unlink()
    with pytest.raises(ConfigError, match="could not be read: No such file"):
        from_file(path)
    with pytest.raises(ConfigError, match="can run code and are refused"):
        from_file(tmp_path / "weights.pth")


def test_training_leaves_the_statistics_of_pretraining(make_weights: MakeWeights) -> None:
    network = backbone(make_weights())
    before = {name: t.clone() for name, t in network.named_buffers()}
    network.train()
    network(torch.randn(4, 3, 32, 32))
    assert network.dropout.training
    assert before
    assert all(torch.equal(t, before[name]) for name, t in network.named_buffers())


def test_stages_hold_every_parameter_once_and_begin_with_the_stem(make_weights: MakeWeights) -> None:
    network = backbone(make_weights())
    stages = network.stages()
    assert len(stages) > 3
    assert sorted(id(p) for stage in stages for p in stage) == sorted(id(p) for p in network.body.parameters())
    names = {id(p): name for name, p in network.body.named_parameters()}
    assert names[id(stages[0][0])] == "conv_stem.weight"


def shared_weights() -> Path | None:
    """The real weights, in a folder `shared` beside the repository or where STEADYLENS_SHARED says."""
    given = os.environ.get("STEADYLENS_SHARED")
    folders = [Path(given)] if given else [parent / "shared" for parent in Path(__file__).resolve().parents]
    found = [folder / "weights" / "mobilenetv2_100.tf2_in1k.fp16.safetensors" for folder in folders]
    return next((path for path in found if path.is_file()), None)


def test_real_weights_see_photographs_as_their_own_preparation_wants_them(tmp_path: Path) -> None:
    path = shared_weights()
    if path is None:
        pytest.skip("the shared weights are not on this machine")
    about = tmp_path / "about.json"
    said = {"network": "timm:mobilenetv2_100", "mean": [0.5] * 3, "std": [0.5] * 3, "image_size": 224}
    about.write_text(json.dumps({**said, "arguments": {"pad_type": "same"}, "interpolation": "bicubic"}))
    found = from_file(path, about)
    original = timm.create_model("mobilenetv2_100", pad_type="same").eval()
    original.load_state_dict({key: t.float() for key, t in safetensors.torch.load(path.read_bytes()).items()})
    network = Backbone("mobilenetv2_100", 3, 0.0, found.arguments).eval()
    network.take_in(found)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = pooled(original, images)
        assert torch.equal(network.features(images), expected)
