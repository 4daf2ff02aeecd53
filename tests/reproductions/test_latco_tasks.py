"""Stage (i) of the LatCo reproduction: the sparse tasks beside reach."""

import json
from pathlib import Path

import pytest
from finished_runs import finished

from diffplan.errors import ArgumentError
from reproductions.common.experiment import Selection
from reproductions.common.page import write_page
from reproductions.latco.paper import PAPER
from reproductions.latco.tasks import FAR, PLANNERS


def test_each_task_has_episodes_model_and_starts_of_its_own(tmp_path: Path) -> None:
    units = PAPER.units("cpu", Selection(["tasks"], [3]), tmp_path)
    known = {unit.name: unit for unit in units}
    assert len(units) == len(known) == len(FAR) * (len(PLANNERS) + 3)
    for task in FAR:
        own = f"tasks/{task}/seed_3"
        assert known[f"{own}/data"].settings()["data"]["task"] == f"metaworld/{task}"
        latco = known[f"{own}/latco"]
        assert latco.settings()["evaluation"]["far"] == FAR[task]
        assert latco.directory == tmp_path / own / "latco"
        assert latco.run.keywords["model_path"] == tmp_path / own / "model" / "model.pt"
    axes = {"task": ["push"], "planner": ["latco", "cem"]}
    part = PAPER.units("cpu", Selection(["tasks"], [3], axes), tmp_path)
    assert {unit.name for unit in part} == {
        f"tasks/push/seed_3/{name}" for name in ("data", "model", "latco", "cem")
    }
    assert all(known[unit.name].settings() == unit.settings() for unit in part)


@pytest.mark.parametrize("words", ["data.task=metaworld/push", "evaluation.far=0.3"])
def test_what_each_task_has_of_its_own_is_not_set_for_all(
    words: str, tmp_path: Path
) -> None:
    chosen = Selection(["tasks"], settings=[f"tasks.{words}"])
    with pytest.raises(ArgumentError, match="each task has its own"):
        PAPER.units("cpu", chosen, tmp_path)


def test_tasks_stand_in_one_table_and_have_their_own(tmp_path: Path) -> None:
    runs, output = tmp_path / "runs", tmp_path / "output"
    finished(runs / "comparison", "latco", 0, [1, 1, 1, 1, 1])
    hits = {"push": [0, 0, 1, 0, 0], "button-press": [1, 1, 1, 1, 1]}
    for task, latco in hits.items():
        place = runs / "tasks" / task
        where = {"task": f"metaworld/{task}", "stage": f"tasks/{task}"}
        finished(place, "latco", 0, latco, **where)
        finished(place, "cem", 0, [0, 1, 1, 0, 0], **where)
        finished(place, "gd_many", 0, [0, 0, 1, 0, 0], **where)
        finished(place, "random", 0, [0, 0, 0, 0, 0], **where)
    page = write_page(PAPER, runs, output, "cpu").read_text()
    section = page[page.index("other sparse tasks") :]
    rows = [cells(line) for line in section.splitlines() if line.startswith("| ")]
    columns = next(row for row in rows if row[0] == "task")
    overview = {
        row[0]: dict(zip(columns, row, strict=True))
        for row in rows
        if row[0].startswith("sparse") and len(row) == len(columns)
    }
    assert len(overview) == 3
    assert "random actions" not in columns
    reach, button, push = overview.values()
    assert reach["CEM"] == "–"
    assert reach["LatCo"].startswith("100 %")
    assert push["LatCo"].startswith("20 %")
    # CEM did best of shooting on both: 2 of 5.
    best = "less the best of shooting"
    assert push[best].startswith("CEM: -20 points")
    assert button[best].startswith("CEM: +60 points")
    assert section.count("LatCo less each other planner") == 2
    assert "(i) sparse button-press, success" in page
    counts = json.loads((output / "tasks.json").read_text())["push"]
    assert counts["successes_and_episodes"]["cem"] == [[2, 5]]


def cells(line: str) -> list[str]:
    """Return the cells of a line of a table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_of_tasks_is_made_again_from_what_is_published(tmp_path: Path) -> None:
    runs, output = tmp_path / "runs", tmp_path / "output"
    where = {"task": "metaworld/push", "stage": "tasks/push"}
    finished(runs / "tasks" / "push", "latco", 0, [0, 0, 1, 0, 0], **where)
    head = {"accuracy": 0.99, "accuracy_near_changes": 0.9, "changes": 7, "steps": 600}
    path = runs / "tasks" / "push" / "seed_0" / "model" / "reward_head.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(head))
    page = write_page(PAPER, runs, output, "cpu").read_text()
    assert "0.900 of those" in page
    assert write_page(PAPER, tmp_path / "none", output, "cpu").read_text() == page
