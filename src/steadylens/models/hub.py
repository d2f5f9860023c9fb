"""Pretrained weights by name: what the hub's cache on this machine holds, and a download where it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steadylens.config import TIMM
from steadylens.errors import ConfigError, ResourceError
from steadylens.models.pretrained import Pretrained, described_by

FILE = "model.safetensors"  # what timm calls the weights in each of its repositories; the pickled copies beside it
_TIMEOUT_S = 5.0  # to be told of one file; without a network this is over at once


def cached(network: str) -> bool:
    """Whether the weights of "timm:NAME.TAG" are on this machine; nothing is fetched, and timm is not asked."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - seldom needed, and slow to import

    return isinstance(try_to_load_from_cache(f"timm/{network.removeprefix(TIMM)}", FILE), str)


def from_hub(network: str) -> Pretrained:
    """The weights that timm names for "timm:NAME", from the hub's cache, or downloaded into it.

    Raises:
        ConfigError: timm has no such network or no weights for it, or they exist as a pickle only.
        ResourceError: they are not on this machine and cannot be downloaded.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache  # noqa: PLC0415
    from huggingface_hub.errors import RemoteEntryNotFoundError  # noqa: PLC0415

    cfg = _account(network)
    repository = cfg["hf_hub_id"]
    found = try_to_load_from_cache(repository, FILE)
    if isinstance(found, str):
        return described_by(network, cfg, Path(found))
    try:
        # Asked for by itself first: the download alone would try again for half a minute where there is no network.
        get_hf_file_metadata(hf_hub_url(repository, FILE), timeout=_TIMEOUT_S)
        path = hf_hub_download(repository, FILE, etag_timeout=_TIMEOUT_S)
    except RemoteEntryNotFoundError as error:
        raise ConfigError(
            f"The hub has no {FILE} for {network}, and weights in pickled formats can run code and are refused. "
            "Choose another network, or convert them and give --weights FILE.safetensors."
        ) from error
    except Exception as error:  # the hub's client raises what its HTTP library raises, and more
        raise ResourceError(
            f"The pretrained weights of {network} are not on this machine and could not be downloaded "
            f"({type(error).__name__}): connect to the network and run the same command again, or give a file by "
            "--weights FILE.safetensors, or train from scratch by --network cnn-s."
        ) from error
    return described_by(network, cfg, Path(path))


def _account(network: str) -> dict[str, Any]:
    """What timm knows of the weights of a name: where they are, and what images they want.

    Raises:
        ConfigError: there are none.
    """
    from timm.models import get_pretrained_cfg, is_model  # noqa: PLC0415 - as in `pretrained`

    name = network.removeprefix(TIMM)
    try:
        cfg = get_pretrained_cfg(name) if is_model(name.split(".")[0]) else None
    except RuntimeError:  # the network is there, and the tag after the dot is not
        cfg = None
    account: dict[str, Any] = {} if cfg is None else cfg.to_dict()  # type: ignore[no-untyped-call]
    if not account.get("hf_hub_id"):
        raise ConfigError(
            f"timm knows no pretrained weights by the name '{name}'. `timm.list_pretrained()` in Python lists those "
            "that there are; or give a file by --weights FILE.safetensors."
        )
    return account
