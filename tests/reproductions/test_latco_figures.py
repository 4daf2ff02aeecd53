"""Figures 1, 11 and 12 of LatCo: plans followed through iterations, a reward's map."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from finished_runs import finished
from toy_paper import results_of

import diffplan as dp
from diffplan._runs.settings import Settings
from diffplan._runs.tables import write_csv
from diffplan.models.rssm import RSSM
from diffplan.training.seeding import make_generator
from reproductions.common.experiment import Selection
from reproductions.common.units import DONE
from reproductions.latco import comparison_report, figures, figures_report
from reproductions.latco.comparison_config import MODEL, EvaluationConfig
from reproductions.latco.comparison_planners import DESCENT, LATCO_NATIVE
from reproductions.latco.iterates import first_states, follow, start_seeds
from reproductions.latco.paper import PAPER

STARTS = EvaluationConfig(starts=3, trace_starts=3, horizon=6, far=0.3)


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    small = MODEL.replaced(state_size=4, belief_size=6, hidden_size=16)
    path = tmp_path / "model.pt"
    small.build(torch.randn(9, 18), 4).save(path)
    return path


@pytest.mark.parametrize("settings", [LATCO_NATIVE, DESCENT])
def test_what_is_followed_is_what_fewer_iterations_end_with(settings: Settings) -> None:
    """Each iterate is the plan of a planner that stops there."""
    model = RSSM((5,), 2, belief_size=6, state_size=4, hidden_size=8)
    state = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    squares = settings is LATCO_NATIVE
    cost = dp.objectives.SoftplusReward if squares else dp.objectives.NegativeReturn
    box = dp.Box([-1.0] * 2, [1.0] * 2)
    problem = dp.PlanningProblem(model.step, cost(model.reward), box)

    def followed(iterations: int) -> torch.Tensor:
        planner = settings.replaced(iterations=iterations).build(5)
        return follow(planner, problem, state, make_generator(0, "plan"))[0]

    states = followed(4)
    assert states.shape == (3, 5, 6, 10)
    for iteration in (1, 2, 3):
        torch.testing.assert_close(states[:, iteration], followed(iteration)[:, -1])
    assert (states[:, :, 0] == state[:, None]).all()


def test_a_plan_is_kept_as_it_improves(tmp_path: Path, model_path: Path) -> None:
    pytest.importorskip("metaworld")
    settings = LATCO_NATIVE.replaced(iterations=20)
    figures.plan(tmp_path, model_path, "metaworld/reach", settings, STARTS, seed=0)
    found = np.load(tmp_path / figures.PLAN)
    for name in ("reward", "violation", "multiplier"):
        assert found[name].shape == (3, 20)
    assert found["iterations"].tolist() == [0, 1, 2, 6, 20]
    assert found["hands"].shape == (5, 7, 3)
    # The first far start is shown, and its last plan is what the traces end with.
    model = RSSM.load(model_path)
    seeds = start_seeds(STARTS)
    state, infos, _ = first_states(model, "metaworld/reach", seeds)
    start = next(i for i, far in enumerate(infos["initial_distance"]) if far >= 0.3)
    hand = model.decode(state[start])[:3].detach()
    assert np.allclose(found["hands"][:, 0], hand, atol=1e-5)
    assert found["rewards"][-1].sum() == pytest.approx(found["reward"][start, -1])
    assert found["goal"] == pytest.approx([-0.1, 0.8, 0.245])


def test_the_map_has_the_reward_of_each_place(tmp_path: Path, model_path: Path) -> None:
    pytest.importorskip("metaworld")
    figures.draw_map(tmp_path, model_path, "metaworld/reach", points=4, looks=3, seed=0)
    found = np.load(tmp_path / figures.MAP)
    assert found["x"][[0, -1]].tolist() == pytest.approx([-0.5, 0.5])
    assert found["y"][[0, -1]].tolist() == pytest.approx([0.4, 1.0])
    model, env = RSSM.load(model_path), dp.envs.make("metaworld/reach")
    observation, _ = env.reset(seed=0)
    env.close()
    observation[:3] = found["x"][1], found["y"][2], 0.245
    state, still = model.initial_state(), torch.zeros(4)
    for _ in range(3):
        state = model.observe(state, still, torch.from_numpy(observation))
    expected = float(model.reward(state).detach())
    assert found["reward"][2, 1] == pytest.approx(expected, abs=1e-5)
    assert found["reward"].std() > 1e-4  # else every place would do


def test_the_profile_of_a_cone_is_its_slope() -> None:
    x, y = np.linspace(-0.5, 0.5, 101), np.linspace(0.4, 1.0, 61)
    goal = np.array([-0.1003, 0.8007, 0.2])  # no point on the edge of a bin
    distance = np.hypot(x - goal[0], (y - goal[1])[:, None])
    arrays = {"x": x, "y": y, "goal": goal, "reward": 1 - distance}
    places, (low, middle, high) = figures_report.reward_profile(arrays)
    assert len(places) == 25
    assert np.abs(1 - places - middle).max() < 0.005
    # A bin is 2 cm wide.
    assert (high - low < 0.02).all()
    assert (low <= middle).all()
    assert (middle <= high).all()


def left(runs: Path, name: str, seed: int, **arrays: np.ndarray) -> None:
    """Write what a unit of the figures leaves behind."""
    folder = runs / f"seed_{seed}" / name
    folder.mkdir(parents=True)
    kind = figures.MAP if name == "map" else figures.PLAN
    figures.save(folder / kind, **{k: torch.tensor(v) for k, v in arrays.items()})
    source = {"commit": "0" * 40, "dirty": False}
    unit = f"figures/seed_{seed}/{name}"
    record = {"name": unit, "settings": {}, "source": source}
    (folder / DONE).write_text(json.dumps(record))


def test_the_figures_are_drawn_again_from_what_is_published(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs, output = tmp_path / "runs", tmp_path / "output"
    plan = {
        "iterations": np.array([0, 2]),
        "hands": np.zeros((2, 4, 3)),
        "rewards": np.ones((2, 3)),
        "goal": np.array([-0.1, 0.8, 0.2]),
    }
    for seed in (0, 1):
        rising = np.arange(12.0).reshape(4, 3) + 90 * seed
        traces = {"reward": rising, "violation": rising + 1, "multiplier": rising + 2}
        left(runs, "latco", seed, **plan, **traces)
    left(runs, "gd_one", 0, **plan, reward=np.full((4, 3), 5.0))
    place = np.linspace(0, 1, 3)
    flat = {"x": place, "y": place, "reward": np.zeros((3, 3)), "goal": np.zeros(3)}
    left(runs, "map", 0, **flat)
    section = figures_report.report(results_of(runs, output))
    assert section is not None
    lines = [line for line in section.text.splitlines() if line.startswith("| ")]
    # The eight starts end at 2, 5, 8, 11 and 92, 95, 98, 101; their middle is 51.5.
    assert "| 52 [4.1, 99] |" in lines[2]
    assert "| 2 × 4 |" in lines[2]
    assert lines[3].startswith("| Shooting GD, one start | 1 × 4 | 5 [5, 5] | – |")
    names = [*figures_report.FIGURES, figures_report.DATA]
    before = {name: (output / name).read_bytes() for name in names}
    again = figures_report.report(results_of(tmp_path / "none", output))
    assert again == section
    assert before == {name: (output / name).read_bytes() for name in names}


def test_figures_show_the_models_of_the_comparison(tmp_path: Path) -> None:
    shared = PAPER.units("cpu", Selection(["comparison"], [0, 1]), tmp_path)
    units = PAPER.units("cpu", Selection(["figures"], [0, 1]), tmp_path)
    known = {unit.name: unit for unit in shared}
    own = [unit for unit in units if unit.name.startswith("figures/")]
    assert len(own) == 2 * 4
    for unit in set(units) - set(own):
        assert unit.settings() == known[unit.name].settings()
        assert unit.directory == known[unit.name].directory
    for unit in own:
        (model,) = unit.needs
        path = unit.run.keywords["model_path"]
        assert path == known[model].directory / "model.pt"
        assert unit.directory == tmp_path / unit.name


def test_a_picture_keeps_the_seeds_that_joining_runs_do_not_have(
    tmp_path: Path,
) -> None:
    """Fig. 6 is made of traces, which no ledger has."""
    pytest.importorskip("matplotlib")
    runs, output = tmp_path / "runs", tmp_path / "output"
    names = ("predicted_return", "dynamics_violation")
    row = {f"{name}_{end}": 1.0 for name in names for end in ("mean", "low", "high")}
    finished(runs, "latco", 1, [1, 0])
    write_csv(runs / "seed_1/trace/trace.csv", [{"seed": 1, "iteration": 1, **row}])
    output.mkdir()
    picture = output / "comparison_optimization.png"
    picture.write_bytes(b"of seed 0")
    published = {f"comparison/seed_{seed}/trace": {} for seed in (0, 1)}
    results = results_of(runs, output)
    results = replace(results, records={**results.records, **published})
    comparison_report.write(results)
    assert picture.read_bytes() == b"of seed 0"
    write_csv(runs / "seed_0/trace/trace.csv", [{"seed": 0, "iteration": 1, **row}])
    comparison_report.write(results)
    assert picture.stat().st_size > 1000
