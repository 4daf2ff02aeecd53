"""The section on the Lottery, computed from the ledger (Fig. 7)."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffplan._runs.figures import COLOURS, new_figure, save_figure
from diffplan._runs.tables import markdown_table, picture, read_csv, write_text
from diffplan.envs.lottery import PAYOFFS, Payoff
from reproductions.common import ledger
from reproductions.common.experiment import Results, Section
from reproductions.common.provenance import LEGEND, mark
from reproductions.common.statistics import Estimate, over_seeds, paired_outcomes
from reproductions.common.units import DONE
from reproductions.latco import paper_numbers
from reproductions.latco.lottery import EXPERIMENT

SUMMARY, FIGURE = "lottery.json", "lottery.png"
NAMES = {
    "gaussian": "Gaussian LatCo",
    "gaussian_many": "Gaussian LatCo, 8 starts",
    "latco": "LatCo",
    "latco_many": "LatCo, 8 starts",
    "cem": "CEM",
    "mppi": "MPPI",
    "gd": "shooting GD",
    "random": "random actions",
}
"""In the order of the page."""
SIMILAR = 0.2
"""Goals are chosen "in similar proportions" where their shares differ by less."""
DECIDED = 0.5
"""Least share of starts that end at a goal for a planner to be said to choose."""

READING = """\
Shares of {starts} starts, the same for all planners, with the same luck at each: the
mean over training seeds ({seeds}) with Student's interval, with one seed Wilson's. Each
episode is one plan of {steps} actions, executed to its end.
{payoffs}
*Expected return*: of the goals that were chosen, whatever the luck was. The luck of
these starts, one for all seeds, is in the *mean return*.
The model sees the place, the velocity and the colour of the goals as numbers; it is
trained once, on {episodes} episodes that
make for either goal in turn, and is the same for all. LatCo and Gaussian LatCo minimise
the sum of ½ softplus(−reward)², as the authors' code does, which shuns a loss more than
the expected reward would; the others maximise the sum of rewards. "8 starts": that many
random initial plans are optimised, and the cheapest is executed: by the model's mean
for LatCo, by the expected cost for Gaussian LatCo. These two rows were added after one
start had been seen to choose the bottom goal with the model of seed 0, from these
starts: where there are other seeds, their verdicts leave it out. The paper shows
curves, from images, and no numbers.
"""
RISK = """\
### Whether the model knows the risk

From the starts of held-out episodes, with one goal held as the action. *By the mean*:
the predicted return where each next state is the mean of its distribution, which is
what LatCo, CEM, MPPI and GD plan with. *Sampled*: the mean return of sampled rollouts,
and the share of them that wins or loses more than half of the pay-off. Gaussian LatCo
can know no more than what is sampled. *Seen*: the mean reward of states filtered from
what was seen, where this reward was earned.

{table}
"""
CLAIMS = """\
### The paper's claims

{table}
Preference: share of the top goal less that of the bottom goal. Intervals of 95 %: by
Student's t over training seeds and starts together (with one seed: over starts
alone). *Held* where the whole interval says so, *contradicted* where all of it
says the opposite, else *not seen*. "In similar proportions" is read as: the shares
differ by less than {similar} points. Of a planner that ends at a goal from fewer than
{decided} % of the starts nothing is said: *not seen*.
"""


def report(results: Results) -> Section | None:
    """Put finished units into the ledger; return the section that is made of it."""
    output = results.output
    ledger.add(output, entries(results.runs))
    rows = ledger.read(output, EXPERIMENT)
    if not rows:
        return None
    by = {n: own for n in NAMES if (own := [r for r in rows if r["planner"] == n])}
    risks = _risks(results.runs, output)
    checks = claims(by)
    summary = {
        "planners": {name: _numbers(own) for name, own in by.items()},
        "claims": [dict(zip(_CLAIM, check, strict=True)) for check in checks],
        "models": risks,
    }
    write_text(output / SUMMARY, json.dumps(summary, indent=2) + "\n")
    save_figure(figure(by), output / FIGURE)
    known = paper_numbers.load()["figure_7"]
    shown = "The Lottery's choices (Fig. 7)"
    text = [_table(by, known, results.records), picture(FIGURE, shown)]
    text.append(_reading(by, results.records))
    if risks:
        text.append(RISK.format(table=_risk_table(risks)))
    table = markdown_table(_CLAIM, checks)
    text.append(
        CLAIMS.format(
            table=table, similar=round(100 * SIMILAR), decided=round(100 * DECIDED)
        )
    )
    return Section("\n".join(text))


def entries(directory: Path) -> Iterator[dict[str, object]]:
    """Yield the ledger's rows of the finished planners of a run folder."""
    for done in sorted(directory.glob(f"seed_*/*/{DONE}")):
        path = done.with_name("results.csv")
        record = json.loads(done.read_text(encoding="utf-8"))
        for row in read_csv(path) if path.exists() else ():
            yield {
                "experiment": EXPERIMENT,
                "unit": record["name"],
                "planner": done.parent.name,
                "seed": done.parent.parent.name.removeprefix("seed_"),
                "episode": row["start"],
                "outcome": row["top"],
                "choose_bottom": row["bottom"],
                "episode_return": row["episode_return"],
                "predicted_return": row["predicted_return"],
                "model_evaluations": row["model_evaluations"],
                "milliseconds": round(1000 * float(row["plan_seconds"]), 2),
                "cpu_milliseconds": round(1000 * float(row["plan_cpu_seconds"]), 2),
            }


