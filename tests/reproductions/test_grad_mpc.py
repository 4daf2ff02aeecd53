"""Grad-MPC's experiments: settings of the paper, contests, and their tables."""

from pathlib import Path

import pytest
import torch
from toy_paper import results_of

from diffplan import Box, PlanningProblem, StochasticProblem
from diffplan._runs.tables import read_csv
from diffplan.agents import PlanningAgent
from diffplan.models import Actor
from diffplan.models.rssm import RSSM
from diffplan.objectives.reward import NegativeReturn
from diffplan.planners.gradient import GradMPC, PolicyGradMPC
from diffplan.planners.sampling import Search
from diffplan.planners.sampling.cem import CEM
from reproductions.common import ledger
from reproductions.common.command import DONE, Command
from reproductions.common.experiment import Selection
from reproductions.grad_mpc import (
    claims,
    contest,
    dreamer_settings,
    frozen,
    report,
    settings,
)
from reproductions.grad_mpc.contest import Contender, PolicyCEM
from reproductions.grad_mpc.dreamer_settings import DreamerStage
from reproductions.grad_mpc.online import Policy, new_policy
from reproductions.grad_mpc.paper import PAPER

BOX = Box([-1.0], [1.0])


def test_tables_3_and_4_are_the_settings() -> None:
    config: settings.PlanetConfig = PAPER.settings("paper").planet
    repeats = {"cartpole-swingup": 8, "reacher-easy": 4, "finger-spin": 2}
    repeats |= {"walker-walk": 2, "cheetah-run": 4}
    for task, repeat in repeats.items():
        run = config.of(task, "grad_mpc")
        assert run.training.action_repeat == repeat
        assert run.task == f"dm_control/{task}"
    planner = run.planner.build()
    assert isinstance(planner, GradMPC)
    assert (planner.horizon, planner.num_starts, planner.iterations) == (12, 1000, 40)
    search = config.of("cheetah-run", "cem").planner.build()
    assert isinstance(search, CEM)
    assert (search.num_samples, search.num_elites, search.iterations) == (1000, 100, 10)
    training, optimizer = run.training, run.training.optimizer
    assert (training.seed_episodes, training.updates_per_round) == (5, 100)
    assert (training.batch_size, run.exploration) == (50, 0.3)
    assert (optimizer.learning_rate, optimizer.epsilon) == (1e-3, 1e-4)
    assert optimizer.gradient_clip == 1000
    # 100 episodes of 1,000 frames, seed episodes among them.
    assert training.seed_episodes + training.rounds == 100
    assert (run.model["belief_size"], run.model["state_size"]) == (200, 30)
    assert (run.model["hidden_size"], run.model["embedding_size"]) == (200, 1024)


def test_table_5_is_the_settings_of_dreamer() -> None:
    stage: DreamerStage = PAPER.settings("paper").dreamer
    assert stage.tasks == ("ball_in_cup-catch", "cartpole-swingup_sparse")
    assert stage.of("ball_in_cup-catch").training.action_repeat == 6
    assert stage.of("cartpole-swingup_sparse").training.action_repeat == 8
    assert stage.run.actor["hidden_size"] == stage.run.critic["hidden_size"] == 400
    model = stage.run.model
    assert model["hidden_size"] == model["reward_hidden"] == 400
    assert (model["belief_size"], model["state_size"]) == (200, 30)
    for each in (stage.run.learning.build(), stage.run.training.optimizer):
        assert (each.epsilon, each.gradient_clip) == (1e-4, 1000)
    actor = stage.run.actor.build(12, BOX)
    assert actor.mode == "densest"
    names = [each.name for each in frozen.policy_contenders(stage)]
    assert len(set(names)) == len(names)
    found = {each.name: each for each in frozen.policy_contenders(stage)}
    hybrid = found["policy_grad_mpc_h1_i10_s0.01"]
    assert (hybrid.horizon, hybrid.objective) == (1, "value")
    assert hybrid.settings is not None
    assert hybrid.settings["num_starts"] == 1


def test_a_cell_of_table_1_is_one_run(tmp_path: Path) -> None:
    axes = {"task": ["cheetah-run"], "planner": ["cem"]}
    chosen = Selection(["planet"], [3], axes)
    unit, idle = PAPER.units("paper", chosen, tmp_path)
    assert unit.name == "planet/cheetah-run/cem/seed_3"
    assert idle.name == "planet/cheetah-run/idle"
    run = unit.settings()["run"]
    assert (run["task"], run["observation"]) == ("dm_control/cheetah-run", "pixels")


