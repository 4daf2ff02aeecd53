"""What stage (a) found: each planner's episodes, from the ledger and nothing else."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffplan._runs.settings import Settings
from diffplan._runs.tables import markdown_table, read_csv
from diffplan.planners.sampling.cem import CEM
from diffplan.planners.sampling.mppi import MPPI
from reproductions.common import ledger
from reproductions.common.provenance import Records, mark
from reproductions.common.stages import DONE
from reproductions.common.statistics import (
    Estimate,
    mean,
    proportion,
)
from reproductions.latco.comparison_config import ComparisonConfig
from reproductions.latco.comparison_model import HEAD
from reproductions.latco.comparison_planners import counted, evaluations, words
from reproductions.latco.reward_heads import READ

EXPERIMENT, ABLATIONS = "comparison", "ablations"
NO_BELIEF, MODEL_NO_BELIEF = "latco_no_belief", "model_no_belief"
"""Plans with a model of its own, without a deterministic path; and this model."""
HEADS = "heads"
"""What planners that doubt act with, beside the model."""
NAMES = {
    "latco": "LatCo",
    "latco_native": "LatCo, native engine",
    "latco_duals": "LatCo, method of multipliers",
    "latco_least": "LatCo, least of several reward heads",
    "latco_doubt": "LatCo, price of doubt between reward heads",
    "gd_many": "Shooting GD, many starts",
    "gd_one": "Shooting GD, one start",
    "cem_coloured": "CEM, coloured noise",
    "cem": "CEM",
    "mppi": "MPPI",
    "grad_mpc": "Grad-MPC",
    "latco_no_relaxation": "LatCo, no relaxation",
    "latco_no_constraints": "LatCo, no constrained optimisation",
    "latco_no_constraints_paper": "the same, weights 8 and 16",
    "latco_no_belief": "LatCo, no deterministic latent",
    "latco_first_order": "LatCo, no second order",
    "image_collocation": "Image collocation, of observations",
    "ilqr": "iLQR",
    "shooting_gn": "Shooting GN",
    "dual_gd": "Shooting GD, dual descent",
    "random": "random actions",
    "still": "no action",
}
IDLE = ("random", "still")
"""What success costs without a plan."""
REACHED = 0.05
"""Metres between finger and goal that count as success on reach."""
OPEN_LOOP = """\
What the models know, on held-out episodes. Rewards of seen states: 0 told from 1; near:
within 5 steps of a change. The rest predicts from actions alone, from where reward 0
was seen: reward told right, share of the steps with reward 1 that is predicted, and the
squared error of the decoded observation over that of a state which saw it too.
"""


@dataclass(frozen=True)
class Result:
    """One planner over all seeds.

    Attributes:
        name: Of the planner.
        task: With its suite.
        rows: Of the ledger, numbers where they are known.
        settings: In words.
        evaluations: Of the model per plan, in words.
        far: Metres.
        mark: `*` if what made them is in no commit, see `provenance.mark`.
        budget: Of CEM and MPPI, samples and refits in words.
    """

    name: str
    task: str
    rows: Sequence[Mapping[str, float]]
    settings: str
    evaluations: str
    far: float
    mark: str = ""
    budget: str = ""

    @property
    def seeds(self) -> list[int]:
        """The training seeds."""
        return sorted({int(row["seed"]) for row in self.rows})

    @property
    def outcomes(self) -> dict[tuple[int, int], float]:
        """Success by training seed and start."""
        return {(int(r["seed"]), int(r["episode"])): r["outcome"] for r in self.rows}

    @property
    def label(self) -> str:
        """Its name on the page."""
        return NAMES[self.name] + self.mark

    def counts(self, *, far: bool = False) -> list[tuple[int, int]]:
        """Return successes and episodes of each seed."""
        found = []
        for seed in self.seeds:
            rows = [row for row in self.rows if row["seed"] == seed]
            if far:
                rows = [row for row in rows if row["initial_distance"] >= self.far]
            found.append((sum(int(row["outcome"]) for row in rows), len(rows)))
        return found

    def success(self, *, far: bool = False) -> Estimate | None:
        """Return the rate: of one seed's episodes, or the mean over seeds."""
        counts = self.counts(far=far)
        if not all(trials for _, trials in counts):
            return None
        if len(counts) == 1:
            return proportion(*counts[0])
        return mean([hits / trials for hits, trials in counts])

    def average(self, column: str) -> float:
        """Return the mean of a column, NaN where a row does not know it."""
        return float(np.mean([row.get(column, np.nan) for row in self.rows]))

    def size(self) -> str:
        """Return seeds × episodes, `3 × 30`."""
        episodes = dict.fromkeys(str(trials) for _, trials in self.counts())
        return f"{len(self.seeds)} × {' or '.join(episodes)}"


def entries(directory: Path) -> Iterator[dict[str, object]]:
    """Yield the ledger's rows of the finished planners of a run folder."""
    for done in sorted(directory.glob(f"seed_*/*/{DONE}")):
        path = done.with_name("results.csv")
        record = json.loads(done.read_text(encoding="utf-8"))
        for row in read_csv(path) if path.exists() else ():
            yield entry(row, record)


