"""Reading and writing of safetensors, by PyTorch alone.

Eight bytes say how long the header is, little-endian; the header is JSON and says of
each tensor its type, shape and place; the numbers follow without holes. The package of
that name needs NumPy to write, and is what the tests compare with.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffplan.errors import ArgumentError

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
METADATA = "__metadata__"


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytearray:
    """Return the content of a file.

    Raises:
        ArgumentError: a tensor has a type that is not written.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)}
    # The largest numbers first: each is then aligned.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    end = 0
    for name, value in ordered:
        if value.dtype not in _NAMES:
            raise ArgumentError(
                f"model: expected weights of {list(_NAMES)}, got {name} of "
                f"{value.dtype}"
            )
        begin, end = end, end + value.numel() * value.element_size()
        header[name] = {
            "dtype": _NAMES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = bytearray(len(text).to_bytes(8, "little") + text)
    start = len(data)
    data += bytes(end)
    if end:
        room = torch.frombuffer(data, dtype=torch.uint8, offset=start)
        for name, value in ordered:
            begin, end = header[name]["data_offsets"]
            numbers = value.detach().cpu().reshape(-1)
            room[begin:end] = numbers.view(torch.uint8)
    return data


def decode(data: bytearray) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a file's content.

    Raises:
        ValueError: it is none; the tensors are other than the numbers that are there.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start].decode())
    metadata = header.pop(METADATA)
    tensors, last = {}, 0
    for name, told in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape = _TYPES[told["dtype"]], told["shape"]
        begin, end = told["data_offsets"]
        size = math.prod(shape) * dtype.itemsize
        # Without holes, and without numbers that count twice.
        if begin != last or end - begin != size or min(shape, default=0) < 0:
            raise ValueError(f"{name} {list(shape)} is not where its header says")
        last = end
        if start + end > len(data):
            raise ValueError(f"{name} has {size} bytes, and they are not there")
        # A copy, because a tensor of our own is aligned, and may be written to.
        tensors[name] = (
            torch.frombuffer(data, dtype=torch.uint8, offset=start + begin, count=size)
            .clone()
            .view(dtype)
            .reshape(shape)
            if size
            else torch.empty(shape, dtype=dtype)
        )
    if start + last != len(data):
        raise ValueError(f"{len(data) - start - last} bytes belong to no tensor")
    return tensors, metadata
