"""How many Newton steps the LML projection needs: a search for its worst start.

    python benchmarks/lml_steps.py [--restarts 40] [--climbs 2500] [--quick]

`diffplan.functional.lml` takes a fixed number of steps on F(s) = log Q - log P. This
script looks for the scores that need most of them. Scores matter only by how many lie
how far from the middle between the k-th and the next, so a row is described by groups:
one entry at the distance of the gap on each side, and three groups of any size farther
out. Random rows come first, then hill climbing from the worst of them. Printed is the
largest |F| that was seen after so many steps; |Σ y / k - 1| is at most e^|F| - 1.
"""

import argparse

import numpy as np
from _measuring import positive
from scipy.special import expit

GROUPS = 3
STEPS = 6
AT_ONCE = 20000
MUTANTS = 16
FARTHEST = 60.0

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Sizes and -|z| of the chosen's groups, then of the others', each `[rows, 1 + 3]`."""


def residuals(rows: Rows) -> np.ndarray:
    """Return |F| before the first step and after each, `[1 + steps, rows]`."""
    many_best, best, many_rest, rest = rows
    shift = np.zeros((len(best), 1))
    found = []
    for _ in range(STEPS + 1):
        lacks, has = expit(best - shift), expit(rest + shift)
        p = (many_best * lacks).sum(1, keepdims=True)
        q = (many_rest * has).sum(1, keepdims=True)
        slope = 2 - (many_best * lacks**2).sum(1, keepdims=True) / p
        slope -= (many_rest * has**2).sum(1, keepdims=True) / q
        residual = np.log(q / p)
        found.append(np.abs(residual[:, 0]))
        shift = shift - residual / slope
    return np.array(found)


def admissible(rows: Rows, n: int) -> Rows:
    """Return rows of at most n entries, none nearer than the gap."""
    many_best, best, many_rest, rest = (part.copy() for part in rows)
    gap = np.maximum(-best[:, :1], 0)
    for many, place in ((many_best, best), (many_rest, rest)):
        many[:, 0], place[:, 0] = 1, -gap[:, 0]
        np.clip(place, -FARTHEST, -gap, out=place)
    total = many_best[:, 1:].sum(1) + many_rest[:, 1:].sum(1)
    shrink = np.minimum(1, (n - 2) / np.maximum(total, 1e-9))[:, None]
    many_best[:, 1:] *= shrink
    many_rest[:, 1:] *= shrink
    return many_best, best, many_rest, rest


def random_rows(rng: np.random.Generator, n: int) -> Rows:
    """Return rows with gaps, sizes and distances of all magnitudes."""
    gap = rng.exponential(1.5, (AT_ONCE, 1)) ** rng.choice([1, 2], (AT_ONCE, 1))
    gap = np.minimum(gap * (rng.random((AT_ONCE, 1)) < 0.5), 50)
    parts = []
    for _ in range(2):
        shape = (AT_ONCE, 1 + GROUPS)
        many = np.exp(rng.uniform(0, np.log(n), shape)) * (rng.random(shape) < 0.7)
        place = -gap - rng.exponential(6, shape) * (rng.random(shape) < 0.85)
        place[:, :1] = -gap
        parts += [many, place]
    return admissible(tuple(parts), n)


def mutated(rng: np.random.Generator, row: Rows, size: float, n: int) -> Rows:
    """Return variations of one row."""
    shape = (MUTANTS, 1 + GROUPS)

    def sometimes() -> np.ndarray:
        return rng.normal(size=shape) * size * (rng.random(shape) < 0.4)

    gap = rng.normal(size=(MUTANTS, 1)) * size * (rng.random((MUTANTS, 1)) < 0.3)
    parts = []
    for index, part in enumerate(row):
        wide = np.repeat(part, MUTANTS, axis=0)
        if index % 2 == 0:
            parts.append(wide * np.exp(sometimes()))
        else:
            moved = wide + sometimes()
            moved[:, :1] = wide[:, :1] - gap
            parts.append(moved)
    return admissible(tuple(parts), n)


def worst(rng: np.random.Generator, n: int, restarts: int, climbs: int) -> np.ndarray:
    """Return the largest |F| that was seen after each number of steps."""
    largest = np.zeros(STEPS + 1)
    starts: dict[int, list[tuple[float, Rows]]] = {steps: [] for steps in (3, 4, 5)}
    for _ in range(restarts):
        rows = random_rows(rng, n)
        found = residuals(rows)
        largest = np.maximum(largest, found.max(axis=1))
        for steps, kept in starts.items():
            index = int(found[steps].argmax())
            one = tuple(part[index : index + 1] for part in rows)
            kept.append((found[steps, index], one))
    for steps, kept in starts.items():
        kept.sort(key=lambda pair: -pair[0])
        for value, row in kept[:4]:
            best, current, size = value, row, 0.5
            for climb in range(climbs):
                rows = mutated(rng, current, size, n)
                found = residuals(rows)
                largest = np.maximum(largest, found.max(axis=1))
                index = int(found[steps].argmax())
                if found[steps, index] > best:
                    best = found[steps, index]
                    current = tuple(part[index : index + 1] for part in rows)
                elif climb % 200 == 199:
                    size = max(0.7 * size, 0.02)
    return largest


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--restarts", type=positive, default=40)
    parser.add_argument("--climbs", type=positive, default=2500)
    parser.add_argument("--quick", action="store_true", help="a short search")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.restarts, arguments.climbs = 2, 100
    rng = np.random.default_rng(0)
    print(f"| N | {' | '.join(f'{step} steps' for step in range(STEPS + 1))} |")
    print("|---" * (STEPS + 2) + "|")
    for n in (100, 1024, 65536, 2**20):
        largest = worst(rng, n, arguments.restarts, arguments.climbs)
        print(
            f"| {n} | {' | '.join(f'{value:.0e}' for value in largest)} |", flush=True
        )


if __name__ == "__main__":
    main()