def entry(row: Mapping[str, str], record: Mapping[str, Any]) -> dict[str, object]:
    """Return the ledger's row of a line of `results.csv`.

    What earlier versions did not write is empty, or computed where the rest tells it.

    Args:
        row: The line.
        record: Of the unit.
    """
    settings, task = _settings(record), str(record["settings"]["task"])
    decision = row.get("decision_seconds", "")
    solved = row.get("solved_at_start", "")
    if not solved and task == "metaworld/reach":
        solved = str(int(float(row["goal_distance"]) <= REACHED))
    return {
        "experiment": str(record["name"]).partition("/")[0],
        "unit": record["name"],
        "planner": str(record["name"]).rpartition("/")[2],
        "seed": _whole(row["seed"]),
        "episode": _whole(row["start"]),
        "outcome": _whole(row["success"]),
        "episode_return": row["episode_return"],
        "initial_distance": row["initial_distance"],
        "solved_at_start": _whole(solved),
        "model_evaluations": evaluations(
            settings, record["settings"]["evaluation"]["horizon"]
        ),
        "milliseconds": round(1000 * float(row["plan_seconds"]), 2),
        "cpu_milliseconds": round(1000 * float(row["plan_cpu_seconds"]), 2),
        "goal_distance": row["goal_distance"],
        "first_success": _whole(row["first_success"]),
        "predicted_return": row["predicted_return"],
        "plans": _whole(row["plans"]),
    } | ({"decision_seconds": decision} if decision else {})


def gathered(rows: Sequence[ledger.Row], records: Records) -> list[Result]:
    """Return the results of all planners, LatCo first.

    Args:
        rows: Of the ledger.
        records: Of the units, for their settings.
    """
    found = []
    for name in NAMES:
        own = [row for row in rows if row["planner"] == name]
        if not own:
            continue
        units = list(dict.fromkeys(row["unit"] for row in own))
        record = records[units[0]]
        settings, evaluation = _settings(record), record["settings"]["evaluation"]
        made_from = [
            *units,
            *(need for unit in units for need in _needs(unit, name, records)),
        ]
        found.append(
            Result(
                name=name,
                task=record["settings"]["task"],
                rows=[_numbers(row) for row in own],
                settings=words(settings),
                evaluations=counted(settings, evaluation["horizon"]),
                far=evaluation["far"],
                mark=mark(records, *made_from),
                budget=_budget(settings),
            )
        )
    return found


def title(task: str) -> str:
    """Return the task in words.

    Example:
        >>> title("metaworld/button-press")
        'sparse button-press'
    """
    return f"sparse {task.rpartition('/')[2]}"


def heads(directory: Path, summary: Path, model: str) -> dict[str, Any]:
    """Return how well models know the reward, those of published models too.

    Args:
        directory: Of the runs.
        summary: JSON of the published ones; it need not exist.
        model: Name of the units.
    """
    text = summary.read_text(encoding="utf-8") if summary.exists() else "{}"
    return json.loads(text).get("models", {}) | {
        path.parent.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(directory.glob(f"seed_*/{model}/{HEAD}"))
    }


def reward_heads(models: Mapping[str, Any], what: str = "Reward head") -> str:
    """Return in words how well models tell reward 0 from 1."""
    lines = [
        f"- {name.replace('_', ' ')}: {head['accuracy']:.4f} of {head['steps']} "
        f"held-out steps; {head['accuracy_near_changes']:.3f} of those within 5 steps "
        f"of one of {head['changes']} changes."
        for name, head in models.items()
    ]
    return f"{what}, 0 told from 1:\n\n" + "\n".join(lines) + "\n" if lines else ""


def open_loop(models: Mapping[str, Any]) -> str:
    """Return what models know ahead of what they saw; those that were asked."""
    header = ["model", "steps ahead", "reward", "near", "recall", "error"]
    rows: list[list[object]] = []
    for name, judged in models.items():
        if "open_loop" not in judged:
            continue
        seen = (judged["accuracy"], judged["accuracy_near_changes"])
        name = name.replace("_", " ")
        rows.append([name, "seen", *(f"{100 * v:.1f} %" for v in seen), "–", "–"])
        for ahead in sorted(judged["open_loop"], key=int):  # JSON sorts them as texts
            each = judged["open_loop"][ahead]
            told, recall = each["reward_accuracy"], each["recall"]
            share = "–" if np.isnan(recall) else f"{100 * recall:.0f} %"
            shares = [f"{100 * told:.1f} %", "–", share]
            rows.append([name, ahead, *shares, f"{each['error']:.2f}"])
    return f"{OPEN_LOOP}\n{markdown_table(header, rows)}" if rows else ""


def _settings(record: Mapping[str, Any]) -> Settings:
    name = str(record["name"]).rpartition("/")[2]
    kept = dict(record["settings"]["settings"])
    if name == "latco":  # there was no other before
        kept.setdefault("engine", "native")
    return ComparisonConfig().settings(name).replaced(**kept)


def _needs(unit: str, planner: str, records: Records) -> list[str]:
    """Return what a unit acts with: data and model of its stage, or of stage (a)."""
    own = unit.rpartition("/")[0]
    seed = own.rpartition("/")[2]
    owner = own if f"{own}/model" in records else f"{EXPERIMENT}/{seed}"
    if planner == NO_BELIEF:
        return [f"{EXPERIMENT}/{seed}/data", f"{ABLATIONS}/{seed}/{MODEL_NO_BELIEF}"]
    found = [f"{owner}/{need}" for need in ("data", "model")]
    return [*found, f"{own}/{HEADS}"] if planner in READ else found


def _budget(settings: Settings) -> str:
    if settings.kind not in (CEM, MPPI):
        return ""
    return f"{settings.num_samples:,} samples × {settings.iterations} refits"


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    words = ("experiment", "unit", "planner")
    return {k: float(v) for k, v in row.items() if v and k not in words}


def _whole(text: str) -> str:
    """Return a whole number as such: earlier tables have them as floats."""
    return str(int(float(text))) if text else ""
