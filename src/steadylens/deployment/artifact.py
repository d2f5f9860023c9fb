"""The artifact: one folder with all that turns raw image bytes into calibrated probabilities.

`model.safetensors` holds the weights; `model.json` holds the classes in order, the network, the
preprocessing, the calibration, the scores and the recipe, the SHA-256 of every file, and a
digest of itself. Nothing in it is code, and loading it runs none. The digest finds damage, not
malice: whoever can rewrite the folder can also write a new digest.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

import steadylens
from steadylens import files
from steadylens.data.images import BACKGROUND, FITS, RESIZE_FILTERS, Preprocessing
from steadylens.deployment import weights
from steadylens.errors import ArtifactError, ConfigError
from steadylens.models import NetworkSpec, build

FORMAT = "steadylens"
FORMAT_VERSION = 1
DOCUMENT = "model.json"
WEIGHTS = "model.safetensors"
# Of the steps that `data.images.decode` takes: raised when they give other pixels for the same bytes.
DECODER_VERSION = 1
# Far above what any training makes, and low enough for memory: of the document's bytes, of a network, of its images.
LARGEST_DOCUMENT = 2**26
DEEPEST, WIDEST, LARGEST_ENSEMBLE, LARGEST_IMAGE, LARGEST_ARGUMENT = 1000, 1000.0, 100, 16384, 16384

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
    _check_numbers(folder, spec, preprocessing, temperature)
    _check_preprocessing(folder, preprocessing, DECODER_VERSION)
    expected = build_quietly(spec).state_dict()
    weights.check_names(tensors, expected, str(folder), AGAIN)
    content = safetensors.torch.save(tensors)
    weights.read(content, expected, str(folder), AGAIN)
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
        "files": {WEIGHTS: {"sha256": files.sha256(content), "bytes": len(content)}},
    }
    # The digest is taken from what a reader will see: keys as text, tuples as lists.
    document = json.loads(json.dumps(document, allow_nan=False))
    _write_folder(folder, {WEIGHTS: content}, {**document, "digest": _digest(document)})


def load(folder: Path) -> Artifact:
    """Read an artifact folder after checking every byte of it.

    Raises:
        ArtifactError: it is missing, damaged, incomplete, of a newer version, or holds what it does not list.
    """
    document = read_document(folder)
    listed = _listed(folder, document)
    try:
        spec = NetworkSpec(**document["network"])
        stored = dict(document["preprocessing"])
        decoder_version = stored.pop("decoder_version")
        preprocessing = _preprocessing(stored)
        classes = tuple(_list(document["classes"]))
        temperature = document["calibration"]["temperature"]
        _check_classes(folder, classes, spec)
        _check_numbers(folder, spec, preprocessing, temperature)
        with torch.device("meta"):  # names and shapes alone, without the memory
            expected = build_quietly(spec).state_dict()
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, ConfigError, RuntimeError) as error:
        raise ArtifactError(f"{folder / DOCUMENT} does not describe a whole model ({error!r}). {AGAIN}") from error
    _check_preprocessing(folder, preprocessing, decoder_version)
    _check_size(folder / WEIGHTS, listed[WEIGHTS], weights.largest_file(expected))
    contents = {name: _read_checked(folder / name, entry) for name, entry in listed.items()}
    tensors = weights.read(contents[WEIGHTS], expected, str(folder / WEIGHTS), AGAIN)
    network = build_quietly(spec)
    network.load_state_dict(tensors)
    return Artifact(network.eval(), classes, spec, preprocessing, float(temperature), document)


def read_document(folder: Path) -> dict[str, Any]:
    """The content of `model.json`, checked against its own digest; the other files are not looked at.

    Raises:
        ArtifactError: the folder or the document is missing, damaged, or of a newer format.
    """
    path = folder / DOCUMENT
    if not folder.is_dir():
        raise ArtifactError(f"There is no model folder {folder}. Give a finished run, or its model folder.")
    document = _parse(path, _read(path, LARGEST_DOCUMENT))
    if document.get("format") != FORMAT:
        raise ArtifactError(f"{path} does not belong to a steadylens model. Give a finished run, or its model folder.")
    version = document.get("format_version")
    if isinstance(version, int | float) and version > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {version}, and this steadylens ({steadylens.__version__}) reads up to "
            f"{FORMAT_VERSION}. Install a newer steadylens; the model was made with "
            f"{document.get('steadylens_version', 'an unknown version')}."
        )
    unsigned = {key: value for key, value in document.items() if key != "digest"}
    if type(version) is not int or version != FORMAT_VERSION or document.get("digest") != _digest(unsigned):
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
    for place in (folder, new, old):
        _require_replaceable(place)
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


def _require_replaceable(folder: Path) -> None:
    """Raise a ConfigError where a folder that would be replaced holds anything but a model, whole or in part."""
    if not folder.exists():
        return
    known = {WEIGHTS, DOCUMENT, "model.onnx"}
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    foreign = sorted(name for name in names if name not in known and not name.startswith(".model"))
    if foreign or not folder.is_dir():
        what = f"holds {foreign[0]!r}, which is no part of a model" if foreign else "is a file"
        raise ConfigError(f"{folder} {what}, and a model takes the place of what is there. Name another folder.")


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


def _read(path: Path, largest: int) -> bytes:
    """A file's bytes; it must lie in the folder itself, and be a file, and not be larger than this."""
    try:
        with open(path, "rb", opener=_open_itself) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ArtifactError(f"{path} is not a file, so the model is damaged. {AGAIN}")
            if status.st_size > largest:
                raise ArtifactError(f"{path} has {status.st_size} bytes, and {largest} would be much. {AGAIN}")
            return file.read()
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing, so the model is incomplete. {AGAIN}") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ArtifactError(
                f"{path} is a link, which a model must not hold. Copy the file itself there."
            ) from error
        raise ArtifactError(f"{path} could not be read: {error.strerror}. Check that you may read it.") from error