def test_contests_share_the_runs_of_their_models(tmp_path: Path) -> None:
    """What is trained once is frozen for both contests."""
    online = PAPER.units("cpu", Selection(), tmp_path)
    part = PAPER.units("cpu", Selection(["sweep", "candidates"]), tmp_path)
    found = {unit.name: unit for unit in part}
    shared = [unit for unit in online if unit.name in found]
    assert shared
    for unit in shared:
        assert unit.directory == found[unit.name].directory
        assert unit.settings() == found[unit.name].settings()
    played = found["candidates/cartpole-swingup/seed_0"]
    assert played.needs == ("planet/cartpole-swingup/grad_mpc/seed_0",)


def test_candidates_are_compared_at_equal_steps_of_the_model() -> None:
    config = frozen.CandidatesConfig(counts=(10, 1000), iterations=40)
    found = {each.name: each for each in config.contenders()}
    for count in (10, 1000):
        ours, theirs = found[f"grad_mpc_{count}"], found[f"cem_{count}"]
        assert ours.evaluations == theirs.evaluations == 12 * count * 40


def cost_problem() -> PlanningProblem:
    def reward(state: torch.Tensor) -> torch.Tensor:
        return -(state[..., 0] - 2).square()

    return PlanningProblem(torch.add, NegativeReturn(reward), BOX)


def test_policy_cem_begins_with_the_policy() -> None:
    """The first mean is what the policy does, step after step in the model."""
    seen: list[torch.Tensor] = []

    class Watched(PolicyCEM):
        def propose(
            self, search: Search, noise: torch.Tensor, iteration: int
        ) -> torch.Tensor:
            seen.append(search.mean)
            return super().propose(search, noise, iteration)

    planner = Watched(3, lambda state: 0.1 * state, num_samples=2, num_elites=1)
    planner(cost_problem(), torch.tensor([[1.0], [2.0]]))
    # 0.1 x, then 0.1 · 1.1 x, 0.1 · 1.21 x.
    factors = torch.tensor([0.1, 0.11, 0.121])
    expected = torch.tensor([[1.0], [2.0]]) * factors
    torch.testing.assert_close(seen[0][..., 0], expected)


def test_the_hybrid_is_equation_6() -> None:
    """U ← u + α ∇V(f(x, u)), as often as it says; then into the box."""
    given = contest.refined(1, 3, 0.1).settings
    assert given is not None
    planner = given.build(1, lambda state: 0.0 * state)
    assert isinstance(planner, PolicyGradMPC)
    action = 0.0
    for _ in range(3):
        action += 0.1 * -2 * (1.0 + action - 2)
    found = planner(cost_problem(), torch.tensor([[1.0]])).action
    torch.testing.assert_close(found, torch.tensor([[action]]))


def ensemble() -> Policy:
    """An actor, and critics that promise x, 2 x and -x."""
    critics = [Slope(1.0), Slope(2.0), Slope(-1.0)]
    return Policy(Actor(1, BOX, hidden_size=4, layers=1), torch.nn.ModuleList(critics))


class Slope(torch.nn.Module):
    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.slope * state[..., 0]


class Walk:
    """A world where the reward is a tenth of the place."""

    def reward(self, state: torch.Tensor) -> torch.Tensor:
        return 0.1 * state[..., 0]


@pytest.mark.parametrize(
    ("contender", "expected"),
    [
        (contest.refined(1, 10, 0.1), -(3 + 4)),
        (contest.refined(1, 10, 0.1, "least"), 3 + 4),
        (contest.refined(3, 10, 0.1), -(0.3 + 0.99 * 4)),
        (contest.refined(3, 10, 0.1, "least"), -(0.3 - 0.99 * 4)),
        (contest.dream_mpc(True, False), -(0.3 + 0.99 * 4)),
        # The mean of the heads is ⅔ x, their standard deviation √(14 / 9) x.
        (
            contest.dream_mpc(False, True),
            -(0.3 + 0.99 * 8 / 3) + 0.01 * (14 / 9) ** 0.5 * (3 + 0.99 * 4),
        ),
    ],
    ids=lambda given: getattr(given, "name", ""),
)
def test_what_refinements_descend(contender: Contender, expected: float) -> None:
    """Of states 2, 3 and 4: the first is given, the others are reached."""
    states, actions = torch.tensor([[2.0], [3.0], [4.0]]), torch.zeros(2, 1)
    objective = contender._objective(Walk(), ensemble())  # type: ignore[arg-type]
    assert objective(states, actions).item() == pytest.approx(expected, rel=1e-5)


