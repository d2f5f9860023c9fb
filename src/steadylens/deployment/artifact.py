"""The artifact: one folder with all that turns raw image bytes into calibrated probabilities.

`model.safetensors` holds the weights; `model.json` holds the classes in order, the network, the
preprocessing, the calibration, the scores and the recipe, the SHA-256 of every file, and a
digest of itself. Nothing in it is code, and loading it runs none. The digest finds damage, not
malice: whoever can rewrite the folder can also write a new digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

import steadylens
from steadylens import files
from steadylens.data.images import BACKGROUND, FITS, RESIZE_FILTERS, Preprocessing
from steadylens.errors import ArtifactError, ConfigError
from steadylens.models import NetworkSpec, build

FORMAT = "steadylens"
FORMAT_VERSION = 1
DOCUMENT = "model.json"
WEIGHTS = "model.safetensors"
# Of the steps that `data.images.decode` takes: raised when they give other pixels for the same bytes.
DECODER_VERSION = 1

AGAIN = "Copy the whole folder again from where it was made, or make it again by training."


@dataclass(frozen=True)
class Artifact:
    """What an artifact folder holds, checked and ready to predict.

    Attributes:
        network: in evaluation mode, float32, on the CPU.
        classes: names, in the order of the logits.
        spec: what the network was built from.
        preprocessing: what turns bytes into the network's input.
        temperature: by which logits are divided before the softmax.
        document: the whole of `model.json`.
    """

    network: nn.Module
    classes: tuple[str, ...]
    spec: NetworkSpec
    preprocessing: Preprocessing
    temperature: float
    document: dict[str, Any]


def pack(
    folder: Path,
    network: nn.Module,
    *,
    spec: NetworkSpec,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    temperature: float,
    scores: Mapping[str, Any],
    recipe: Mapping[str, Any],
) -> None:
    """Write the artifact folder, whole or not at all; an older one is replaced only once the new one is complete.

    Args:
        folder: usually RUN/model; its parent must exist.
        network: on any device; its floating-point weights are stored as float32.
        spec: from which `network` was built.
        classes: names, in the order of the logits.
        preprocessing: with which the network was trained.
        temperature: from calibration.
        scores: JSON values that tell how good it is.
        recipe: JSON values that tell how it was made.

    Raises:
        ArtifactError: the weights hold NaN or infinity, or do not fit `spec` and `classes`, or the
            preprocessing is not what the decoder does.
        ValueError: a score or the recipe holds NaN or infinity.
        ResourceError: the folder cannot be written.
    """
    tensors = {name: _to_store(tensor) for name, tensor in network.state_dict().items()}
    _check_classes(folder, classes, spec)
    _check_preprocessing(folder, preprocessing, DECODER_VERSION)
    _check_tensors(folder, tensors, build_quietly(spec).state_dict())
    weights = safetensors.torch.save(tensors)
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "steadylens_version": steadylens.__version__,
        "classes": list(classes),
        "network": asdict(spec),
        "preprocessing": {**asdict(preprocessing), "decoder_version": DECODER_VERSION},
        "calibration": {"temperature": float(temperature)},
        "scores": dict(scores),
        "recipe": dict(recipe),
        "files": {WEIGHTS: {"sha256": files.sha256(weights), "bytes": len(weights)}},
    }
    # The digest is taken from what a reader will see: keys as text, tuples as lists.
    document = json.loads(json.dumps(document, allow_nan=False))
    _write_folder(folder, {WEIGHTS: weights}, {**document, "digest": _digest(document)})


def load(folder: Path) -> Artifact:
    """Read an artifact folder after checking every byte of it.

    Raises:
        ArtifactError: it is missing, damaged, incomplete, of a newer version, or holds what it does not list.
    """
    document = read_document(folder)
    contents = _read_files(folder, document)
    try:
        spec = NetworkSpec(**document["network"])
        stored = dict(document["preprocessing"])
        decoder_version = stored.pop("decoder_version")
        preprocessing = _preprocessing(stored)
        classes = tuple(str(name) for name in document["classes"])
        temperature = float(document["calibration"]["temperature"])
        _check_classes(folder, classes, spec)
        network = build_quietly(spec)
    except (KeyError, TypeError, ValueError, ConfigError, RuntimeError) as error:
        raise ArtifactError(f"{folder / DOCUMENT} does not describe a whole model ({error!r}). {AGAIN}") from error
    _check_preprocessing(folder, preprocessing, decoder_version)
    tensors = _read_tensors(folder, contents[WEIGHTS])
    _check_tensors(folder, tensors, network.state_dict())
    network.load_state_dict(tensors)
    return Artifact(network.eval(), classes, spec, preprocessing, temperature, document)


def read_document(folder: Path) -> dict[str, Any]:
    """The content of `model.json`, checked against its own digest; the other files are not looked at.

    Raises:
        ArtifactError: the folder or the document is missing, damaged, or of a newer format.
    """
    path = folder / DOCUMENT
    if not folder.is_dir():
        raise ArtifactError(f"There is no model folder {folder}. Give a finished run, or its model folder.")
    document = _parse(path, _read(path))
    if document.get("format") != FORMAT:
        raise ArtifactError(f"{path} does not belong to a steadylens model. Give a finished run, or its model folder.")
    version = document.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {version}, and this steadylens ({steadylens.__version__}) reads up to "
            f"{FORMAT_VERSION}. Install a newer steadylens; the model was made with "
            f"{document.get('steadylens_version', 'an unknown version')}."
        )
    unsigned = {key: value for key, value in document.items() if key != "digest"}
    if document.get("digest") != _digest(unsigned):
        raise ArtifactError(f"{path} is damaged or was edited: its digest does not match its content. {AGAIN}")
    return document


def build_quietly(spec: NetworkSpec) -> nn.Module:
    """Build a network whose fresh weights nobody wants, and leave torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        return build(spec)


