"""LatCo's offline episodes, and how its images are drawn."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffplan import envs
from diffplan._runs.stopwatch import Stopwatch
from diffplan.training.episode import Episode
from reproductions.common.online_report import summarise
from reproductions.common.online_runs import History, Run, entries
from reproductions.latco import report
from reproductions.latco.comparison_config import DataConfig
from reproductions.latco.data import DETOUR_EVERY, expert_number, expert_settings
from reproductions.latco.offline import TABLE, outcomes
from reproductions.latco.online import (
    make_environment,
    offline_data,
    scripted_episode,
)
from reproductions.latco.online_config import HYBRID, TASKS, paper_run
from reproductions.latco.paper import PAPER

README = Path(report.__file__).parent / "README.md"


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 6, 9])
def test_every_noise_of_the_expert_detours_as_often(levels: int) -> None:
    period = DETOUR_EVERY * levels * levels
    counts = Counter(expert_settings(nth, levels) for nth in range(period))
    for level in range(levels):
        assert counts[level, True] == period / levels / DETOUR_EVERY
        assert counts[level, False] == 2 * counts[level, True]


def test_two_levels_alternate_as_in_the_published_runs() -> None:
    settings = [expert_settings(nth, 2) for nth in range(60)]
    assert settings == [(nth % 2, nth % 3 == 0) for nth in range(60)]


def test_experts_are_numbered_without_gaps() -> None:
    experts = [index for index in range(50) if index % 5 in (2, 4)]
    assert [expert_number(index) for index in experts] == list(range(20))


@pytest.mark.parametrize("task", HYBRID)
def test_offline_detours_leave_half_of_the_episode(task: str) -> None:
    run = paper_run(task)
    data = offline_data(run)
    assert data.expert_noise == (0.1, 0.3, 0.6)
    assert data.detour == (10, 40)
    # The same simulated time as in stage (a), which repeats no action.
    assert data.detour[1] * run.training.action_repeat == DataConfig().detour[1]


@pytest.mark.parametrize("task", HYBRID)
def test_an_expert_of_little_noise_solves_its_offline_episode(task: str) -> None:
    pytest.importorskip("metaworld")
    run = replace(paper_run(task), observation="state")
    data, index = offline_data(run), 14
    assert expert_settings(expert_number(index), 3) == (0, False)
    env = make_environment(run, Stopwatch())
    episode = scripted_episode(env, data, seed=0, index=index)
    assert episode.succeeded
    assert episode.length == 75


def test_outcomes_are_counted_by_noise_and_detour() -> None:
    def episode(success: float) -> Episode:
        return Episode(
            observations=np.zeros((2, 1), np.float32),
            actions=np.zeros((1, 1), np.float32),
            rewards=np.zeros(1, np.float32),
            success=np.array([success], np.float32),
        )

    data = DataConfig(task="metaworld/thermos", expert_noise=(0.1, 0.3, 0.6))
    rows = outcomes(data, [episode(float(index == 14)) for index in range(30)])
    assert sum(row["episodes"] for row in rows) == 30
    solved = [row for row in rows if row["solved"]]
    assert [(row["noise"], row["detour"]) for row in solved] == [("0.1", "no")]
    assert sum(row["episodes"] for row in rows if row["behaviour"] == "expert") == 12


@pytest.mark.parametrize("task", TASKS)
def test_the_papers_preset_draws_faithfully_unless_asked(task: str) -> None:
    run = PAPER.settings("paper", cell={"task": task}).paper
    assert run.render_preset == "faithful"
    asked = ["paper.render_preset=fast"]
    run = PAPER.settings("paper", asked, {"task": task}).paper
    assert run.render_preset == "fast"
    assert PAPER.settings("cpu").pixels.render_preset == "fast"


@pytest.mark.parametrize("preset", ["faithful", "fast"])
def test_a_run_draws_with_its_preset(preset: str) -> None:
    run = replace(paper_run("cheetah-run"), observation="state", render_preset=preset)
    assert make_environment(run, Stopwatch()).options.render_preset == preset


@pytest.mark.render
def test_faithful_images_are_those_of_mujocos_default_settings() -> None:
    import mujoco

    env = envs.make(
        "dm_control/reacher-easy", observation="pixels", render_preset="faithful"
    )
    ours, _ = env.reset(seed=0)
    model, data = env._simulation()
    model.vis.quality.shadowsize, model.vis.quality.offsamples = 4096, 4
    renderer = mujoco.Renderer(model, 64, 64)
    renderer.update_scene(data, 0)
    theirs = renderer.render().transpose(2, 0, 1)
    renderer.close()
    env.close()
    assert np.abs(ours.astype(int) - theirs).mean() < 0.5


@pytest.mark.parametrize(
    ("observation", "settings", "listed"),
    [
        ("pixels", {"render_preset": "fast"}, True),
        ("pixels", {"render_preset": "faithful"}, False),
        ("pixels", {}, True),  # Runs from before there was a choice.
        ("state", {"render_preset": "fast"}, False),
    ],
)
def test_fast_images_are_a_deviation_of_their_row(
    observation: str, settings: dict[str, str], listed: bool
) -> None:
    run = {
        "task": "metaworld/reach",
        "planner": {"name": "latco"},
        "observation": observation,
        **settings,
    }
    metrics = {"collect/return": 0.0, "collect/success": 0.0}
    episode = {"collect/episode_0/success": 0.0, "collect/episode_0/return": 0.0}
    rounds = [{**metrics, **episode}] * 2
    history = History(0, {"run": run}, [150, 300], rounds)
    made = [{k: str(v) for k, v in r.items()} for r in entries(history, "paper", "a")]
    source = {"commit": "0123", "dirty": False}
    records = {"a": {"settings": {"run": run}, "source": source}}
    row = summarise([Run(run["task"], "latco", 0, "a", made)], 100, {}, records)
    deviations = report._online_row(row, "paper", "paper", "")[-1]
    assert deviations == "7, 8, 9, 10" + (", 11" if listed else "")


def test_the_readme_quotes_the_table_of_offline_episodes() -> None:
    with TABLE.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["detour"] == "no"]
    text = " ".join(README.read_text(encoding="utf-8").split())
    for task in HYBRID:
        mine = [row for row in rows if row["task"] == f"metaworld/{task}"]
        assert [row["noise"] for row in mine] == ["0.1", "0.3", "0.6"]
        assert [row["episodes"] for row in mine] == ["18", "17", "18"]
        few, some, many = (row["solved"] for row in mine)
        assert f"{task} {few}, {some} and {many}" in text


def test_the_deviations_that_rows_name_are_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    named = ", ".join([*report.DEVIATIONS.values(), report.FAST_IMAGES.strip(", ")])
    for number in set(named.split(", ")):
        assert f"\n{number}. **" in text
