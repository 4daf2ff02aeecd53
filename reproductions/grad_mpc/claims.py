"""The paper's claims one by one, judged by a rule from what the ledger holds."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from diffplan._runs.tables import markdown_table
from reproductions.common.experiment import Results
from reproductions.common.online_runs import Run, read
from reproductions.common.provenance import LEGEND, mark
from reproductions.common.statistics import Estimate, mean, paired_outcomes
from reproductions.grad_mpc.report import FINAL_EPISODES, Outcome, outcomes
from reproductions.grad_mpc.settings import SPARSE, TASKS

NOT_RUN = "not run"
FROZEN = ("cartpole-swingup", "reacher-easy", "cheetah-run")
"""Tasks of Fig. 4."""

EQUATION_6 = "policy_grad_mpc_h1_"
"""Begins the names of contenders that it is."""

COLUMNS = ("claim", "task", "here", "difference [95 %]", "n", "test")
SEEDS = "Student's t over training seeds"
PAIRS = "Student's t over training seeds and starts, paired"

RULES = f"""\
At preset `{{preset}}`. *Held* where the whole interval of the difference is above zero,
*contradicted* where it is below, else *not seen*. Online runs of one training seed say
nothing, contests with one model speak of that model alone. Fig. 3: the last
{FINAL_EPISODES} training episodes less the seed episodes. Table 1: those of Grad-MPC
less those of CEM with the same training seeds. Fig. 4: the most candidates less the
fewest. Table 2: the paper gives neither steps nor step size of eq. 6; of those that
were tried the best on the even starts is judged on the odd ones. n: training seeds, ×
starts. At a share of the paper's training no word is about the paper's numbers.
"""

Row = list[str]


def write(results: Results) -> str:
    """Return the claims with what the published results say about each.

    Args:
        results: Whose output has the ledger of all experiments.
    """
    rows = [
        *_online(results),
        *_frozen(results, "candidates", FROZEN, _most_and_fewest),
        *_frozen(results, "refinement", SPARSE, _refined_and_plain),
    ]
    rows = _gathered(rows)
    marked = [LEGEND + "\n"] if any("*" in row[1] for row in rows) else []
    rules = RULES.format(preset=results.preset)
    parts = ["## Claim by claim\n", markdown_table(COLUMNS, rows), rules, *marked]
    return "\n".join(parts)


def _gathered(rows: Sequence[Row]) -> list[Row]:
    """Return the rows, those of a claim that were not run as one."""
    kept: list[Row] = []
    for row in rows:
        last = kept[-1] if kept else row
        if kept and row[2] == last[2] == NOT_RUN and row[0] == last[0]:
            last[1] += f", {row[1]}"
        else:
            kept.append(row)
    return kept


def _row(
    claim: str, task: str, found: tuple[Estimate, str, str, str] | None = None
) -> Row:
    if found is None:
        return [claim, task, NOT_RUN, "–", "–", "–"]
    gap, count, test, star = found
    return [claim, task + star, gap.verdict(), gap.number(), count, test]


def _online(results: Results) -> Iterator[Row]:
    """Yield what runs of PlaNet's agent say about Fig. 3 and Table 1."""
    found: dict[tuple[str, str], dict[int, Run]] = {}
    for run in read(results.output, "planet"):
        task = run.task.rpartition("/")[2]
        found.setdefault((task, run.planner), {})[run.seed] = run
    for task in TASKS:
        ours = found.get((task, "grad_mpc"), {})
        gains = {seed: _trained(run) - _random(run) for seed, run in ours.items()}
        runs = list(ours.values())
        claim = "Fig. 3: Grad-MPC learns"
        yield _row(claim, task, _over_seeds(results, gains, runs))
    for task in TASKS:
        ours, theirs = (found.get((task, who), {}) for who in ("grad_mpc", "cem"))
        both = sorted(ours.keys() & theirs.keys())
        gains = {seed: _trained(ours[seed]) - _trained(theirs[seed]) for seed in both}
        runs = [each[seed] for each in (ours, theirs) for seed in both]
        claim = "Table 1: Grad-MPC earns more than CEM"
        yield _row(claim, task, _over_seeds(results, gains, runs))


def _over_seeds(
    results: Results, gains: Mapping[int, float], runs: Sequence[Run]
) -> tuple[Estimate, str, str, str] | None:
    known = [gain for gain in gains.values() if not math.isnan(gain)]  # has trained
    if not known:
        return None
    star = mark(results.records, *(run.unit for run in runs))
    return mean(known), str(len(known)), SEEDS, star


def _trained(run: Run) -> float:
    return run.score("collect", slice(1, None), FINAL_EPISODES)


def _random(run: Run) -> float:
    return run.score("collect", slice(0, 1))


Sides = tuple[str, dict[tuple[str, str], float], dict[tuple[str, str], float]]
"""The claim in words, and the outcomes that it is about: of more and of less."""


def _frozen(
    results: Results,
    experiment: str,
    tasks: Sequence[str],
    sides: Callable[[Mapping[str, Outcome]], Sides],
) -> Iterator[Row]:
    """Yield what contests with frozen models say; those of other tasks too."""
    by_task: dict[str, dict[str, Outcome]] = {}
    for each in outcomes(results, experiment):
        by_task.setdefault(each.task, {})[each.name] = each
    for task in dict.fromkeys((*tasks, *by_task)):
        claim, more, less = sides(by_task.get(task, {}))
        gap = paired_outcomes(more, less)
        if gap is None:
            yield _row(claim, task)
            continue
        seeds = len({seed for seed, _ in more} & {seed for seed, _ in less})
        star = max(each.mark for each in by_task[task].values())
        count = f"{seeds} × {gap.count // seeds}"
        yield _row(claim, task, (gap, count, PAIRS, star))


def _most_and_fewest(found: Mapping[str, Outcome]) -> Sides:
    claim = "Fig. 4: more candidates earn more"
    names = [name for name in found if name.startswith("grad_mpc_")]
    names.sort(key=lambda name: int(name.rpartition("_")[2]))
    if len(names) < 2:
        return claim, {}, {}
    return claim, dict(found[names[-1]].returns), dict(found[names[0]].returns)


def _refined_and_plain(found: Mapping[str, Outcome]) -> Sides:
    claim = "Table 2: Policy + Grad-MPC earns more than the policy"
    tried = [each for name, each in found.items() if name.startswith(EQUATION_6)]
    if not tried or "policy" not in found:
        return claim, {}, {}
    chosen = max(tried, key=lambda each: _mean(_starts(each, 0)))
    words = f"{claim} ({chosen.name.removeprefix(EQUATION_6)})"
    return words, _starts(chosen, 1), _starts(found["policy"], 1)


def _starts(each: Outcome, parity: int) -> dict[tuple[str, str], float]:
    """Return the outcomes from even or odd starts."""
    return {
        key: value for key, value in each.returns.items() if int(key[1]) % 2 == parity
    }


def _mean(returns: Mapping[tuple[str, str], float]) -> float:
    return sum(returns.values()) / max(len(returns), 1)