def test_dream_mpc_goes_on_from_its_last_plan_where_it_reuses() -> None:
    torch.manual_seed(0)
    model = RSSM((5,), 1, belief_size=8, state_size=4, hidden_size=8, embedding_size=8)
    run = dreamer_settings.tiny().of("cartpole-swingup")
    policy = new_policy(run, model.state_dim, BOX, 0)
    assert len(policy.critics) == 3
    for reuse in (False, True):
        contender = contest.dream_mpc(reuse, True)
        agent = contender.agent(model, BOX, policy)
        assert isinstance(agent, PlanningAgent)
        assert agent.warm_start == reuse
        assert contender.evaluations == 3 * (6 if reuse else 5)
        state = agent.initial_state(batch_size=2, seed=0)
        for _ in range(2):
            action, state = agent.act(torch.zeros(2, 5), state)
        assert action.shape == (2, 1)
        assert state.plan is not None
        assert ("candidates" in state.plan.memory) == reuse


def test_algorithm_1_is_posed_at_preset_paper() -> None:
    """Sampled rollouts, drawn anew; the mean or common noise where one asks for it."""
    model = RSSM((5,), 1, belief_size=8, state_size=4, hidden_size=8, embedding_size=8)
    given = model.step, NegativeReturn(model.reward), BOX

    def posed(*words: str) -> PlanningProblem:
        config = PAPER.settings("paper", [f"planet.run.planner.{w}" for w in words])
        return config.planet.of("cheetah-run", "grad_mpc").planner.problem()(*given)

    fresh = posed()
    assert isinstance(fresh, StochasticProblem)
    assert (fresh.num_particles, fresh.common_noise) == (1, False)
    assert posed("common_noise=true").common_noise
    assert type(posed("particles=0")) is PlanningProblem


def frozen_model(folder: Path) -> None:
    torch.manual_seed(0)
    model = RSSM((5,), 1, belief_size=8, state_size=4, hidden_size=8, embedding_size=8)
    folder.mkdir()
    model.save(folder / contest.MODEL)


def test_a_contest_plays_the_same_starts_and_resumes(tmp_path: Path) -> None:
    pytest.importorskip("dm_control")
    source, folder = tmp_path / "run", tmp_path / "contest"
    frozen_model(source)
    folder.mkdir()
    run = settings.tiny().of("cartpole-swingup", "grad_mpc")
    search = settings.CROSS_ENTROPY.replaced(num_samples=4, num_elites=2, iterations=1)
    contenders = {
        "still": Contender("still", "still"),
        "again": Contender("again", "still"),
        "cem": Contender("cem", "plan", search, 2),
    }
    play = {"source": source, "run": run, "starts": 2, "seed": 0}
    contest.contest(folder, contenders=contenders, **play)  # type: ignore[arg-type]
    still = read_csv(folder / "still.csv")
    assert [row["start"] for row in still] == ["0", "1"]
    assert still == read_csv(folder / "again.csv")
    assert read_csv(folder / "cem.csv")[0]["model_evaluations"] == "8"
    assert float(read_csv(folder / "cem.csv")[0]["milliseconds"]) > 0
    before = (folder / "cem.csv").stat().st_mtime_ns
    (folder / "still.csv").unlink()
    contest.contest(folder, contenders=contenders, **play)  # type: ignore[arg-type]
    assert read_csv(folder / "still.csv") == still
    assert (folder / "cem.csv").stat().st_mtime_ns == before


def test_a_contest_is_compared_pair_by_pair(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    returns = {
        "sgd_0.1": {(0, 0): 10.0, (0, 1): 20.0, (1, 0): 30.0, (1, 1): 40.0},
        "adam_0.1": {(0, 0): 15.0, (0, 1): 25.0, (1, 0): 35.0, (1, 1): 45.0},
    }
    rows = [
        {
            "experiment": "sweep",
            "unit": f"sweep/cheetah-run/seed_{seed}",
            "planner": name,
            "seed": seed,
            "episode": start,
            "episode_return": value,
            "model_evaluations": 12,
            "milliseconds": 1.5,
            "task": "cheetah-run",
        }
        for name, each in returns.items()
        for (seed, start), value in each.items()
    ]
    ledger.add(tmp_path, rows)
    section = report.sweep(results_of(tmp_path / "none", tmp_path))
    assert section is not None
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in section.text.splitlines()
        if line.startswith("|")
    }
    assert lines["sgd_0.1"][0].startswith("25 [")  # the mean of 15 and 35
    assert lines["adam_0.1"][1:] == ["2 × 2", "5", "12", "1.5"]  # equal, and few


