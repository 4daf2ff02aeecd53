"""Trained runs with other planner settings (Table 2), computed from the ledger."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diffplan._runs.tables import markdown_table, read_csv
from reproductions.common import ledger
from reproductions.common.experiment import Results, Section
from reproductions.common.provenance import LEGEND, Records, mark
from reproductions.common.runs import folders
from reproductions.common.statistics import (
    Estimate,
    mean,
    over_seeds,
    paired_outcomes,
)
from reproductions.common.units import read_record
from reproductions.latco import paper_numbers
from reproductions.latco.evaluation import (
    AS_TRAINED,
    EXPERIMENT,
    RESTARTED,
    RESULTS,
    difference,
)
from reproductions.latco.report import deviations

READING = """\
Each run's last model, or its best with `keep_best`, acts without exploration noise from
the same starts with all settings. The settings named are those that differ from
training: `num_starts=8` plans from eight initialisations and keeps the plan whose
predicted return is best. Score: success of the episode where the task knows it, else
the return; over several training seeds with Student's interval, with one about its
episodes. Less as trained: paired by training seed and start, with Student's interval
over both. The paper's numbers are of Table 2, where LatCo and gradient descent
start several times.
"""


@dataclass(frozen=True)
class Line:
    """Episodes of a task with one planner setting.

    Attributes:
        task: Name.
        planner: That the run was trained with.
        setting: What differs from training.
        rows: Of the ledger.
        mark: `*` if what made them is in no commit, see `provenance.mark`.
    """

    task: str
    planner: str
    setting: str
    rows: list[ledger.Row]
    mark: str

    @property
    def success(self) -> bool:
        """Whether success counts, and not the return."""
        return self.rows[0]["outcome"] != ""

    @property
    def outcomes(self) -> dict[tuple[int, int], float]:
        """What counts, by training seed and start."""
        column = "outcome" if self.success else "episode_return"
        return {
            (int(r["seed"]), int(r["episode"])): float(r[column]) for r in self.rows
        }

    @property
    def paper(self) -> str:
        """What the paper reports of these settings."""
        known = paper_numbers.find(self.task, self.planner)
        same = (self.setting == AS_TRAINED) == (self.planner not in RESTARTED)
        table_2 = known is not None and known.reference.startswith("Table 2")
        return known.text() if known and table_2 and same else "–"

    def score(self) -> Estimate:
        """Return the mean, see `READING`."""
        seeds: dict[int, list[float]] = {}
        for (seed, _), value in self.outcomes.items():
            seeds.setdefault(seed, []).append(value)
        return over_seeds(seeds.values(), shares=self.success)


def report(results: Results) -> Section | None:
    """Put the finished units into the ledger; return a section made from it."""
    ledger.add(results.output, entries(results.runs))
    lines = gathered(ledger.read(results.output, EXPERIMENT), results.records)
    if not lines:
        return None
    bases = {(x.task, x.planner): x for x in lines if x.setting == AS_TRAINED}
    kind = "paper" if results.preset == "paper" else "online"
    table, head = [], []
    for line in lines:
        score, base = line.score(), bases.get((line.task, line.planner))
        ours = score.percent() if line.success else score.number()
        gap = None
        if base is not None and base is not line:
            gap = paired_outcomes(line.outcomes, base.outcomes)
        less = "–" if gap is None else gap.points() if line.success else gap.number()
        seeds = len({seed for seed, _ in line.outcomes})
        table.append(
            [
                line.task,
                line.planner + line.mark,
                line.setting,
                ours,
                f"{seeds} × {len(line.outcomes) // seeds}",
                less,
                f"{mean([float(r['milliseconds']) for r in line.rows]).value:.0f}",
                line.paper,
            ]
        )
        value, _, interval = ours.partition(" [")
        head.append(
            [
                f"(h) {line.task}, {'success' if line.success else 'return'}",
                f"{paper_numbers.load()['planners'][line.planner]}, {line.setting}",
                line.paper,
                value,
                interval.rstrip("]").replace(", ", " … ") or "one episode",
                "–",
                results.preset,
                deviations(kind, line.task, ", 14"),
            ]
        )
    columns = ["task", "trained with", "setting", "score [95 %]", "n"]
    columns += ["less as trained [95 %]", "ms per plan", "paper"]
    legend = [LEGEND + "\n"] if any(line.mark for line in lines) else []
    return Section("\n".join([markdown_table(columns, table), *legend, READING]), head)


def entries(runs: Path) -> Iterator[dict[str, object]]:
    """Yield the ledger's rows of the finished units of a run folder."""
    for folder in folders(runs):
        record = read_record(folder)
        if record is None:
            continue
        settings = record["settings"]
        trained = settings["run"]["planner"]
        for row in read_csv(folder / RESULTS):
            yield {
                "experiment": EXPERIMENT,
                "unit": record["name"],
                "planner": settings["planner"]["name"],
                "seed": settings["seed"],
                "task": settings["run"]["task"],
                "trained_with": trained["name"],
                "setting": difference(trained, settings["planner"]),
                **row,
            }


def gathered(rows: list[ledger.Row], records: Records) -> list[Line]:
    """Return the rows by task, run and setting, of each run as trained first."""
    found: dict[tuple[str, str, str], list[ledger.Row]] = {}
    for row in rows:
        key = row["task"], row["trained_with"], row["setting"]
        found.setdefault(key, []).append(row)
    order = sorted(found, key=lambda key: (*key[:2], key[2] != AS_TRAINED, key[2]))
    return [Line(*key, found[key], _mark(found[key], records)) for key in order]


def _mark(rows: list[ledger.Row], records: Records) -> str:
    """Return the mark of the units, and of the runs that they were made from."""
    units = {row["unit"] for row in rows}
    made_from = {n for u in units if u in records for n in records[u].get("inputs", {})}
    return mark(records, *units, *made_from)