def _open_itself(path: str, flags: int) -> int:
    """Open what has this name, not what it links to, and never wait on a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: it is not JSON ({error}). {AGAIN}") from error
    if not isinstance(document, dict):
        raise ArtifactError(f"{path} is damaged: it should hold a JSON object. {AGAIN}")
    return document


def _listed(folder: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """What the document says of each file that is to be there; the folder holds these, itself, and no others."""
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
    return listed


def _check_size(path: Path, entry: Any, largest: int) -> None:  # noqa: ANN401 - any JSON value
    """The weights cannot be larger than the network is, whatever the document says of them."""
    size = entry.get("bytes") if isinstance(entry, dict) else None
    if type(size) is not int or not 0 <= size <= largest:
        raise ArtifactError(
            f"{path.with_name(DOCUMENT)} lists {path.name} with {size} bytes, which do not fit its network. {AGAIN}"
        )


def _read_checked(path: Path, entry: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """The bytes of a file that is as the document says; they are read once, so what is checked is what is used."""
    size, sha256 = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
    if (
        path.is_file() and not path.is_symlink() and path.stat().st_size != size
    ):  # before reading: a wrong file may be huge
        raise ArtifactError(
            f"{path} has {path.stat().st_size} bytes in place of {size}: it is cut off or other. {AGAIN}"
        )
    content = _read(path, size if type(size) is int else 0)
    if files.sha256(content) != sha256:
        raise ArtifactError(f"{path} is damaged: its SHA-256 is not the one in {DOCUMENT}. {AGAIN}")
    return content


def _list(value: Any) -> list[Any]:  # noqa: ANN401 - any JSON value
    if not isinstance(value, list):
        raise TypeError(f"a list was expected in place of {type(value).__name__}")
    return value


def _preprocessing(stored: Mapping[str, Any]) -> Preprocessing:
    tuples: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    return Preprocessing(**tuples)


def _check_classes(folder: Path, classes: Sequence[str], spec: NetworkSpec) -> None:
    if len(classes) != spec.classes:
        raise ArtifactError(
            f"The model in {folder} names {len(classes)} classes, but its network tells {spec.classes} apart. {AGAIN}"
        )
    if not all(isinstance(name, str) for name in classes) or len(set(classes)) != len(classes):
        raise ArtifactError(f"The model in {folder} has classes that are no names, or a name twice. {AGAIN}")


def _check_numbers(folder: Path, spec: NetworkSpec, preprocessing: Preprocessing, temperature: float) -> None:
    """Every number is one that can be calculated with, and none asks for more than a training ever would."""
    mean, std = preprocessing.mean, preprocessing.std
    wrong = [
        name
        for name, fine in (
            ("network name", isinstance(spec.name, str)),
            ("network argument", all(map(_is_argument, spec.arguments.values()))),
            ("depth", type(spec.depth) is int and 0 <= spec.depth <= DEEPEST),
            ("width", _is_number(spec.width) and 0 < spec.width <= WIDEST),
            ("members", type(spec.members) is int and 1 <= spec.members <= LARGEST_ENSEMBLE),
            ("image_size", type(spec.image_size) is int and 1 <= spec.image_size <= LARGEST_IMAGE),
            ("preprocessing's image_size", preprocessing.image_size == spec.image_size),
            ("mean", len(mean) == 3 and all(map(_is_number, mean))),
            ("std", len(std) == 3 and all(_is_number(value) and value > 0 for value in std)),
            ("temperature", _is_number(temperature) and temperature > 0),
        )
        if not fine
    ]
    if wrong:
        raise ArtifactError(f"The model in {folder} has a {wrong[0]} with which it cannot predict. {AGAIN}")


def _is_argument(value: object) -> bool:
    return not isinstance(value, int | float) or (math.isfinite(value) and abs(value) <= LARGEST_ARGUMENT)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _check_preprocessing(folder: Path, preprocessing: Preprocessing, decoder_version: object) -> None:
    """This version's decoder gives the pixels that the network was trained on."""
    known = preprocessing.fit in FITS and preprocessing.interpolation in tuple(RESIZE_FILTERS)
    if not known or preprocessing.background != BACKGROUND or decoder_version != DECODER_VERSION:
        raise ArtifactError(
            f"The model in {folder} wants images prepared in another way (decoder version {decoder_version}, "
            f"fit '{preprocessing.fit}', interpolation '{preprocessing.interpolation}', background "
            f"{preprocessing.background}) than this steadylens "
            f"({steadylens.__version__}, decoder version {DECODER_VERSION}) prepares them. "
            "Install the steadylens with which it was made, or train again."
        )
