"""The cartpole stage of the DCEM reproduction, and its command line."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffplan._runs.tables import write_csv
from diffplan.errors import ArgumentError, FileError
from diffplan.planners import CEM, DCEM
from diffplan.training import Checkpoints, CheckpointWarning, RunLogger, read_metrics
from reproductions.common.command import DONE, WRONG, Command
from reproductions.dcem import cartpole_report, paper_numbers
from reproductions.dcem.cartpole import (
    EmbeddingEnsemble,
    cartpole_problem,
    fresh_states,
    plan_costs,
    train,
    validation_states,
)
from reproductions.dcem.cartpole_config import CartpoleConfig, EmbeddingTraining
from reproductions.dcem.paper import PAPER

SMALL = replace(CartpoleConfig.smoke().training, updates=6)


def paper_cost(state: np.ndarray, forces: np.ndarray) -> float:
    """The paper's cost of one plan, with the angle as a number, in plain Python."""
    x, speed, cos, sin, spin = state.tolist()
    angle, cost = math.atan2(sin, cos), 0.0
    for given in forces.tolist():
        cost -= math.cos(angle) - 0.1 * x**2 - 1e-5 * given**2
        u = min(max(given, -100.0), 100.0)
        push = (u + 0.1 * 0.5 * spin**2 * math.sin(angle)) / 1.1
        turn = (9.8 * math.sin(angle) - math.cos(angle) * push) / (
            0.5 * (4 / 3 - 0.1 * math.cos(angle) ** 2 / 1.1)
        )
        acceleration = push - 0.1 * 0.5 * turn * math.cos(angle) / 1.1
        x, angle = x + 0.05 * speed, angle + 0.05 * spin
        speed, spin = speed + 0.05 * acceleration, spin + 0.05 * turn
    return cost


def test_the_cost_is_the_papers() -> None:
    generator = torch.Generator().manual_seed(3)
    states = validation_states(5).double()
    forces = 60 * torch.randn(5, 20, generator=generator, dtype=torch.float64)
    ours = cartpole_problem().cost(states, forces.clamp(-100, 100).unsqueeze(-1))
    for index in range(5):
        clamped = forces[index].clamp(-100, 100).numpy()
        expected = paper_cost(states[index].numpy(), clamped)
        # The plant's constants are float32.
        assert float(ours[index]) == pytest.approx(expected, rel=1e-6)


def test_initial_states_have_the_papers_ranges() -> None:
    states = fresh_states(4000)
    angle = torch.atan2(states[:, 3], states[:, 2])
    drawn = torch.stack([states[:, 0], states[:, 1], angle, states[:, 4]])
    limits = torch.tensor([0.5, 0.5, math.pi, 1.0])
    assert (drawn.abs().amax(1) <= limits).all()
    assert (drawn.abs().amax(1) > 0.99 * limits).all()
    # Uniform: variance limit² / 3.
    torch.testing.assert_close(
        drawn.var(dim=1), limits.square() / 3, rtol=0.06, atol=0.0
    )


def test_validation_states_are_those_of_seed_0() -> None:
    torch.manual_seed(0)
    x, speed = torch.rand(100) - 0.5, torch.rand(100) - 0.5
    angle = math.pi * (2 * torch.rand(100) - 1)
    spin = 2 * torch.rand(100) - 1
    expected = torch.stack([x, speed, angle.cos(), angle.sin(), spin], dim=1)
    torch.testing.assert_close(validation_states(100), expected)


def test_the_settings_are_the_papers() -> None:
    training = EmbeddingTraining()
    search, plain = training.search(0.1), training.search(0)
    assert isinstance(search, DCEM)
    assert isinstance(plain, CEM)
    for planner in (search, plain):
        sizes = (planner.num_samples, planner.num_elites, planner.iterations)
        assert sizes == (100, 10, 10)
        assert planner.initial_std == 0.5
    assert search.temperature == 0.1
    assert training.sizes(8) == (8, 256, 256, 256, 20)
    paper = PAPER.settings("paper").cartpole
    assert (paper.latents, paper.temperatures) == ((2, 8, 16), (1.0, 0.1, 0.0))
    assert paper.training.updates == 100_000
    expert = paper.expert.build()
    assert (expert.num_samples, expert.num_elites, expert.iterations) == (100, 10, 30)


