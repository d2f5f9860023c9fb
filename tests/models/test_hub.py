"""Weights by name: what is in the cache is used, what is not is fetched only when asked for, and pickles never."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled, RemoteEntryNotFoundError
from timm.models import get_pretrained_cfg

from steadylens.errors import ConfigError, ResourceError
from steadylens.models.hub import cached, from_hub
from steadylens.training.backbones import CURATED

NETWORK = "timm:test_efficientnet"
MakeWeights = Callable[..., Path]


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder


def refusing(error: Exception) -> Callable[..., Any]:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise error

    return refuse


def put(hub_cache: Path, content: bytes) -> None:
    repository = hub_cache / "models--timm--test_efficientnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "model.safetensors").write_bytes(content)


def test_what_is_in_the_cache_is_used_without_asking(
    hub_cache: Path, make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refusing(AssertionError("the network was asked")))
    assert not cached(f"{NETWORK}.r160_in1k")
    put(hub_cache, make_weights().read_bytes())
    assert cached(f"{NETWORK}.r160_in1k")
    found = from_hub(NETWORK)
    assert found.network == NETWORK
    assert found.source == "timm/test_efficientnet.r160_in1k"
    assert (found.image_size, found.interpolation) == (160, "bicubic")
    assert found.mean == (0.485, 0.456, 0.406)


def test_a_damaged_file_in_the_cache_is_named(hub_cache: Path) -> None:
    put(hub_cache, b"damaged")
    with pytest.raises(ConfigError, match=r"model\.safetensors in the hub's cache could not be read.*Remove it"):
        from_hub(NETWORK)


@pytest.mark.parametrize(
    "error", [OfflineModeIsEnabled("off"), ConnectionError("no route"), LocalEntryNotFoundError("")]
)
@pytest.mark.usefixtures("hub_cache")
def test_without_a_network_it_says_what_to_do(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refusing(error))
    with pytest.raises(
        ResourceError, match=r"not on this machine and could not be downloaded .*--weights FILE"
    ) as raised:
        from_hub(NETWORK)
    assert raised.value.exit_code == 5


def test_the_curated_names_are_those_that_timm_has() -> None:
    for candidate in CURATED:
        name = candidate.network.removeprefix("timm:")
        account = get_pretrained_cfg(name)
        assert account is not None
        assert account.hf_hub_id == f"timm/{name}"


@pytest.mark.usefixtures("hub_cache")
def test_a_pickle_is_never_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refusing(missing))
    with pytest.raises(ConfigError, match="pickled formats can run code and are refused"):
        from_hub(NETWORK)


@pytest.mark.parametrize("name", ["nosuchnet", "resnet50.nosuchtag", "test_efficientnet.x"])
def test_a_name_without_weights_is_said(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no pretrained weights by the name '{name}'"):
        from_hub(f"timm:{name}")
