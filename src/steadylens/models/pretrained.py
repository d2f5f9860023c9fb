"""Backbones from timm: their weights from a local file or the hub's cache, never at random, never from a pickle.

Weights mean something only together with the build arguments of their network and with the preparation of images that
they saw: a wrong padding or a wrong mean costs ten points of accuracy and raises no error. So the two never part:
`Pretrained` holds all of it, and where it is not known the weights are refused.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from steadylens import files
from steadylens.config import TIMM
from steadylens.data.images import RESIZE_FILTERS
from steadylens.errors import ConfigError

Argument = str | int | float | bool | None
# Arguments of timm.create_model that are ours to give, or that would fetch or unpickle something.
_RESERVED = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "num_classes"),
    *("in_chans", "features_only", "out_indices", "scriptable", "exportable", "no_jit", "model_name"),
}
_SIDECAR_EXAMPLE = (
    '{"network": "timm:mobilenetv2_100", "arguments": {"pad_type": "same"}, "mean": [0.5, 0.5, 0.5], '
    '"std": [0.5, 0.5, 0.5], "image_size": 224, "interpolation": "bicubic"}'
)


@dataclass(frozen=True)
class Pretrained:
    """The weights of a backbone, with all that they mean.

    Attributes:
        network: "timm:NAME".
        arguments: with which timm builds it.
        mean: per channel, of pixels / 255.
        std: per channel, of pixels / 255.
        image_size: side of the images that it was trained on, in pixels.
        fixed_size: whether it takes no other.
        interpolation: the filter by which its images were resized.
        tensors: float32, of the backbone alone, by name.
        source: where they came from, for a person.
        sha256: of the file that they came from.
    """

    network: str
    arguments: dict[str, Argument]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int
    fixed_size: bool
    interpolation: str
    tensors: dict[str, Tensor]
    source: str
    sha256: str


class Backbone(nn.Module):
    """A network of timm without its last layer, and a linear layer on its pooled features.

    The statistics of its batch norms stay those of pretraining, in training too: a few images a batch give worse ones.
    """

    def __init__(self, name: str, classes: int, dropout: float, arguments: Mapping[str, Argument]) -> None:
        super().__init__()
        self.body = _create(name, arguments)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(_width(self.body), classes)

    def features(self, images: Tensor) -> Tensor:
        """(n, 3, side, side) to what the last layer sees, (n, width)."""
        pooled: Tensor = self.body(images)
        return pooled

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, side, side) to logits (n, classes)."""
        logits: Tensor = self.head(self.dropout(self.features(images)))
        return logits

    def train(self, mode: bool = True) -> Self:
        """Set training mode, of everything but the batch norms' statistics."""
        super().train(mode)
        for module in self.body.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def stages(self) -> list[list[nn.Parameter]]:
        """The parameters of the body in the order in which an image passes them, from the stem to the last stage."""
        from timm.models import group_parameters  # noqa: PLC0415 - as in `_create`

        matcher = self.body.group_matcher(coarse=True)  # type: ignore[operator]
        stage_of: dict[str, int] = group_parameters(self.body, matcher, reverse=True)
        stages: list[list[nn.Parameter]] = [[] for _ in range(1 + max(stage_of.values()))]
        for name, parameter in self.body.named_parameters():
            stages[stage_of[name]].append(parameter)
        return [stage for stage in stages if stage]

    @torch.no_grad()
    def take_in(self, pretrained: Pretrained) -> None:
        """Give the body the pretrained weights; the last layer is left as it is."""
        self.body.load_state_dict(pretrained.tensors)