def claimed(folder: Path) -> dict[tuple[str, str], list[str]]:
    """The rows of claims, by figure or table and task."""
    text = claims.write(results_of(folder, folder))
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line[:2] == "| "]
    cells = [[cell.strip() for cell in row] for row in rows]
    return {(row[0].partition(":")[0], row[1]): row[2:] for row in cells}


def episodes(planner: str, seed: int, returns: list[float]) -> list[dict[str, object]]:
    """A run of the ledger: its seed episode, then an episode in each round."""
    return [
        {
            "experiment": "planet",
            "unit": f"planet/reacher-easy/{planner}/seed_{seed}",
            "planner": planner,
            "seed": seed,
            "episode_return": value,
            "task": "dm_control/reacher-easy",
            "round": index,
            "environment_step": 1000 * index,
            "episodes": 1,
            "kind": "collect",
        }
        for index, value in enumerate(returns)
    ]


def test_claims_are_judged_by_their_rule(tmp_path: Path) -> None:
    """And what nobody has run is said to be so."""
    (planet,) = [key for key in claimed(tmp_path) if key[0] == "Table 1"]
    assert planet[1] == ", ".join(settings.TASKS)
    assert all(
        row[0] == "not run" for row in claimed(tmp_path).values() if row[1] == "–"
    )
    for seed, gain in enumerate((100.0, 120.0, 110.0)):
        ledger.add(tmp_path, episodes("grad_mpc", seed, [10.0, *[10 + gain] * 8]))
        ledger.add(tmp_path, episodes("cem", seed, [10.0, *[30 + 2 * gain] * 8]))
    found = claimed(tmp_path)
    # Student's t: 110 ± 4.303 · 10 / √3, and -130 ± the same.
    assert found["Fig. 3", "reacher-easy"][:3] == ["held", "110 [85, 135]", "3"]
    row = found["Table 1", "reacher-easy"]
    assert row[:3] == ["contradicted", "-130 [-155, -105]", "3"]
    assert (
        found["Table 2", "ball_in_cup-catch, cartpole-swingup_sparse"][0] == "not run"
    )


def test_what_refines_is_chosen_on_other_starts_than_it_is_judged_on(
    tmp_path: Path,
) -> None:
    """The lucky one wins on even starts and is no better on the odd ones."""
    lucky = contest.refined(1, 1, 0.1).name
    steady = contest.refined(1, 10, 0.1).name
    played = {
        "policy": (10.0, 10.0),
        lucky: (90.0, 9.0),
        steady: (50.0, 50.0),
        contest.refined(3, 10, 0.1).name: (500.0, 500.0),  # no eq. 6
        "grad_mpc_1": (5.0, 5.0),
        "grad_mpc_1000": (7.0, 7.0),
        "grad_mpc_10": (0.0, 0.0),
    }
    rows = [
        {
            "experiment": "candidates" if name.startswith("grad") else "refinement",
            "unit": f"unit of {name}",
            "planner": name,
            "seed": seed,
            "episode": start,
            "episode_return": both[start % 2] + seed,
            "model_evaluations": 1,
            "milliseconds": 1,
            "task": "cartpole-swingup",
        }
        for name, both in played.items()
        for seed in range(3)
        for start in range(6)
    ]
    ledger.add(tmp_path, rows)
    found = claimed(tmp_path)
    row = found["Table 2", "cartpole-swingup"]
    assert row[:3] == ["contradicted", "-1 [-1, -1]", "3 × 3"]
    row = found["Fig. 4", "cartpole-swingup"]
    assert row[:3] == ["held", "2 [2, 2]", "3 × 6"]


def test_the_papers_numbers_are_found() -> None:
    assert report.paper_number("reacher-easy", "grad_mpc") == "663 ± 25 (Table 1)"
    assert report.paper_number("reacher-easy", "cem") == "82 ± 174 (Table 1)"
    assert report.paper_number("ball_in_cup-catch", "policy") == "–"
    table = report.published("table_2", "published_500k")
    assert "| policy grad mpc (Table 2) | 725.6 ± 237.3 | 701.2 ± 40.3 |" in table


@pytest.mark.slow
def test_the_smoke_preset_from_end_to_end(tmp_path: Path) -> None:
    arguments = ["preset=smoke", "--directory", str(tmp_path)]
    assert Command(PAPER).main(arguments) == DONE
    page = (tmp_path / "smoke" / "results" / "README.md").read_text()
    for text in (
        "Table 1",
        "Fig. 4",
        "leaves open",
        "refined by Grad-MPC (Table 2)",
        "refinement.png",
        "dream_mpc_reuse_doubt",
        "Claim by claim",
        "no action",
    ):
        assert text in page
    assert "Units without a result" not in page
