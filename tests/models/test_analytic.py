"""Systems with known equations: physics, Jacobians, learnable constants."""

import math

import pytest
import torch
from torch import Tensor

import diffplan as dp
from diffplan.capabilities import Linearizable, Rolling, knows
from diffplan.errors import ArgumentError, ShapeError
from diffplan.functional import linearize_dynamics, rollout
from diffplan.models import Cartpole, LinearDynamics, Pendulum, PointMass
from diffplan.models.analytic import AnalyticDynamics
from diffplan.problem import Box, PlanningProblem

DOUBLE = torch.float64


def _linear() -> LinearDynamics:
    return LinearDynamics(torch.randn(3, 3), torch.randn(3, 2), torch.randn(3))


SYSTEMS = [
    pytest.param(_linear, id="linear"),
    pytest.param(lambda: PointMass(3, mass=2.0, damping=0.3), id="point_mass"),
    pytest.param(Pendulum, id="pendulum"),
    pytest.param(Cartpole, id="cartpole"),
]


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
@pytest.mark.parametrize("factory", SYSTEMS)
def test_jacobian_of_any_state(factory: type, batch: tuple[int, ...]) -> None:
    """Also of states off the unit circle and of forces beyond the limit."""
    system: AnalyticDynamics = factory().double()
    state = torch.randn(*batch, system.state_dim, dtype=DOUBLE)
    action = 100 * torch.randn(*batch, system.action_dim, dtype=DOUBLE)
    jacobian = torch.func.jacrev(system.step, argnums=(0, 1))
    for _ in batch:
        jacobian = torch.func.vmap(jacobian)
    by_state, by_action = jacobian(state, action)
    following, own_by_state, own_by_action = system.linearize(state, action)
    torch.testing.assert_close(following, system(state, action))
    torch.testing.assert_close(own_by_state, by_state, rtol=0, atol=1e-11)
    torch.testing.assert_close(own_by_action, by_action, rtol=0, atol=1e-11)
    assert isinstance(system, Linearizable)


@pytest.mark.parametrize("factory", SYSTEMS)
def test_gradients_of_step_and_jacobian(factory: type) -> None:
    system: AnalyticDynamics = factory().double()
    state = torch.randn(2, system.state_dim, dtype=DOUBLE, requires_grad=True)
    action = torch.randn(2, system.action_dim, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(system.step, (state, action))
    assert torch.autograd.gradcheck(system.linearize, (state, action))


@pytest.mark.parametrize("factory", SYSTEMS)
def test_keeps_float32_and_names_wrong_shapes(factory: type) -> None:
    system: AnalyticDynamics = factory()
    state = torch.zeros(4, system.state_dim)
    action = torch.zeros(4, system.action_dim)
    for tensor in system.linearize(state, action):
        assert tensor.dtype == torch.float32
    with pytest.raises(ShapeError, match="action"):
        system(state, torch.zeros(4, system.action_dim + 1))
    with pytest.raises(ShapeError, match="state"):
        system(torch.zeros(4, system.state_dim + 1), action)


def test_linear_system_follows_its_closed_form() -> None:
    system = _linear().double()
    state = initial = torch.randn(3, dtype=DOUBLE)
    actions = torch.randn(6, 2, dtype=DOUBLE)
    for action in actions:
        state = system(state, action)
    power = torch.linalg.matrix_power
    expected = power(system.state_matrix, 6) @ initial + sum(
        power(system.state_matrix, 5 - t)
        @ (system.action_matrix @ actions[t] + system.bias)
        for t in range(6)
    )
    torch.testing.assert_close(state, expected)


def test_point_mass_gains_the_impulse_and_keeps_its_velocity() -> None:
    system = PointMass(2, time_step=0.1, mass=2.0)
    state = torch.tensor([1.0, 2.0, 3.0, 4.0])
    after = system(state, torch.tensor([5.0, -5.0]))
    torch.testing.assert_close(after, torch.tensor([1.3, 2.4, 3.25, 3.75]))


def test_pendulum_obeys_the_rods_moment_of_inertia() -> None:
    system = Pendulum(time_step=0.02, gravity=9.0, mass=1.5, length=0.7).double()
    angle, velocity, torque = 0.4, -1.1, 0.6
    inertia = 1.5 * 0.7**2 / 3
    acceleration = (1.5 * 9.0 * 0.35 * math.sin(angle) + torque) / inertia
    after = velocity + 0.02 * acceleration
    expected = torch.tensor([angle + 0.02 * after, after], dtype=DOUBLE)
    state = torch.tensor([angle, velocity], dtype=DOUBLE)
    # The constants were rounded to float32 when the system was built.
    got = system(state, torch.tensor([torque], dtype=DOUBLE))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)