def from_file(path: Path, sidecar: Path | None = None, network: str | None = None) -> Pretrained:
    """Weights from a safetensors file, and their meaning from the JSON file beside it.

    Args:
        path: FILE.safetensors, with the names that timm gives its tensors; half precision becomes float32.
        sidecar: the JSON file; None is FILE.json.
        network: what was asked for, where it was.

    Raises:
        ConfigError: one of the two files cannot be read, does not say enough, or does not fit the network.
    """
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"{path} is not a .safetensors file. Weights in pickled formats can run code and are refused."
        )
    about = sidecar or path.with_suffix(".json")
    said = _read_sidecar(about, path)
    name, arguments = str(said["network"]), dict(said["arguments"])
    if network is not None and network != name:
        raise ConfigError(f"{network} was asked for, but {about} says that {path} holds weights of {name}.")
    body = _create(name.removeprefix(TIMM), arguments)
    try:
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
    except OSError as error:
        raise ConfigError(f"The weights {path} could not be read: {error.strerror or error}.") from error
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(f"{path} is not a whole safetensors file ({error}). Get it again.") from error
    return Pretrained(
        network=name,
        arguments=arguments,
        mean=_triple(said["mean"]),
        std=_triple(said["std"]),
        image_size=int(said["image_size"]),
        fixed_size=bool(_account(body).get("fixed_input_size")),
        interpolation=str(said["interpolation"]),
        tensors=_fitting(tensors, body, path),
        source=str(path),
        sha256=files.sha256(content),
    )


def described_by(network: str, cfg: Mapping[str, Any], path: Path) -> Pretrained:
    """Weights that timm itself knows, from a file of the hub's cache; `cfg` is timm's own account of them.

    Raises:
        ConfigError: the file is damaged or does not fit the network.
    """
    body = _create(network.removeprefix(TIMM), {})
    try:
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(
            f"{path} in the hub's cache could not be read ({error}). Remove it, and try again."
        ) from error
    interpolation = str(cfg.get("interpolation", "bicubic"))
    return Pretrained(
        network=network,
        arguments={},
        mean=_triple(cfg["mean"]),
        std=_triple(cfg["std"]),
        image_size=int(cfg["input_size"][-1]),
        fixed_size=bool(cfg.get("fixed_input_size")),
        interpolation=interpolation if interpolation in RESIZE_FILTERS else "bicubic",
        tensors=_fitting(tensors, body, path),
        source=str(cfg["hf_hub_id"]),
        sha256=files.sha256(content),
    )


def _create(name: str, arguments: Mapping[str, Argument]) -> nn.Module:
    """A network of timm without its last layer, with random weights and from nowhere else.

    Raises:
        ConfigError: timm has no such network, or does not take these arguments.
    """
    import timm  # noqa: PLC0415 - it takes two seconds to import, which a network from scratch need not wait for

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):  # so no name leads to a hub or to a folder
        near = difflib.get_close_matches(architecture, timm.list_models(), 3)
        hint = f" Similar ones: {', '.join(near)}." if near else ""
        raise ConfigError(f"timm has no network '{name}'.{hint}")
    odd = [key for key, value in arguments.items() if not isinstance(value, Argument) or key in _RESERVED]
    if odd:
        raise ConfigError(f"'{odd[0]}' is not an argument that the network {TIMM}{name} may be built with.")
    try:
        given: dict[str, Any] = dict(arguments)
        network: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0, **given)
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError, AttributeError) as error:
        raise ConfigError(f"timm cannot build {name} with the arguments {json.dumps(given)}: {error}.") from error
    return network


def _account(body: nn.Module) -> dict[str, Any]:
    """What timm knows of an architecture: the names of its last layers, the size it is for."""
    account: dict[str, Any] = body.pretrained_cfg  # type: ignore[assignment]
    return account


def _width(body: nn.Module) -> int:
    """How many pooled features there are: not `num_features` where a wider layer follows the pooling."""
    width = getattr(body, "head_hidden_size", None) or body.num_features
    return int(width)  # type: ignore[arg-type]


