"""The weights of an artifact: a safetensors file whose header must say exactly what the network has.

Names, types, shapes and places follow from the network, so all that an attack could say in the header is known to be
wrong before a single number is read. The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from steadylens.errors import ArtifactError

# Bytes of the header for one tensor, its name aside: type, eight dimensions and two offsets take 300.
_ENTRY_BYTES = 1000
_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64"}
_TYPES |= {torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}


def largest_file(expected: Mapping[str, Tensor]) -> int:
    """Bytes that a file of these tensors cannot exceed."""
    return 8 + _largest_header(expected) + sum(tensor.nbytes for tensor in expected.values())


def read(content: bytes, expected: Mapping[str, Tensor], where: str, advice: str) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file, all finite.

    Args:
        content: of the file.
        expected: tensors of the names, shapes and types that must be there; their values do not matter.
        where: what the file is called in an error.
        advice: what to do where it is damaged, in whole sentences.

    Raises:
        ArtifactError: it is no safetensors file, or holds other tensors than expected, or NaN or infinity.
    """
    try:
        header, start = _header_of(content, _largest_header(expected))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where} is not a safetensors file: {error}. {advice}") from error
    header.pop("__metadata__", None)
    check_names(header, expected, where, advice)
    for name, entry in header.items():
        _check_entry(name, entry, expected[name], where, advice)
    _check_places(header, expected, len(content) - start, where, advice)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{where} is not a safetensors file ({error}). {advice}") from error
    for name, tensor in tensors.items():
        check_finite(name, tensor, where)
    return tensors


def check_names(found: Mapping[str, Any], expected: Mapping[str, Tensor], where: str, advice: str) -> None:
    """The names are those that the network has.

    Raises:
        ArtifactError: one is missing or too many.
    """
    if odd := sorted(found.keys() ^ expected.keys()):
        what = "lack" if odd[0] in expected else "hold, beyond what the network has,"
        raise ArtifactError(f"The weights of {where} do not fit its network: they {what} {_shown(odd[0])}. {advice}")


def check_finite(name: str, tensor: Tensor, where: str) -> None:
    """A tensor holds numbers that can be calculated with.

    Raises:
        ArtifactError: it holds NaN or infinity.
    """
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise ArtifactError(
            f"The weights of {where} hold NaN or infinity in {_shown(name)}, so it cannot predict. "
            "Train again, with a lower learning rate."
        )


def _largest_header(expected: Mapping[str, Tensor]) -> int:
    return sum(_ENTRY_BYTES + 6 * len(name) for name in expected) + 10_000  # some for metadata


def _header_of(content: bytes, largest: int) -> tuple[dict[str, Any], int]:
    """The header and where the tensors' bytes begin.

    Raises:
        ValueError: there is no header that can be read; why not.
        RecursionError: it is nested too deeply.
    """
    if len(content) < 8:
        raise ValueError(f"it has {len(content)} bytes, and its header's length alone takes 8")
    (length,) = struct.unpack("<Q", content[:8])
    if length > min(largest, len(content) - 8):
        raise ValueError(f"its header says that it has {length:,} bytes, which it cannot have")
    header = json.loads(content[8 : 8 + length].decode("utf-8"), object_pairs_hook=_without_duplicates)
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return header, 8 + length


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header names something twice")
    return found


def _check_entry(name: str, entry: Any, want: Tensor, where: str, advice: str) -> None:  # noqa: ANN401 - any JSON value
    """What the header says of a tensor's type and shape is what the network has."""
    said = entry if isinstance(entry, dict) else {}
    dtype, shape = said.get("dtype"), said.get("shape")
    # By its text, since for Python 1, 1.0 and True are the same.
    if dtype != _TYPES.get(want.dtype) or repr(shape) != repr(list(want.shape)):
        raise ArtifactError(
            f"The weights of {where} do not fit its network: {_shown(name)} is {_shown(dtype)} {_shown(shape)} in "
            f"place of {_TYPES.get(want.dtype)} {list(want.shape)}. {advice}"
        )


def _check_places(
    header: Mapping[str, Any], expected: Mapping[str, Tensor], size: int, where: str, advice: str
) -> None:
    """The tensors lie one after another, with nothing before, between or behind them."""
    places = {name: entry.get("data_offsets") for name, entry in header.items()}
    for name, place in places.items():
        pair = isinstance(place, list) and len(place) == 2 and all(type(offset) is int for offset in place)
        if not pair or place[0] < 0 or place[1] - place[0] != expected[name].nbytes:
            raise ArtifactError(
                f"{where} is not a safetensors file: it has {_shown(name)} at {_shown(place)}, and it takes "
                f"{expected[name].nbytes} bytes. {advice}"
            )
    end = 0
    for name, (first, last) in sorted(places.items(), key=lambda item: item[1]):
        if first != end:
            what = "overlap" if first < end else "leave a hole"
            raise ArtifactError(f"{where} is not a safetensors file: its tensors {what} at {_shown(name)}. {advice}")
        end = last
    if end != size:
        raise ArtifactError(
            f"{where} is not a safetensors file: its tensors take {end} bytes, and {size} follow the header. {advice}"
        )


def _shown(value: object) -> str:
    """A value from a file in an error message: short, whatever it is."""
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