Rows = Sequence[Mapping[str, str]]


def _top(row: Mapping[str, str]) -> float:
    return float(row["outcome"])


def _bottom(row: Mapping[str, str]) -> float:
    return float(row["choose_bottom"])


def _none(row: Mapping[str, str]) -> float:
    return 1.0 - _top(row) - _bottom(row)


def _preference(row: Mapping[str, str]) -> float:
    return _top(row) - _bottom(row)


def _earned(row: Mapping[str, str]) -> float:
    return float(row["episode_return"])


def _of(rows: Rows, number: Callable[[Mapping[str, str]], float]) -> Estimate:
    """Return a number's mean over training seeds; one seed's, over its starts."""
    seeds: dict[str, list[float]] = {}
    for row in rows:
        seeds.setdefault(row["seed"], []).append(number(row))
    shares = all(set(values) <= {0.0, 1.0} for values in seeds.values())
    return over_seeds(seeds.values(), shares=shares)


def _numbers(rows: Rows) -> dict[str, Any]:
    return {
        "seeds": sorted({int(row["seed"]) for row in rows}),
        "top": _of(rows, _top).value,
        "bottom": _of(rows, _bottom).value,
        "none": _of(rows, _none).value,
        "mean_return": _of(rows, _earned).value,
    }


def _table(by: Mapping[str, Rows], known: Mapping[str, str], records: Any) -> str:
    shares = ["planner", "top", "bottom", "none"]
    header = [*shares, "expected return", "mean return", "top, each seed"]
    payoff = _payoff(by, records)
    lines, marked = [], False
    for name, rows in by.items():
        units = dict.fromkeys(row["unit"] for row in rows)
        folders = [unit.rpartition("/")[0] for unit in units]
        made_from = [f"{f}/{need}" for f in folders for need in ("data", "model", name)]
        star = mark(records, *made_from)
        marked = marked or bool(star)
        seeds = sorted({row["seed"] for row in rows}, key=int)
        each = [[r for r in rows if r["seed"] == seed] for seed in seeds]
        lines.append(
            [
                NAMES[name] + star,
                *(_of(rows, share).percent() for share in (_top, _bottom, _none)),
                _of(
                    rows, lambda r: payoff.top * _top(r) + payoff.bottom * _bottom(r)
                ).number(1),
                _of(rows, _earned).number(1),
                ", ".join(f"{100 * np.mean([_top(r) for r in o]):.0f}" for o in each),
                f"{np.mean([float(row['milliseconds']) for row in rows]):.0f}",
                known.get(name, "–"),
            ]
        )
    table = markdown_table([*header, "ms per plan", "paper (Fig. 7)"], lines)
    return table + (f"\n{LEGEND}\n" if marked else "")


def _payoff(by: Mapping[str, Rows], records: Any) -> Payoff:
    """Return what the goals pay in the task of these rows."""
    settings = records[next(iter(by.values()))[0]["unit"]]["settings"]
    return PAYOFFS[settings["task"].rpartition("/")[2]]


def _reading(by: Mapping[str, Rows], records: Any) -> str:
    rows = next(iter(by.values()))
    settings = records[rows[0]["unit"]]["settings"]
    data = records[rows[0]["unit"].rpartition("/")[0] + "/data"]["settings"]
    payoff = _payoff(by, records)
    payoffs = (
        f"Top pays {payoff.top:+g}; bottom {payoff.win:+g} with {payoff.chance:.0%} "
        f"probability, else {payoff.loss:+g}: {payoff.bottom:+.1f} on average."
    )
    return READING.format(
        starts=len({row["episode"] for row in rows}),
        seeds=", ".join(sorted({row["seed"] for row in rows}, key=int)),
        steps=settings["steps"],
        payoffs=payoffs,
        episodes=data["counts"][0],
    )