def _fitting(tensors: Mapping[str, Tensor], body: nn.Module, path: Path) -> dict[str, Tensor]:
    """The body's tensors in float32.

    Raises:
        ConfigError: one is missing, unexpected, of another shape, or holds NaN.
    """
    heads = _account(body).get("classifier") or ()
    prefixes = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    expected = body.state_dict()
    # Counts of batches are no weights; some files leave them out, and nothing depends on them in evaluation.
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    given = {name: tensor for name, tensor in tensors.items() if not (prefixes and name.startswith(prefixes))}
    missing = sorted(expected.keys() - given.keys() - optional)
    unexpected = sorted(given.keys() - expected.keys())
    misshapen = [
        f"{name} {tuple(given[name].shape)} in place of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & given.keys())
        if given[name].shape != expected[name].shape
    ]
    kinds = (("lacks", missing), ("has, beyond the network's,", unexpected), ("has in another shape", misshapen))
    wrong = [f"it {what} {', '.join(names[:3])}{_more(names)}" for what, names in kinds if names]
    if wrong:
        raise ConfigError(
            f"The weights {path} do not fit their network: {'; '.join(wrong)}. "
            "Check the name of the network and its arguments."
        )
    fitting = {name: given.get(name, expected[name]) for name in expected}
    full = {name: t.float() if t.is_floating_point() else t for name, t in fitting.items()}
    if unfit := [name for name, t in full.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]:
        raise ConfigError(f"The weights {path} hold NaN or infinity in '{unfit[0]}'. Get the file again.")
    return full


def _more(names: list[str]) -> str:
    return f" and {len(names) - 3} more" if len(names) > 3 else ""


def _read_sidecar(about: Path, weights: Path) -> dict[str, Any]:
    """What the JSON file says of the weights, checked.

    Raises:
        ConfigError: it is not there, or not JSON, or leaves something out; all that is wrong is said.
    """
    try:
        said = json.loads(about.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"What the weights {weights} mean is not known: there is no {about}. Without the mean, the standard "
            "deviation and the arguments that their network was trained with they would silently be worth less. "
            f"Write them into that file, or name another with --sidecar; for example: {_SIDECAR_EXAMPLE}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{about} could not be read as JSON: {error}.") from error
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "network": (lambda v: isinstance(v, str) and v.startswith(TIMM), f'a text such as "{TIMM}resnet50"'),
        "arguments": (
            lambda v: isinstance(v, dict) and all(isinstance(a, Argument) for a in v.values()),
            'an object such as {"pad_type": "same"}; {} where the network is built without arguments',
        ),
        "mean": (lambda v: _is_triple(v, 0.0), "three numbers from 0 to 1, of pixels / 255"),
        "std": (lambda v: _is_triple(v, 1e-3), "three numbers above 0 and up to 1, of pixels / 255"),
        "image_size": (lambda v: type(v) is int and 8 <= v <= 1024, "a whole number of pixels, 8 to 1024"),
        "interpolation": (lambda v: isinstance(v, str) and v in RESIZE_FILTERS, f"one of {', '.join(RESIZE_FILTERS)}"),
    }
    if not isinstance(said, dict):
        raise ConfigError(f"{about} must hold a JSON object; for example: {_SIDECAR_EXAMPLE}")
    wrong = [f"'{key}' must be {what}" for key, (rule, what) in rules.items() if not rule(said.get(key, ...))]
    wrong += [f"'{key}' is not known" for key in said if key not in rules]
    if wrong:
        raise ConfigError(f"{about} does not say what the weights mean: {'; '.join(wrong)}.")
    return said


def _is_triple(value: object, lowest: float) -> bool:
    numbers = isinstance(value, list) and len(value) == 3 and all(type(v) in (int, float) for v in value)
    return numbers and all(math.isfinite(v) and lowest <= v <= 1 for v in value)  # type: ignore[attr-defined]


def _triple(values: Any) -> tuple[float, float, float]:  # noqa: ANN401 - three numbers, checked before
    red, green, blue = (float(v) for v in values)
    return red, green, blue