def test_cartpole_obeys_its_lagrangian() -> None:
    """Both accelerations solve the 2×2 system of cart and pole."""
    cart, pole, half, gravity, dt = 1.0, 0.1, 0.5, 9.8, 0.05
    constants = {
        "gravity": gravity,
        "cart_mass": cart,
        "pole_mass": pole,
        "half_length": half,
    }
    system = Cartpole(
        **{k: torch.tensor(v, dtype=DOUBLE) for k, v in constants.items()}
    )
    place, speed, angle, spin, force = 0.3, -0.4, 2.1, 1.7, 12.0
    cos, sin = math.cos(angle), math.sin(angle)
    masses = torch.tensor(
        [[cart + pole, pole * half * cos], [pole * half * cos, 4 / 3 * pole * half**2]],
        dtype=DOUBLE,
    )
    forces = torch.tensor(
        [force + pole * half * spin**2 * sin, pole * gravity * half * sin], dtype=DOUBLE
    )
    acceleration, turn = torch.linalg.solve(masses, forces).tolist()
    angle_after = angle + dt * spin
    expected = [
        place + dt * speed,
        speed + dt * acceleration,
        math.cos(angle_after),
        math.sin(angle_after),
        spin + dt * turn,
    ]
    state = torch.tensor([place, speed, cos, sin, spin], dtype=DOUBLE)
    after = system(state, torch.tensor([force], dtype=DOUBLE))
    torch.testing.assert_close(after, torch.tensor(expected, dtype=DOUBLE))


def test_cartpole_clamps_its_force() -> None:
    system, state = Cartpole(), torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    limit, beyond = (system(state, torch.tensor([f])) for f in (100.0, 250.0))
    assert torch.equal(limit, beyond)


def test_constants_are_learned_only_if_they_are_parameters() -> None:
    mass = torch.nn.Parameter(torch.tensor(2.0))
    system = PointMass(1, mass=mass)
    assert list(system.parameters()) == [mass]
    system(torch.zeros(2), torch.ones(1)).sum().backward()
    torch.testing.assert_close(mass.grad, torch.tensor(-0.1 / 4))
    assert list(LinearDynamics(torch.eye(2), torch.ones(2, 1)).parameters()) == []


