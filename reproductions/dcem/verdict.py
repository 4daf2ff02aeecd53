"""The paper's claims one by one, judged by a rule from what is published.

The words are *held*, *contradicted* and *not seen* (the numbers allow neither), each at
the scale that stands beside it, and *not tested*, where no run can tell.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from reproductions.common.experiment import Results
from reproductions.common.provenance import LEGEND, mark, mark_of
from reproductions.common.statistics import Estimate, difference, paired_difference
from reproductions.dcem import cartpole_report, paper_numbers, regression_report
from reproductions.dcem.locomotion_results import Tested, read_tested

HELD, NOT_SEEN, CONTRADICTED = "held", "not seen", "contradicted"
NOT_TESTED = "not tested"

STAYS, GROWS = 2.0, 10.0
"""Error at twice the iterations over that at the trained number: at most, at least."""
NEARLY = 0.9
"""Nearly as well: the paper's own medians are 0.93 (cheetah) and 0.90 (walker)."""

RULES = f"""\
Rules. 1: error at 20 iterations over that at 10, of each seed, is at most {STAYS:g}
(DCEM) and at least {GROWS:g} (unrolled GD). 2a: the factor of the last decoders on
fresh states, or the paper's where it was not measured, is above 1. 2b: the cost at the
end is lower with τ = 1 than with τ = 0, of cells with equally many updates. 3a: the
mean return of phase 2 is above {NEARLY:g} of that of phase 1. 3b: the mean return of
phase 3 is above that of phase 2. In 2 and 3 the whole interval of 95 % decides (over
seeds; in 3 of the paired difference, as all phases play the same episodes: Student's t
over models and episodes together, of one model over its episodes alone): on the right
side *held*, on the wrong one *contradicted*, else *not seen*. At a share of the paper's
training no word is about the paper's own numbers.

{LEGEND}
"""

COLUMNS = ("", "claim", "case", "at this scale", "numbers", "scale")
"""Of the table of claims."""
HEADING = "## Claim by claim\n"

Row = list[str]


def judge(estimate: Estimate, bound: float = 0.0) -> str:
    """Return the word for the claim that a number is above a bound.

    Example:
        >>> judge(Estimate(0.3, 0.1, 0.5, 3)), judge(Estimate(0.3, -0.1, 0.7, 3))
        ('held', 'not seen')
    """
    if estimate.low > bound:
        return HELD
    return CONTRADICTED if estimate.high < bound else NOT_SEEN


def regression(results: Results) -> Iterator[Row]:
    """Yield what the published errors say about claim 1."""
    output, records = results.output, results.records
    trained = regression_report.TRAINED_ITERATIONS
    claims = {
        "dcem": "the minimum stays right when the search takes more steps",
        "gd": "with unrolled GD it is right after the trained number only",
    }
    curves = regression_report.read_curves(output, "update")
    tests = regression_report.read_curves(output, "iterations")
    for method, claim in claims.items():
        found = tests.get(method, {})
        if not {trained, 2 * trained} <= found.keys():
            continue
        pairs = zip(found[2 * trained], found[trained], strict=True)
        ratios = [later / at_trained for later, at_trained in pairs]
        right = [r <= STAYS if method == "dcem" else r >= GROWS for r in ratios]
        word = HELD if all(right) else NOT_SEEN if any(right) else CONTRADICTED
        numbers = ", ".join(f"{ratio:.3g}" for ratio in ratios)
        yield [
            "1",
            claim,
            regression_report.NAMES[method]
            + mark(records, f"regression/{method}", f"regression/{method}_tests"),
            word,
            f"error grows by {numbers}",
            _updates(max(curves[method])) if method in curves else "–",
        ]


