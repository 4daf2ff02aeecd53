"""Random numbers by counters: how they are distributed, and what decides them."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from torch import Tensor

from diffplan.functional import _random as random
from diffplan.functional._random import (
    fold,
    standard_normal,
    stream_keys,
    uniform,
    wrapped,
)

LIKE = torch.zeros(())
MANY = 2**20


def keys_of(count: int, seed: int = 0) -> Tensor:
    return stream_keys((count,), torch.device("cpu"), seed=seed)


def as_unsigned(value: Tensor) -> np.ndarray:
    return value.numpy().view(np.uint64)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# Distribution


@pytest.mark.parametrize(
    "drawn",
    [
        lambda: standard_normal(torch.tensor([5]), (MANY,), LIKE),
        lambda: standard_normal(keys_of(MANY), (1,), LIKE),
        lambda: standard_normal(torch.arange(MANY), (1,), LIKE),
        lambda: standard_normal(keys_of(2**10)[:, None], (2, 2**9), LIKE),
        lambda: standard_normal(fold(torch.tensor(0), torch.arange(MANY)), (3,), LIKE),
    ],
    ids=["one stream", "first numbers", "small keys", "rectangle", "folded"],
)
def test_normal_numbers_have_the_normal_distribution(
    drawn: Callable[[], Tensor],
) -> None:
    values = drawn().double().numpy().ravel()
    count = len(values)
    # The k-th sample moment has variance (μ_2k - μ_k²) / n: five standard errors.
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = 5 * math.sqrt(variance / count)
        assert abs((values**power).mean() - moment) < error
    assert stats.kstest(values, "norm").pvalue > 1e-3
    # Tails: how many lie beyond 4 is Poisson distributed.
    expected = 2 * stats.norm.sf(4) * count
    assert stats.poisson.sf((np.abs(values) > 4).sum() - 1, expected) > 1e-3
    assert stats.poisson.cdf((np.abs(values) > 4).sum(), expected) > 1e-3


def test_uniform_numbers_have_the_uniform_distribution() -> None:
    values = uniform(keys_of(4), (MANY // 4,), LIKE)
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values.numpy().ravel(), "uniform").pvalue > 1e-3


def correlation(a: Tensor, b: Tensor) -> float:
    """In standard errors."""
    a, b = a.double().flatten(), b.double().flatten()
    return float((a * b).mean() * math.sqrt(len(a)))


@pytest.mark.parametrize("squares", [False, True])
def test_neighbours_are_independent(squares: bool) -> None:
    keys = torch.arange(2048)

    def draw(from_keys: Tensor) -> Tensor:
        values = standard_normal(from_keys, (512,), LIKE)
        return (values.square() - 1) / math.sqrt(2) if squares else values

    values, first, second = draw(keys), draw(fold(keys, 0)), draw(fold(keys, 1))
    pairs = {
        "keys": (values[1:], values[:-1]),
        "numbers": (values[:, 1:], values[:, :-1]),
        "numbers of one rotation": (values[:, :384], values[:, 128:]),
        "its first and last": (values[:, :128], values[:, 384:]),
        "a key and its fold": (values, first),
        "folds": (first, second),
        "folds of neighbours": (first[1:], second[:-1]),
        "numbers of folds": (first[:, 1:], second[:, :-1]),
    }
    for name, (a, b) in pairs.items():
        assert abs(correlation(a, b)) < 5, name


def test_every_bit_of_a_key_changes_half_of_the_bits() -> None:
    keys = fold(torch.tensor(3), torch.arange(4096))
    for bit in range(64):
        changed = keys ^ wrapped(1 << bit)
        for of in (lambda key: fold(key, 1), lambda key: fold(torch.tensor(1), key)):
            flipped = as_unsigned(of(keys) ^ of(changed))
            share = np.unpackbits(flipped.view(np.uint8)).mean()
            assert abs(share - 0.5) < 5 * 0.5 / math.sqrt(64 * 4096)


def test_the_finaliser_is_that_of_splitmix64() -> None:
    # The first outputs of the reference implementation (Vigna, splitmix64.c) that is
    # seeded with 1234567, computed here in Python's whole numbers.
    def mix(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    expected = [mix((1234567 + i * 0x9E3779B97F4A7C15) % 2**64) for i in range(1, 6)]
    assert expected[0] == 6457827717110365317  # as published with it
    found = random._bits(torch.tensor([[1234567]]), 0, 5)
    assert as_unsigned(found)[0].tolist() == expected


@pytest.mark.parametrize("number", [0, 1, 12345, 2**63 - 1, 2**63, -1, 10**30])
def test_a_number_is_folded_in_as_a_tensor_is(number: int) -> None:
    keys = keys_of(4)
    data = torch.full_like(keys, wrapped(number))
    assert torch.equal(fold(keys, number), fold(keys, data))
    if number in range(2**63):
        assert torch.equal(fold(keys, np.int64(number)), fold(keys, data))


def test_the_table_holds_half_the_normal_quantiles_of_variance_one() -> None:
    table = random._table(torch.device("cpu")).double().numpy()
    assert (table * 2**21 == np.round(table * 2**21)).all()  # so that sums are exact
    assert (table[::-1] == -table).all()
    quantiles = stats.norm.ppf((np.arange(2**16) + 0.5) / 2**16)
    scaled = quantiles / quantiles.std() / 2
    np.testing.assert_allclose(table, scaled, rtol=0, atol=0.5001 * 2.0**-21)
    # No processor may round an entry to another multiple: none is near the middle.
    place = np.abs(scaled * 2**21 % 1 - 0.5)
    assert place.min() > 1e-7
    # The sum of four has the fourth moment of a normal number but for 2e-4.
    excess = (table**4).mean() / (table**2).mean() ** 2 - 3
    assert abs(excess) / 4 < 2e-4


# Invariance

SHAPE = (7, 3, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 3, 16, 64])
def test_numbers_depend_on_the_key_alone(size: int, dtype: torch.dtype) -> None:
    like, keys = LIKE.to(dtype), keys_of(64)[torch.randperm(64)]
    for draw in (standard_normal, uniform):
        whole = draw(keys, SHAPE, like)
        assert whole.dtype == dtype
        assert whole.shape == (64, *SHAPE)
        parts = [draw(part, SHAPE, like) for part in keys.split(size)]
        assert torch.equal(torch.cat(parts), whole)
        square = draw(keys.reshape(4, 16), SHAPE, like)
        assert torch.equal(square.flatten(0, 1), whole)
        assert torch.equal(draw(keys, SHAPE, LIKE).to(dtype), whole)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 11, 64, 1003])
@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_chunks_change_nothing(
    size: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = standard_normal(torch.arange(9), (size,), LIKE)
    assert len(set(expected.flatten().tolist())) > 0.99 * expected.numel()
    monkeypatch.setattr(random, "CACHED", chunk)
    assert torch.equal(standard_normal(torch.arange(9), (size,), LIKE), expected)


@pytest.mark.usefixtures("two_threads")
def test_threads_change_nothing() -> None:
    keys = torch.arange(40)
    two = standard_normal(keys, (5001,), LIKE)
    torch.set_num_threads(1)
    assert torch.equal(standard_normal(keys, (5001,), LIKE), two)


def test_numbers_are_the_same_on_every_processor_and_for_ever() -> None:
    # Integers, and sums that float32 holds exactly.
    found = standard_normal(torch.tensor([0, 1]), (4,), LIKE)
    assert found.tolist() == [
        [a / 2**21 for a in (4686, 1245636, 505930, 1825896)],
        [a / 2**21 for a in (1506228, 751278, -3147450, -587492)],
    ]


@pytest.mark.gpu
def test_numbers_on_a_gpu_are_those_of_a_cpu_and_of_every_batch() -> None:
    keys = keys_of(100)
    for draw in (standard_normal, uniform):
        expected = draw(keys, (501,), LIKE)
        found = draw(keys.cuda(), (501,), LIKE)
        assert torch.equal(found.cpu(), expected)
        assert torch.equal(draw(keys[7:9].cuda(), (501,), LIKE), found[7:9])


@pytest.mark.parametrize("size", [1, 4, 16, 21, 64])
def test_numbers_are_rotated_quantiles_of_splitmix64(size: int) -> None:
    # Oracle: the same in numpy's float64, from bits that are tested above.
    keys = torch.arange(50)
    found = standard_normal(keys, (size,), LIKE).double().numpy()
    quarter = -(-size // 4)
    counters = -(-quarter // 4)
    words = as_unsigned(random._bits(keys[:, None], 0, 4 * counters))
    pieces = [
        words >> np.uint64(shift) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48)
    ]
    places = np.stack(pieces, axis=-1).reshape(50, 4, -1)[..., :quarter]
    table = random._table(torch.device("cpu")).double().numpy()
    hadamard = linalg.hadamard(4)[[0, 2, 1, 3]]
    expected = np.einsum("ij,bjn->bin", hadamard, table[places.astype(int)])
    np.testing.assert_array_equal(found, expected.reshape(50, -1)[:, :size])


def test_mapped_and_transformed_numbers_are_the_same() -> None:
    keys = torch.arange(6)
    expected = standard_normal(keys, SHAPE, LIKE)
    mapped = torch.func.vmap(lambda key: standard_normal(key, SHAPE, LIKE))(keys)
    assert torch.equal(mapped, expected)
    mapped = torch.func.vmap(lambda key: fold(key, 2), in_dims=0)(keys)
    assert torch.equal(mapped, fold(keys, 2))

    def scaled(scale: Tensor) -> Tensor:
        return (scale * standard_normal(keys, SHAPE, scale)).sum()

    slope = torch.func.grad(scaled)(torch.tensor(2.0))
    torch.testing.assert_close(slope, expected.sum())


@pytest.mark.compiled
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_numbers_are_the_same(backend: str) -> None:
    # Iterations that are counted inside: their range is known to a compiler.
    def draw(keys: Tensor) -> tuple[Tensor, Tensor]:
        drawn = standard_normal(fold(keys[:, None], torch.arange(3)), SHAPE, LIKE)
        return drawn, uniform(fold(keys, 7), SHAPE, LIKE.double())

    keys = torch.arange(5)
    compiled = torch.compile(draw, fullgraph=True, backend=backend)(keys)
    for found, expected in zip(compiled, draw(keys), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.compiled
def test_compiled_maps_draw_the_same() -> None:
    def draw(key: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        return standard_normal(fold(key, counts), SHAPE, LIKE), fold(counts, key)

    keys, counts = torch.arange(5), torch.arange(6).reshape(2, 3)
    for in_dims in ((0, None), (None, 1), (0, 0)):
        given = (keys[0] if in_dims[0] is None else keys[:2], counts)
        mapped = torch.func.vmap(draw, in_dims=in_dims)
        compiled = torch.compile(mapped, fullgraph=True, backend="aot_eager")
        for found, expected in zip(compiled(*given), mapped(*given), strict=True):
            assert torch.equal(found, expected)


def test_equal_keys_give_equal_numbers_and_none_gives_none() -> None:
    keys = torch.tensor([4, 4, 5])
    drawn = standard_normal(keys, (10,), LIKE)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert standard_normal(keys[:0], (10,), LIKE).shape == (0, 10)
    assert standard_normal(keys, (0, 3), LIKE).shape == (3, 0, 3)
    assert standard_normal(keys[0], (), LIKE).shape == ()
    assert uniform(keys[:0], (10,), LIKE).shape == (0, 10)


def test_seed_key_and_count_all_decide() -> None:
    device = torch.device("cpu")
    every = [
        stream_keys((2, 2), device, seed=seed, keys=keys, count=count)
        for seed in (0, 1, -1, 2**63 - 1, 2**64 - 2)
        for keys in (None, torch.arange(4, 8).reshape(2, 2))
        for count in (0, torch.arange(2, 6).reshape(2, 2))
    ]
    assert len(set(torch.stack(every).flatten().tolist())) == 4 * len(every)
    same = stream_keys((2, 2), device, seed=torch.tensor(1), count=torch.tensor(0))
    assert torch.equal(same, stream_keys((4,), device, seed=1).reshape(2, 2))
    assert torch.equal(
        stream_keys((3,), device, seed=-1), stream_keys((3,), device, seed=2**64 - 1)
    )
    # Not the sum of the three, as it would be for a single hash of it.
    assert not torch.equal(
        stream_keys((3,), device, seed=1)[:2], stream_keys((3,), device)[1:]
    )