def test_construction_names_what_is_wrong() -> None:
    with pytest.raises(ShapeError, match="state_matrix"):
        LinearDynamics(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(ShapeError, match="action_matrix"):
        LinearDynamics(torch.eye(2), torch.zeros(3, 1))
    with pytest.raises(ShapeError, match="bias"):
        LinearDynamics(torch.eye(2), torch.zeros(2, 1), torch.zeros(3))
    with pytest.raises(ArgumentError, match="time_step"):
        Pendulum(time_step=0.0)
    with pytest.raises(ArgumentError, match="dimensions"):
        PointMass(0)


def test_cartpole_without_a_direction_has_finite_derivatives() -> None:
    # (cos θ, sin θ) = (0, 0) has no angle, and tiny ones no squares in float32.
    cartpole = Cartpole()
    action = torch.zeros(3, 1)
    state = torch.zeros(3, 5)
    state[1, 2], state[2, 3] = 1e-25, -1e-30
    following, by_state, by_action = cartpole.linearize(state, action)
    rows = torch.func.vmap(torch.func.jacrev(cartpole.step))(state, action)
    assert torch.isfinite(by_state).all()
    assert torch.isfinite(by_action).all()
    torch.testing.assert_close(by_state, rows, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(following[:, 2], torch.tensor([1.0, 1.0, 0.0]))
    assert (by_state[0, 2:4, 2:4] == 0).all()


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.5 * torch.randn(*shape, generator=generator, dtype=DOUBLE)


LINEAR = {
    "one for all": lambda: LinearDynamics(drawn(3, 3), drawn(3, 2), drawn(3)),
    "each step": lambda: LinearDynamics(drawn(4, 3, 3), drawn(3, 2), drawn(4, 3)),
    "other actions": lambda: LinearDynamics(drawn(3, 3), drawn(4, 3, 2)),
    "each problem": lambda: LinearDynamics(drawn(5, 1, 3, 3), drawn(5, 1, 3, 2)),
    "both": lambda: LinearDynamics(drawn(5, 4, 3, 3), drawn(5, 4, 3, 2)),
}


@pytest.mark.parametrize("lead", [(5,), (5, 2), (5, 2, 3)])
@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_rollout_is_one_of_steps(name: str, lead: tuple[int, ...]) -> None:
    system = LINEAR[name]()
    problem = PlanningProblem(
        system, lambda x, u: x.sum((-1, -2)), Box([-1.0] * 2, [1.0] * 2)
    )
    state, actions = drawn(*lead, 3), drawn(*lead, 4, 2)
    times = torch.arange(4) if system.takes_time else None
    states = problem.rollout(state, actions)
    expected = rollout(problem.step, state, actions, times=times)
    torch.testing.assert_close(states, expected)
    # With a segment, the steps themselves.
    torch.testing.assert_close(problem.rollout(state, actions, 2), expected)


def test_a_linear_rollout_is_differentiable() -> None:
    system = LINEAR["one for all"]()
    leaves = [
        drawn(2, 3),
        drawn(2, 4, 2),
        system.state_matrix,
        system.action_matrix,
        system.bias,
    ]

    def states(state: Tensor, actions: Tensor, *matrices: Tensor) -> Tensor:
        return LinearDynamics(*matrices).rollout(state, actions)

    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(states, leaves)


PLANTS = {
    "pendulum": lambda: Pendulum(length=torch.tensor(0.7, dtype=DOUBLE)),
    "cartpole": lambda: Cartpole(half_length=torch.tensor(0.6, dtype=DOUBLE)),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_plants_rollout_is_one_of_steps(name: str) -> None:
    """Also where the first state's direction is not on the unit circle."""
    plant = PLANTS[name]()
    leaves = [drawn(5, 3, plant.state_dim), 4 * drawn(5, 3, 6, plant.action_dim)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    states, expected = plant.rollout(*leaves), rollout(plant.step, *leaves)
    torch.testing.assert_close(states, expected, rtol=1e-12, atol=1e-12)
    weights = drawn(*states.shape)
    found, wanted = (
        torch.autograd.grad((weights * told).sum(), leaves)
        for told in (states, expected)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_other_steps_have_other_jacobians() -> None:
    class Damped(Pendulum):
        def step(self, state: Tensor, action: Tensor) -> Tensor:
            return super().step(state, action) * torch.tensor([1.0, 0.5])

    class Known(Damped):
        def linearize(self, state: Tensor, action: Tensor) -> tuple[Tensor, ...]:
            return linearize_dynamics(self.step, state, action)

    goal = dp.objectives.GoalDistance(torch.zeros(2))
    state, action = torch.tensor([[0.3, 0.2]]), torch.tensor([[0.1]])
    for system, known in ((Damped(), False), (Known(), True)):
        problem = dp.PlanningProblem(system, goal, dp.Box([-1.0], [1.0]))
        assert problem.capabilities()["linearize"] is known
        _, by_state, _ = problem.linearize(state, action)
        expected = torch.func.jacrev(system.step)(state[0], action[0])
        torch.testing.assert_close(by_state[0], expected)


def test_other_steps_have_another_rollout() -> None:
    class Bent(LinearDynamics):
        def step(
            self, state: Tensor, action: Tensor, time: Tensor | None = None
        ) -> Tensor:
            return super().step(state, action, time).sin()

    class Named(LinearDynamics):
        """Takes the same steps."""

    class Bends:
        def step(self, *given: Tensor | None) -> Tensor:
            return super().step(*given).sin()

    class Mixed(Bends, LinearDynamics):
        """Takes other steps too, which its own body does not tell."""

    for kind, known in ((Bent, False), (Mixed, False), (Named, True)):
        system = kind(drawn(3, 3), drawn(3, 2))
        assert knows(system, Rolling) is known
        assert system.is_affine is known
        problem = PlanningProblem(
            system, lambda x, u: x[..., 0, 0], Box([-1.0] * 2, [1.0] * 2)
        )
        assert problem.is_affine is known
        state, actions = drawn(2, 3), drawn(2, 4, 2)
        expected = rollout(system, state, actions)
        torch.testing.assert_close(problem.rollout(state, actions), expected)


@pytest.mark.parametrize("factory", SYSTEMS)
def test_what_says_it_is_affine_has_no_second_derivatives(factory: type) -> None:
    system: AnalyticDynamics = factory().double()
    point = 0.3 + drawn(system.state_dim + system.action_dim).abs()

    def jacobian(z: Tensor) -> Tensor:
        step = torch.func.jacrev(
            lambda z: system.step(z[: system.state_dim], z[system.state_dim :])
        )
        return step(z)

    bend = torch.func.jacfwd(jacobian)(point)
    assert system.is_affine == bool((bend == 0).all())