def cartpole(results: Results) -> Iterator[Row]:
    """Yield what the published costs say about claims 2a and 2b."""
    rows = cartpole_report.read_cells(results.output)
    for row in rows:
        if float(row["temperature"]) != 1:
            continue
        name = "honest" if row["honest"] else "improvement"
        factor = cartpole_report.estimate(row, name)
        yield [
            "2a",
            "a third of the rollouts reaches the expert's cost in a learned embedding",
            f"latent {row['latent']}, τ = 1{mark_of(row.get('source', ''))}",
            judge(factor, 1.0),
            f"factor {factor.number(3)}",
            _updates(int(row["updates"])),
        ]
    for latent in dict.fromkeys(row["latent"] for row in rows):
        yield _temperatures([row for row in rows if row["latent"] == latent])


def _temperatures(rows: Sequence[Mapping[str, str]]) -> Row:
    """Judge whether the soft choice keeps the embedding easy to search."""
    found = {float(row["temperature"]): row for row in rows}
    claim = "without the soft choice (τ = 0) training ends at a higher cost"
    sources = "".join(row.get("source", "") for row in rows)
    case = f"latent {rows[0]['latent']}{mark_of(sources)}"
    if not {0.0, 1.0} <= found.keys():
        missing = " and ".join(f"τ = {t:g}" for t in (1.0, 0.0) if t not in found)
        return ["2b", claim, case, NOT_TESTED, f"no run with {missing}", "–"]
    costs = [cartpole_report.estimate(found[t], "final_cost") for t in (0.0, 1.0)]
    updates = [int(found[t]["updates"]) for t in (0.0, 1.0)]
    numbers = f"cost {costs[0].number(2)} (τ = 0), {costs[1].number(2)} (τ = 1)"
    if updates[0] != updates[1]:
        scale = f"{updates[0]:,} and {updates[1]:,} updates: not comparable"
        return ["2b", claim, case, NOT_TESTED, numbers, scale]
    word = HELD if costs[0].low > costs[1].high else NOT_SEEN
    word = CONTRADICTED if costs[0].high < costs[1].low else word
    return ["2b", claim, case, word, numbers, _updates(updates[0])]


def locomotion(results: Results) -> Iterator[Row]:
    """Yield what the published returns say about claims 3a and 3b."""
    tested = {(each.task, each.phase): each for each in read_tested(results.output)}
    claims = (
        ("3a", "the embedded controller acts nearly as well as CEM", NEARLY),
        ("3b", "PPO improves the embedded controller", 1.0),
    )
    pairs = (("initial", "embedded"), ("embedded", "policy"))
    for (number, claim, share), (before, after) in zip(claims, pairs, strict=True):
        for task in dict.fromkeys(task for task, _ in tested):
            if {(task, before), (task, after)} <= tested.keys():
                one, two = tested[task, before], tested[task, after]
                case = task + mark_of(one.source + two.source)
                yield [number, claim, case, *_returns(one, two, share)]


def _returns(before: Tested, after: Tested, share: float) -> Row:
    """Judge whether a mean return is above a share of the earlier one."""
    gain = _gain(before.returns * share, after.returns)
    numbers = (
        f"{after.returns.mean():.0f} after {before.returns.mean():.0f}, paired "
        f"difference{f' to {share:g} of it' if share < 1 else ''} {gain.number()}"
    )
    if share < 1:
        numbers += (
            f", with {after.evaluations:,.0f} against {before.evaluations:,.0f} "
            "transitions per action"
        )
    shares = [
        each.steps / paper_numbers.locomotion_steps(each.task, each.phase)
        for each in (before, after)
    ]
    scale = (
        f"{' and '.join(f'{100 * s:.2g} %' for s in shares)} of the paper's steps of "
        f"the two phases, {before.models} model"
    )
    return [judge(gain), numbers, scale]


def _gain(before: np.ndarray, after: np.ndarray) -> Estimate:
    """Return the mean gain, paired where both played the same number of episodes."""
    if before.shape != after.shape:
        return difference(after.flatten().tolist(), before.flatten().tolist())
    return paired_difference(after, before)


def _updates(count: int) -> str:
    paper = cartpole_report.PAPER_UPDATES
    return "all of the paper's updates" if count >= paper else f"{count:,} of {paper:,}"
