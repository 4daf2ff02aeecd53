"""The regression stage of the DCEM reproduction: what is trained, and how exactly."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffplan.planners import DCEM, GradMPC
from diffplan.training import read_metrics
from diffplan.training.seeding import make_generator
from reproductions.dcem.ensemble import (
    EnsembleAdam,
    OptimizerSettings,
    layers,
    parameter_count,
)
from reproductions.dcem.regression import (
    RegressionEnsemble,
    draw_noise,
    energy_problem,
    predict,
    target,
    train,
)
from reproductions.dcem.regression_config import DESCENT, SEARCH, RegressionTraining

SMALL = RegressionTraining(
    updates=12,
    points=7,
    hidden=6,
    evaluate_every=3,
    checkpoint_every=6,
    compile=False,
)


def reference_energy(row: Tensor, settings: RegressionTraining) -> nn.Sequential:
    """The energy of one member, as modules of PyTorch."""
    parts: list[nn.Module] = []
    for weight, bias in layers(row.detach().unsqueeze(0), settings.sizes):
        linear = nn.Linear(*weight.shape[1:]).double()
        linear.weight.data, linear.bias.data = weight[0].T.clone(), bias[0, 0].clone()
        parts += [linear, nn.Softplus()]
    return nn.Sequential(*parts[:-1])


def flattened(network: nn.Sequential) -> Tensor:
    parts = []
    for layer in network:
        if isinstance(layer, nn.Linear):
            parts += [layer.weight.T.reshape(-1), layer.bias]
    return torch.cat(parts).detach()


def descend(energy: nn.Module, x: Tensor) -> Tensor:
    """Ten steps of unrolled gradient descent from zero, written out."""
    y = torch.zeros_like(x).requires_grad_()
    for _ in range(10):
        (slope,) = torch.autograd.grad(
            energy(torch.cat([x, y], 1)).sum(), y, create_graph=True
        )
        y = y - 0.1 * slope
    return y


def test_training_by_descent_equals_plain_pytorch() -> None:
    """Adam, clipping, plateau and the loop, against PyTorch's own, for 12 updates."""
    optimizer = OptimizerSettings(
        learning_rate=0.5, gradient_clip=0.5, patience=0, factor=0.5
    )
    settings = RegressionTraining(
        updates=12,
        points=7,
        hidden=6,
        evaluate_every=1,
        optimizer=optimizer,
        compile=False,
    )
    ensemble = RegressionEnsemble("gd", [3, 8], settings, torch.float64)
    energy = reference_energy(ensemble.parameters[1], settings)
    adam = torch.optim.Adam(energy.parameters(), lr=0.5)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.5, patience=0)
    generator = make_generator(8, "regression", "gd")
    generator.set_state(ensemble.generators[1].get_state())
    for _ in range(settings.updates):
        index = torch.randint(7, (1,), generator=generator)
        x = ensemble.points[index].unsqueeze(1)
        adam.zero_grad()
        (descend(energy, x) - target(x)).square().sum().backward()
        nn.utils.clip_grad_norm_(energy.parameters(), 0.5)
        adam.step()
        every = ensemble.points.unsqueeze(1)
        error = (descend(energy, every) - target(every)).square().mean().item()
        plateau.step(error)
        _, metrics = ensemble.play_round(0)
        assert metrics["error/8"] == pytest.approx(error, rel=1e-9)
        assert metrics["learning_rate/8"] == adam.param_groups[0]["lr"]
    assert adam.param_groups[0]["lr"] < 0.5  # the plateau was tried
    torch.testing.assert_close(
        ensemble.parameters[1].detach(), flattened(energy), rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("method", ["gd", "dcem"])
def test_a_member_is_what_it_would_be_alone(method: str) -> None:
    together = RegressionEnsemble(method, [0, 1, 2], SMALL, torch.float64)
    alone = RegressionEnsemble(method, [1], SMALL, torch.float64)
    for _ in range(4):
        together.step()
        alone.step()
    errors = [ensemble.evaluate()["error/1"] for ensemble in (together, alone)]
    # All but the last bias: it shifts the energy, so its gradient is rounding error,
    # which Adam makes as large as any other.
    torch.testing.assert_close(
        together.parameters[1, :-1], alone.parameters[0, :-1], rtol=1e-9, atol=1e-11
    )
    assert errors[0] == pytest.approx(errors[1], rel=1e-9)


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("method", ["gd", "dcem"])
def test_a_compiled_update_is_the_same(method: str) -> None:
    short = replace(
        SMALL,
        search=SEARCH.replaced(iterations=2),
        descent=DESCENT.replaced(iterations=2),
    )
    plain = RegressionEnsemble(method, [0, 1], short, torch.float64)
    compiled = RegressionEnsemble(
        method, [0, 1], replace(short, compile=True), torch.float64
    )
    for _ in range(3):
        plain.step()
        compiled.step()
    # Without the last bias, as above.
    torch.testing.assert_close(
        plain.parameters[:, :-1], compiled.parameters[:, :-1], rtol=1e-8, atol=1e-10
    )


def test_seeds_differ_in_weights_points_and_noise() -> None:
    ensemble = RegressionEnsemble("dcem", [0, 1], SMALL)
    assert not torch.equal(ensemble.parameters[0], ensemble.parameters[1])
    first, second = (torch.randn(5, generator=g) for g in ensemble.generators)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("method", ["gd", "dcem"])
def test_a_killed_training_goes_on_exactly(tmp_path: Path, method: str) -> None:
    whole = tmp_path / "whole"
    train(method, [0, 1], SMALL, whole)
    train(method, [0, 1], replace(SMALL, updates=6), tmp_path / "half")
    train(method, [0, 1], SMALL, tmp_path / "half")
    assert measured(tmp_path / "half") == measured(whole)
    found = [RegressionEnsemble(method, [0, 1], SMALL) for _ in range(2)]
    for ensemble, folder in zip(found, (whole, tmp_path / "half"), strict=True):
        ensemble.load(folder)
    assert torch.equal(found[0].parameters, found[1].parameters)


def measured(folder: Path) -> list[dict[str, str]]:
    rows = read_metrics(folder / "metrics.csv")
    return [row for row in rows if not row["name"].startswith("time/")]


def test_the_solvers_are_those_of_the_paper() -> None:
    settings = RegressionTraining()
    search, descent = settings.planner("dcem"), settings.planner("gd")
    assert isinstance(search, DCEM)
    assert isinstance(descent, GradMPC)
    assert (search.num_samples, search.num_elites, search.iterations) == (100, 10, 10)
    assert (search.temperature, search.initial_std) == (1.0, 7.0)
    assert (descent.iterations, descent.step_size) == (10, 0.1)
    assert parameter_count(settings.sizes) == 2 * 128 + 2 * 128**2 + 128 + 3 * 128 + 1


def test_search_finds_the_least_energy() -> None:
    """Against a fine grid, for a random energy that bends upwards far out."""
    settings = RegressionTraining(
        hidden=8, search=SEARCH.replaced(iterations=40), compile=False
    )
    ensemble = RegressionEnsemble("dcem", [4], settings, torch.float64)
    problem = energy_problem(ensemble.parameters.detach(), settings.sizes)
    bowl = problem.relaxed(
        lambda states, actions: (
            0.1 * problem.objective(states, actions)
            + (actions[..., 0, 0] - states[..., 0, 0]).square()
        )
    )
    x = torch.tensor([[0.5, 2.0, 6.0]], dtype=torch.float64)
    noise = draw_noise(ensemble.planner, x, ensemble.generators)
    found = predict(ensemble.planner, bowl, x, noise)[0]
    grid = torch.linspace(-8, 8, 16_001, dtype=torch.float64)[:, None, None]
    for index in range(3):
        states = x[0, index].expand(16_001, 2, 1)
        best = grid[bowl.objective(states, grid).argmin(), 0, 0]
        assert math.isclose(float(found[index]), float(best), abs_tol=5e-3)


def test_clipping_and_rates_belong_to_each_member() -> None:
    parameters = torch.zeros(2, 3, dtype=torch.float64)
    adam = EnsembleAdam(parameters, OptimizerSettings(patience=0))
    adam.observe([1.0, 1.0])
    adam.observe([0.5, 2.0])
    assert adam.learning_rate == [1e-3, 5e-4]
    adam.step(torch.tensor([[30.0, 40.0, 0.0], [0.3, 0.4, 0.0]], dtype=torch.float64))
    expected = torch.tensor([[0.6, 0.8, 0.0], [0.3, 0.4, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(adam.first, 0.1 * expected)
