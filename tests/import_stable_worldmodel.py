"""Imports stable-worldmodel where its own import fails or warns; import this first.

It imports torchvision, whose builds on PyPI for Linux need the CUDA build of torch.
Beside a CPU build its library of operators does not load. It notices, but registers the
shapes of two operators all the same, which fails where they do not exist. And it warns
of each family of environments that is not installed, of which planning needs none.
"""

import importlib.util
import warnings
from pathlib import Path

import torch

_found = importlib.util.find_spec("torchvision")
if _found is not None and _found.origin is not None:
    try:
        for _library in Path(_found.origin).parent.glob("_C.*"):
            torch.ops.load_library(_library)
    except OSError:
        for _name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{_name}", "(Tensor a, Tensor b, float c) -> Tensor"
            )

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import stable_worldmodel  # noqa: F401
