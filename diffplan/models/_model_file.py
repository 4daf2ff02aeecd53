"""The file of a model: safetensors, which tell how the model is built as well.

Every program that reads safetensors finds the tensors. In the metadata stand the kind
of model, its constructor's arguments and its card, as JSON, and a SHA-256 checksum of
the whole file in which the checksum's own place counts as zeros.

A checksum tells damage, not intent. So nothing of a file is run: its kind is looked up
among those that the reader allows. Nor does it claim memory that it does not fill: the
model is built without memory, and then gets the tensors that the file has.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from diffplan._files import DAMAGED, reading, size_in_memory, write_atomically
from diffplan.errors import ArgumentError

_FORMAT = "model/1"
_EXPECTED = "a model of diffplan.models"
_ZEROS = b"0" * 64
# Within a string of the header a quote has a backslash before it.
_CHECKSUM = re.compile(rb'"sha256":"([0-9a-f]{64})"')

Kinds = Mapping[str, Callable[..., nn.Module]]
"""What builds each kind of model, of its arguments by name."""


def write_model(model: nn.Module, path: Path, card: Mapping[str, Any]) -> None:
    """Write a model atomically.

    Args:
        model: Its attribute `config` has its constructor's arguments: plain values.
        path: Where; an existing file is replaced.
        card: What a stranger should know of it: plain values.

    Raises:
        ArgumentError: it has no `config`, or something is no plain value.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, Mapping):
        raise ArgumentError(
            "model: expected a module whose attribute `config` is a dictionary of its "
            f"constructor's arguments, got {type(model).__name__} with "
            f"{type(config).__name__}"
        )
    metadata = {
        "diffplan": _FORMAT,
        "kind": type(model).__name__,
        "arguments": _as_json("model.config", config),
        "card": _as_json("card", card),
        "sha256": _ZEROS.decode(),
    }
    data = _encoded(model, metadata)
    place, _ = _checksum(data)
    data[place : place + 64] = _digest(data, place)
    write_atomically(path, lambda file: file.write(data))


def read_model(path: Path, kinds: Kinds) -> Any:
    """Return the model of a file, with its weights in memory of the CPU.

    Raises:
        FileError: it is missing, damaged, larger than this machine's memory, of another
            kind, or something else.
    """
    with reading(path, _EXPECTED):
        tensors, told = _read(path)
        kind = told["kind"]
        if kind not in kinds:
            raise ValueError(f"it is a {kind}, not a {' or '.join(kinds)}")
        # JSON knows no tuples, such as shapes.
        arguments = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in json.loads(told["arguments"]).items()
        }
        _require_layers(arguments, len(tensors))
        # Without memory and without random numbers until the weights are known.
        with torch.device("meta"):
            model = kinds[kind](**arguments)
        model.load_state_dict(tensors, assign=True)
        return model


def read_card(path: Path) -> dict[str, Any]:
    """Return the card of a file, and its `kind`.

    Raises:
        FileError: see `read_model`.
    """
    with reading(path, _EXPECTED):
        _, told = _read(path)
        return {"kind": told["kind"], **json.loads(told["card"])}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a file whose checksum is right."""
    size = size_in_memory(path)
    with path.open("rb") as file:
        # The header first: a file that is none of ours is not read into memory.
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= size - 8 else b""
        place, checksum = _checksum(header)
        file.seek(0)
        data = file.read()
    if _digest(data, place + 8) != checksum:
        raise ValueError(DAMAGED)
    told = json.loads(header)["__metadata__"]
    if told["diffplan"] != _FORMAT:
        raise ValueError(f"it is a {told['diffplan']}, not a {_FORMAT}")
    return load(data), told


def _encoded(model: nn.Module, metadata: dict[str, str]) -> bytearray:
    weights = model.state_dict()
    try:
        # Others, such as transposed ones, are refused.
        dense = {name: value.contiguous() for name, value in weights.items()}
        data = bytearray(save(dense, metadata))
    except (ValueError, KeyError, RuntimeError) as error:
        raise ArgumentError(
            f"model: expected weights that safetensors can hold, got {error}"
        ) from error
    # Equal models are equal files: it writes metadata in a random order.
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.JSONEncoder(
        ensure_ascii=False, sort_keys=True, separators=(",", ":")
    ).encode(json.loads(data[8:end]))
    data[8:end] = header.encode().ljust(end - 8)
    return data


def _checksum(header: bytes | bytearray) -> tuple[int, bytes]:
    """Return where a header has its checksum, and which."""
    found = _CHECKSUM.search(header)
    if found is None:
        raise ValueError(
            "the header with its checksum is missing: it was cut short, damaged, or "
            "not written by this version of diffplan"
        )
    return found.start(1), found[1]


def _digest(data: bytes | bytearray, place: int) -> bytes:
    """Return the checksum of a file that has room for it at `place`."""
    view = memoryview(data)
    digest = hashlib.sha256(view[:place])
    digest.update(_ZEROS)
    digest.update(view[place + 64 :])
    return digest.hexdigest().encode()


def _as_json(name: str, value: Mapping[str, Any]) -> str:
    try:
        # As it is read: a name or a letter has one spelling.
        return json.dumps(dict(value), allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"{name}: expected a dictionary of plain values (numbers, strings, lists, "
            f"dictionaries), got {error}"
        ) from error


def _require_layers(arguments: Mapping[str, Any], tensors: int) -> None:
    """Raise if a model would have more layers than its file has tensors.

    A layer without weights takes memory too.
    """
    for name, value in arguments.items():
        if name.endswith("layers") and value > tensors:
            raise ValueError(f"{name} is {value}, and it has {tensors} tensors")