def _to_store(tensor: Tensor) -> Tensor:
    kept = tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype)
    # A copy in the plain layout: safetensors refuses channels-last tensors and such as share memory.
    return kept.clone(memory_format=torch.contiguous_format)


def _digest(document: Mapping[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return files.sha256(canonical.encode("ascii"))


def _write_folder(folder: Path, contents: Mapping[str, bytes], document: Mapping[str, Any]) -> None:
    new, old = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    if old.exists() and not folder.exists():  # an attempt was killed between its two renames
        files.rename(old, folder)
    try:
        files.remove(new)  # what an interrupted attempt left
        files.make_folder(new)
        for name, content in contents.items():
            files.write_bytes(new / name, content)
        files.write_json(new / DOCUMENT, document)
        _replace(folder, new, old)
    finally:
        files.remove(new)


def _replace(folder: Path, new: Path, old: Path) -> None:
    """Folders cannot be swapped in one step: between the two renames there is no folder, never half of one."""
    files.remove(old)
    try:
        if folder.exists():
            files.rename(folder, old)
        files.rename(new, folder)
    finally:
        if old.exists() and not folder.exists():
            files.rename(old, folder)
        files.remove(old)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing, so the model is incomplete. {AGAIN}") from error
    except OSError as error:
        raise ArtifactError(f"{path} could not be read: {error.strerror}. Check that you may read it.") from error


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: it is not JSON ({error}). {AGAIN}") from error
    if not isinstance(document, dict):
        raise ArtifactError(f"{path} is damaged: it should hold a JSON object. {AGAIN}")
    return document


def _read_files(folder: Path, document: Mapping[str, Any]) -> dict[str, bytes]:
    """The bytes of every file that the document lists; they are read once, so what is checked is what is used."""
    listed = document.get("files")
    if not isinstance(listed, dict) or WEIGHTS not in listed:
        raise ArtifactError(f"{folder / DOCUMENT} does not list {WEIGHTS}, so the model is incomplete. {AGAIN}")
    present = {path.name for path in folder.iterdir()}
    if missing := sorted(listed.keys() - present):
        raise ArtifactError(f"{folder / missing[0]} is missing, so the model is incomplete. {AGAIN}")
    if extra := sorted(present - listed.keys() - {DOCUMENT}):
        raise ArtifactError(
            f"{folder / extra[0]} is not part of the model: {DOCUMENT} does not list it. "
            "Move it out of the folder if you put it there."
        )
    return {name: _read_checked(folder / name, entry) for name, entry in listed.items()}


def _read_checked(path: Path, entry: Any) -> bytes:  # noqa: ANN401 - any JSON value
    size, sha256 = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
    if path.is_file() and path.stat().st_size != size:  # before reading: a wrong file may be huge
        raise ArtifactError(
            f"{path} has {path.stat().st_size} bytes in place of {size}: it is cut off or other. {AGAIN}"
        )
    content = _read(path)
    if files.sha256(content) != sha256:
        raise ArtifactError(f"{path} is damaged: its SHA-256 is not the one in {DOCUMENT}. {AGAIN}")
    return content


def _read_tensors(folder: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(f"{folder / WEIGHTS} is not a safetensors file ({error}). {AGAIN}") from error


def _preprocessing(stored: Mapping[str, Any]) -> Preprocessing:
    tuples: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    return Preprocessing(**tuples)


def _check_classes(folder: Path, classes: Sequence[str], spec: NetworkSpec) -> None:
    if len(classes) != spec.classes:
        raise ArtifactError(
            f"The model in {folder} names {len(classes)} classes, but its network tells {spec.classes} apart. {AGAIN}"
        )


def _check_preprocessing(folder: Path, preprocessing: Preprocessing, decoder_version: object) -> None:
    """This version's decoder gives the pixels that the network was trained on."""
    known = preprocessing.fit in FITS and preprocessing.interpolation in RESIZE_FILTERS
    if not known or preprocessing.background != BACKGROUND or decoder_version != DECODER_VERSION:
        raise ArtifactError(
            f"The model in {folder} wants images prepared in another way (decoder version {decoder_version}, "
            f"fit '{preprocessing.fit}', interpolation '{preprocessing.interpolation}', background "
            f"{preprocessing.background}) than this steadylens "
            f"({steadylens.__version__}, decoder version {DECODER_VERSION}) prepares them. "
            "Install the steadylens with which it was made, or train again."
        )


def _check_tensors(folder: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """The weights have the names, shapes and types that the network has, and every number is finite."""
    if odd := sorted(tensors.keys() ^ expected.keys()):
        where = "lack" if odd[0] in expected else "hold, beyond what the network has,"
        raise ArtifactError(f"The weights of {folder} do not fit its network: they {where} '{odd[0]}'. {AGAIN}")
    for name, tensor in tensors.items():
        want = expected[name]
        if tensor.shape != want.shape or tensor.dtype != want.dtype:
            raise ArtifactError(
                f"The weights of {folder} do not fit its network: '{name}' is {tensor.dtype} {tuple(tensor.shape)} "
                f"in place of {want.dtype} {tuple(want.shape)}. {AGAIN}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(
                f"The weights of {folder} hold NaN or infinity in '{name}', so it cannot predict. "
                "Train again, with a lower learning rate."
            )
