import random

import numpy as np
import pytest
import torch

from diffplan.errors import ArgumentError
from diffplan.training import Timers, derive_seed, make_generator
from diffplan.training.seeding import global_seeds  # without the checks: see below


def test_seeds_are_the_first_bits_of_a_hash() -> None:
    # sha256 of "0\n'episode'\n12" begins with these 8 bytes (sha256sum).
    import hashlib

    digest = hashlib.sha256(b"0\n'episode'\n12").hexdigest()
    assert derive_seed(0, "episode", 12) == int(digest[:16], 16) >> 1
    assert derive_seed(0, "episode", 12, bits=31) == int(digest[:8], 16) >> 1


def test_names_and_numbers_all_matter() -> None:
    uses = [(0, "a"), (0, "b"), (1, "a"), (0, "a", 0), (0, "a", "0"), (0, "a\n'b'")]
    assert len({derive_seed(*use) for use in uses}) == len(uses)
    episodes = {derive_seed(0, "episode", i) for i in range(10000)}
    assert len(episodes) == 10000
    assert max(derive_seed(0, i, bits=31) for i in range(1000)) < 2**31
    # The kind of a number or a word does not.
    assert derive_seed(np.int64(0), np.str_("a"), np.int32(7)) == derive_seed(0, "a", 7)
    with pytest.raises(ArgumentError, match="bits"):
        derive_seed(0, bits=64)


def test_generators_are_independent_streams() -> None:
    first = torch.randn(20000, generator=make_generator(0, "a"))
    second = torch.randn(20000, generator=make_generator(0, "b"))
    correlation = float((first * second).mean())
    assert abs(correlation) < 5 / 20000**0.5


def test_global_seeds_repeat_inside_and_leave_nothing_outside() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    # The type checks of the suite draw from Python's generator to look into containers,
    # and so would those around the function that `diffplan.training` gives.
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    with global_seeds(5):
        first = draw()
    with global_seeds(5):
        assert draw() == first
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])
    with global_seeds(6):
        assert draw() != first


def test_timers_add_up_and_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 4.0, 5.0, 10.0, 12.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    timers = Timers()
    for _ in range(2):
        with timers("planning"):
            pass
    assert timers.seconds("planning") == 3.0
    assert timers.collect() == {
        "time/seconds": 10.0,
        "time/planning_seconds": 3.0,
        "time/planning_share": 0.3,
    }
    assert timers.collect() == {"time/seconds": 2.0}