def _risks(directory: Path, output: Path) -> dict[str, Any]:
    """Return what models know of the risk, those of published models too."""
    path = output / SUMMARY
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return before.get("models", {}) | {
        found.parent.parent.name: json.loads(found.read_text(encoding="utf-8"))
        for found in sorted(directory.glob("seed_*/risk/risk.json"))
    }


def _risk_table(risks: Mapping[str, Any]) -> str:
    header = ["seed", "goal", "truth", "by the mean", "sampled", "wins", "losses"]
    lines = []
    for seed, found in sorted(risks.items()):
        said = {float(k): v for k, v in found["seen"].items() if float(k) != 0}
        for goal in ("top", "bottom"):
            own = found[goal]
            mine = {k: v for k, v in said.items() if (k == 1.0) == (goal == "top")}
            lines.append(
                [
                    seed.removeprefix("seed_"),
                    goal,
                    f"{own['truth']:+.1f}",
                    f"{own['by_the_mean']:+.1f} ± {own['by_the_mean_std']:.1f}",
                    f"{own['sampled']:+.1f} ± {own['sampled_std']:.1f}",
                    f"{own['sampled_wins']:.0%}",
                    f"{own['sampled_losses']:.0%}",
                    "; ".join(f"{v:+.1f} for {k:+g}" for k, v in mine.items()),
                ]
            )
    return markdown_table([*header, "seen"], lines)


_PAIRS = (
    ("gaussian", "latco"),
    ("gaussian_many", "latco_many"),
    *(("gaussian", name) for name in ("cem", "mppi", "gd")),
)
_CLAIM = ["claim", "ours [95 %]", "verdict"]


def claims(by: Mapping[str, Rows]) -> list[list[str]]:
    """Return each claim of section 5.5 that the rows can judge, with its verdict."""
    by, found = {name: _unseen(name, rows) for name, rows in by.items()}, []
    for name, planner in NAMES.items():
        if name not in by or name in ("random", "mppi"):
            continue  # of MPPI the paper only says that it fails
        gap = _preferred(by[name])
        if name.startswith("gaussian"):
            claim, verdict = "prefers the top goal", gap.verdict()
        elif name == "cem":
            claim, verdict = "prefers the bottom goal", _opposite(gap).verdict()
        else:
            claim, verdict = "visits both in similar proportions", _similar(gap)
        if np.mean([1.0 - _none(row) for row in by[name]]) < DECIDED:
            verdict = "not seen"
        found.append([f"{planner} {claim}", f"preference {gap.points()}", verdict])
    best = {name: _table_of(rows, _top) for name, rows in by.items()}
    for one, other in _PAIRS:
        both = one in by and other in by
        less = paired_outcomes(best[one], best[other]) if both else None
        if less is not None:
            claim = f"{NAMES[one]} chooses the top goal more often than {NAMES[other]}"
            found.append([claim, less.points(), less.verdict()])
    return found


def _unseen(name: str, rows: Rows) -> Rows:
    """Return the rows that had not been looked at when a planner was added."""
    others = [row for row in rows if row["seed"] != "0"]
    return others if others and name.endswith("_many") else rows


def _table_of(
    rows: Rows, number: Callable[[Mapping[str, str]], float]
) -> dict[tuple[str, str], float]:
    return {(row["seed"], row["episode"]): number(row) for row in rows}


def _preferred(rows: Rows) -> Estimate:
    gaps = _table_of(rows, _preference)
    found = paired_outcomes(gaps, dict.fromkeys(gaps, 0.0))
    assert found is not None  # there are rows
    return found


def _opposite(gap: Estimate) -> Estimate:
    return Estimate(-gap.value, -gap.high, -gap.low, gap.count)


def _similar(gap: Estimate) -> str:
    if gap.low > -SIMILAR and gap.high < SIMILAR:
        return "held"
    apart = gap.low > SIMILAR or gap.high < -SIMILAR
    return "contradicted" if apart else "not seen"


def figure(by: Mapping[str, Rows]) -> Any:
    """Draw each planner's shares of top, bottom and neither."""
    drawn, axes = new_figure(size=(6.4, 3.0))
    axis, left = axes[0, 0], np.zeros(len(by))
    names = [NAMES[name] for name in by]
    shares = {"top": _top, "bottom": _bottom, "neither": _none}
    colours = (COLOURS[2], COLOURS[1], "#c0c4c8")
    for (label, share), colour in zip(shares.items(), colours, strict=True):
        width = np.array([_of(rows, share).value for rows in by.values()])
        axis.barh(names, width, left=left, color=colour, label=label)
        left = left + width
    axis.invert_yaxis()
    axis.set(xlabel="share of episodes (mean over seeds)", xlim=(0, 1))
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return drawn