def test_decoders_begin_with_the_papers_spread() -> None:
    ensemble = EmbeddingEnsemble(2, 1.0, [0], EmbeddingTraining(compile=False))
    parameters = ensemble.parameters.detach()[0]
    weights = parameters[2 * 256 + 256 :][: 256 * 256]
    assert float(weights.std()) == pytest.approx(2 / math.sqrt(512), rel=0.02)
    biases = parameters[2 * 256 : 2 * 256 + 256]
    assert not biases.any()


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_a_member_is_what_it_would_be_alone(temperature: float) -> None:
    together = EmbeddingEnsemble(2, temperature, [0, 1, 2], SMALL)
    alone = EmbeddingEnsemble(2, temperature, [1], SMALL)
    for _ in range(3):
        together.step()
        alone.step()
    torch.testing.assert_close(
        together.parameters[1], alone.parameters[0], rtol=1e-4, atol=1e-6
    )
    assert together.errors()[1] == pytest.approx(alone.errors()[0], rel=1e-4)


def test_without_temperature_the_point_that_was_found_is_a_constant() -> None:
    ensemble = EmbeddingEnsemble(2, 0.0, [0, 1], SMALL)
    states = validation_states(2)
    noise = torch.randn(2, 2, 10, 1, 2, generator=torch.Generator().manual_seed(0))
    planner = ensemble.planner(ensemble.parameters)
    costs = plan_costs(planner, ensemble.problem, states, noise)
    (gradient,) = torch.autograd.grad(costs.sum(), ensemble.parameters)
    with torch.no_grad():
        found = planner(ensemble.problem, states, noise=noise)
    latent = found.diagnostics["latent"]
    again = ensemble.planner(ensemble.parameters)
    held = ensemble.problem.cost(states, again.decode(ensemble.problem, latent))
    (expected,) = torch.autograd.grad(held.sum(), ensemble.parameters)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().max() > 0


def test_with_a_temperature_the_gradient_goes_through_the_search() -> None:
    """Against central differences along a random direction."""
    ensemble = EmbeddingEnsemble(2, 1.0, [0], SMALL)
    generator = torch.Generator().manual_seed(1)
    states = validation_states(1).double()
    noise = torch.randn(1, 2, 10, 1, 2, generator=generator, dtype=torch.float64)
    row = ensemble.parameters.detach().double().requires_grad_()

    def cost(parameters: torch.Tensor) -> torch.Tensor:
        planner = ensemble.planner(parameters)
        return plan_costs(planner, ensemble.problem, states, noise).sum()

    (gradient,) = torch.autograd.grad(cost(row), row)
    direction = torch.randn(row.shape, generator=generator, dtype=torch.float64)
    step = 1e-6 * direction
    with torch.no_grad():
        slope = (cost(row + step) - cost(row - step)) / 2e-6
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-5)


def test_a_killed_training_goes_on_exactly(tmp_path: Path) -> None:
    train(2, 1.0, [0, 1], SMALL, tmp_path / "whole")
    train(2, 1.0, [0, 1], replace(SMALL, updates=4), tmp_path / "half")
    train(2, 1.0, [0, 1], SMALL, tmp_path / "half")
    assert_equal_trainings(tmp_path / "whole", tmp_path / "half")


def assert_equal_trainings(one: Path, other: Path) -> None:
    whole, half = (
        Checkpoints(folder / "checkpoints").load_latest()[1]["job"]
        for folder in (one, other)
    )
    for name in ("parameters", "first", "second"):
        assert torch.equal(whole["optimizer"][name], half["optimizer"][name])
    assert torch.equal(whole["best"], half["best"])
    assert metrics(one) == metrics(other)


def metrics(folder: Path) -> list[dict[str, str]]:
    """Return all rows, without what they tell of the time."""
    rows = read_metrics(folder / "metrics.csv")
    return [row for row in rows if not row["name"].startswith("time/")]


