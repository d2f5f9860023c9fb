"""What `ImageClassifier` is given, images and labels in all their forms, checked and turned into what a run reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from steadylens.data import manifests
from steadylens.data.sources import ImageIndex, Tally, index_arrays, read_index
from steadylens.errors import ConfigError, DataError

# A path of a folder, an archive or a manifest; paths; pixels; or a frame, for which there is no common type.
Images = str | Path | Sequence[str | Path] | NDArray[np.uint8] | Any
Labels = Sequence[object] | NDArray[Any] | None


def reader_of(data: Images, labels: list[Any] | None, test: Any) -> Callable[[Tally], ImageIndex]:  # noqa: ANN401
    """What reads the data, checked as far as it can be without reading."""
    if is_pixels(data):
        own, pair = required(labels), None if test is None else _pair_of_pixels(test)
        return lambda _advance: index_arrays(data, own, test=pair)
    source, tested = _source(data, labels), None if test is None else _source(*_parted(test))
    return lambda advance: read_index(source, test=tested, advance=advance)


def _source(data: Images, labels: list[Any] | None) -> Any:  # noqa: ANN401 - what `read_index` takes
    if is_source(data):
        if labels is not None:
            raise ConfigError("A folder, an archive, a manifest or a frame has labels of its own: leave y out.")
        return data
    return paths_of(data), required(labels)


def _parted(test: Any) -> tuple[Any, list[Any] | None]:  # noqa: ANN401 - checked by what takes it
    return (test[0], labels_of(test[1])) if isinstance(test, tuple) and len(test) == 2 else (test, None)


def is_source(data: object) -> bool:
    """Whether the labels come with it: not so for pixels and lists of paths."""
    return isinstance(data, str | Path) or manifests.is_frame(data)


def required(labels: list[Any] | None) -> list[Any]:
    """The labels, where there must be some."""
    if labels is None:
        raise ConfigError("Paths and arrays need labels: give y, one label an image.")
    return labels


def shown(value: Any) -> str:  # noqa: ANN401 - an argument of any kind
    """An argument as it is shown in the report: what is small in full, all else by its kind and length."""
    if isinstance(value, str | Path):
        return repr(str(value))
    return f"<{type(value).__name__} of {len(value)}>" if hasattr(value, "__len__") else repr(value)


def labels_of(y: Any) -> list[Any] | None:  # noqa: ANN401 - whatever NumPy takes for an array
    """The labels, of one type where NumPy finds one for all of them."""
    if y is None:
        return None
    labels = np.asarray(y)
    if labels.ndim != 1:
        raise DataError(f"y must be one label an image, of shape (n,). Got the shape {labels.shape} instead.")
    manifests.require_labels(y)  # as they came: among text, NumPy would make text of what is missing
    return list(labels)


def _pair_of_pixels(test: Any) -> tuple[NDArray[np.uint8], list[Any]]:  # noqa: ANN401 - checked here
    images, labels = _parted(test)
    if labels is None or not is_pixels(images):
        raise ConfigError("With arrays, test must be a pair (images, labels) of the same kind.")
    return images, labels


def is_pixels(images: object) -> TypeGuard[NDArray[np.uint8]]:
    """Whether they are an array of numbers, of any type."""
    return isinstance(images, np.ndarray) and images.dtype.kind not in "USO"


def paths_of(images: Any) -> list[Path]:  # noqa: ANN401 - checked here
    """The paths of images, one by one."""
    wrong = [type(path).__name__ for path in images if not isinstance(path, str | Path)]
    if wrong:
        raise ConfigError(
            "X must be the path of a folder, an archive or a manifest, a frame, paths, or an array of uint8. "
            f"Got a sequence with {wrong[0]} in it instead."
        )
    return [Path(path) for path in images]
