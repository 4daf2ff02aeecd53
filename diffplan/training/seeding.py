"""Independent seeds for everything, from one number.

Each use of randomness has a name. Adding a use does not change the others, and an
episode's seed follows from its number, so that no simulator need be saved.
"""

import hashlib
import operator
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from diffplan._checks import require_seed
from diffplan.errors import ArgumentError

SIMULATOR_BITS = 31
"""NumPy's `RandomState`, which some simulators use, takes no larger seeds."""


def derive_seed(seed: int, *names: str | int, bits: int = 63) -> int:
    """Return the seed of the use called `names` in the run called `seed`.

    Args:
        seed: Of the run, any whole number.
        *names: What the seed is for, such as `"episode", 12`.
        bits: Size of the result, 1 … 63.

    Returns:
        A number in 0 … 2^bits - 1: the first bits of a SHA-256 hash.

    Example:
        >>> derive_seed(0, "episode", 0) == derive_seed(0, "episode", 1)
        False
    """
    if not 1 <= bits <= 63:
        raise ArgumentError(f"bits: expected 1 … 63, got {bits}")
    # Numbers and words of numpy have another `repr`, and are the same use.
    plain = (str(n) if isinstance(n, str) else operator.index(n) for n in names)
    text = "\n".join(map(repr, [require_seed(seed), *plain]))
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - bits)


def make_generator(
    seed: int, *names: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator for the use called `names`, see `derive_seed`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *names))


@contextmanager
def global_seeds(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch, and restore them after.

    For code that insists on them: initial weights, other people's simulators. The
    global generators of CUDA devices are covered where CUDA is in use.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = (
        list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    )
    with torch.random.fork_rng(devices=devices):
        random.seed(derive_seed(seed, "python"))
        np.random.seed(derive_seed(seed, "numpy", bits=32))
        torch.manual_seed(derive_seed(seed, "torch"))
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