@pytest.mark.parametrize("validated", [2, 3])
def test_a_kill_in_the_middle_of_a_round_loses_no_row(
    validated: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(2, 1.0, [0, 1], SMALL, tmp_path / "whole")
    evaluate = EmbeddingEnsemble.evaluate

    def killed(self: EmbeddingEnsemble) -> dict[str, float]:
        if self.optimizer.steps == 2 * validated:
            raise KeyboardInterrupt
        return evaluate(self)

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingEnsemble, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            train(2, 1.0, [0, 1], SMALL, tmp_path / "killed")
    train(2, 1.0, [0, 1], SMALL, tmp_path / "killed")
    assert_equal_trainings(tmp_path / "whole", tmp_path / "killed")


def test_a_damaged_checkpoint_costs_some_updates_only(tmp_path: Path) -> None:
    for name in ("whole", "damaged"):
        train(2, 1.0, [0, 1], SMALL, tmp_path / name)
    newest = max((tmp_path / "damaged" / "checkpoints").iterdir())
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    with pytest.warns(CheckpointWarning, match=newest.name):
        train(2, 1.0, [0, 1], SMALL, tmp_path / "damaged")
    assert_equal_trainings(tmp_path / "whole", tmp_path / "damaged")


def test_a_checkpoint_of_other_seeds_is_refused(tmp_path: Path) -> None:
    train(2, 1.0, [0, 1], SMALL, tmp_path)
    with pytest.raises(ArgumentError, match=r"seeds was \[0, 1\], now \[0, 2\]"):
        train(2, 1.0, [0, 2], SMALL, tmp_path)
    with pytest.raises(FileError, match=r"expected \[0, 2\], got \[0, 1\]"):
        EmbeddingEnsemble(2, 1.0, [0, 2], SMALL).load(tmp_path)
    with pytest.raises(FileError, match="none in"):
        EmbeddingEnsemble(2, 1.0, [0, 1], SMALL).load(tmp_path / "other")


def test_the_best_decoders_are_kept() -> None:
    ensemble = EmbeddingEnsemble(2, 1.0, [0, 1], SMALL)
    first = ensemble.parameters.detach().clone()
    wanted = iter([[-3.0, -3.0], [-4.0, -2.0]])
    ensemble.errors = lambda: next(wanted)  # type: ignore[method-assign]
    ensemble.evaluate()
    ensemble.step()
    ensemble.evaluate()
    assert torch.equal(ensemble.best[0], ensemble.parameters[0])
    assert torch.equal(ensemble.best[1], first[1])


# The report and the command line


def test_improvement_factors_of_known_costs(tmp_path: Path) -> None:
    folder = tmp_path / "latent_2_tau_1"
    tests = tmp_path / "latent_2_tau_1_tests"
    for path, settings in ((folder, {"latent": 2, "temperature": 1.0}), (tests, {})):
        path.mkdir()
        (path / "settings.json").write_text(json.dumps(settings))
    (tests / "done.json").write_text("{}")
    logger = RunLogger(folder, tensorboard=False)
    for index, costs in enumerate([(-5.0, -6.0), (-9.0, -12.0), (-3.0, -4.0)]):
        errors = {f"error/{seed}": cost for seed, cost in enumerate(costs)}
        logger.write(index, 100 * (index + 1), {**errors, "time/cpu_seconds": 1.0})
    write_csv(
        tests / "costs.csv",
        [{"seed": 0, "last_fresh": -6.0}, {"seed": 1, "last_fresh": -9.0}],
    )
    cell = cartpole_report.Cell.read(folder)
    assert cell.improvement(-10.0).value == pytest.approx((0.9 + 1.2) / 2)
    honest = cell.honest_improvement(-12.0)
    assert honest is not None
    assert honest.value == pytest.approx((0.5 + 0.75) / 2)
    assert cell.final_cost().value == pytest.approx((-17 / 3 - 22 / 3) / 2)
    assert cartpole_report.share(300) == "300 of 100,000"


def test_the_papers_numbers_are_complete() -> None:
    found = paper_numbers.load()["cartpole"]
    for table in ("improvement", "final_cost"):
        for latent in ("2", "8", "16"):
            assert set(found[table][latent]) == {"1", "0.1", "0"}
    # The axis of Fig. 6 right: DCEM's trained 10 iterations, GD's best at 10.
    assert paper_numbers.regression_iterations("dcem")[10] == 3.89e-4
    assert paper_numbers.regression_iterations("gd")[10] == 2.64e-4


@pytest.mark.parametrize(
    "arguments",
    [
        ["--preset", "gpu"],
        ["--stages", "cartpol"],
        ["--seeds", "a"],
        ["cartpole.training.update=3"],
        ["regression.training.updates=150"],
        ["report", "--stages", "cartpole"],
        ["report", "--seeds", "3"],
        ["report", "cartpole.latents=2"],
        ["--settings", "--workers", "3"],
    ],
)
def test_wrong_arguments_end_with_a_sentence(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Command(PAPER).main([*arguments, "--directory", str(tmp_path)]) == WRONG
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error


def test_the_report_of_nothing_says_so(tmp_path: Path) -> None:
    directory, output = str(tmp_path), tmp_path / "results"
    arguments = ["report", "--directory", directory, "--output", str(output)]
    assert Command(PAPER).main(arguments) == DONE
    assert "No finished unit yet" in (output / "README.md").read_text()


@pytest.mark.slow
def test_the_smoke_preset_does_everything(tmp_path: Path) -> None:
    """Both stages from the command line to the page, in processes of their own."""
    arguments = ["--preset", "smoke", "--directory", str(tmp_path)]
    assert Command(PAPER).main(arguments) == DONE
    page = (tmp_path / "smoke" / "results" / "README.md").read_text()
    for title in ("Fig. 6, left", "Fig. 6, right", "The expert", "Fig. 10"):
        assert title in page
    for line in page.splitlines():
        if line.startswith("!["):
            name = line.partition("(")[2].rstrip(")")
            assert (tmp_path / "smoke" / "results" / name).stat().st_size > 1000
