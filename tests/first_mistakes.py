"""What people get wrong at first, as calls; run by `test_first_mistakes.py`.

In a process of its own without the run-time type checks of the test suite, which would
answer before the library does. Prints what each call was answered, as JSON.
"""

import json
import sys
from collections.abc import Callable

import gymnasium
import numpy as np
import torch

import diffplan as dp
from diffplan import training
from diffplan.envs.base import EnvOptions

T = 3
STATE = torch.tensor([[0.8, 0.1], [-0.6, 0.3], [0.2, 0.0]])
BOX = dp.Box([-1.0], [1.0])
GOALS = torch.eye(3)[:, :2]
MASK = torch.tensor([True, False, True])


def dynamics(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    return state + 0.2 * action


class Work:
    """A job that is never begun."""

    play_round = state_dict = load_state_dict = dynamics


class Empty(dp.models.WorldModel):
    """A world model that has nothing to learn."""

    def step(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return dynamics(state, action)

    observe = loss = reward = step


def problem(**changed: object) -> dp.PlanningProblem:
    given = {
        "dynamics": dynamics,
        "objective": dp.objectives.GoalDistance(torch.zeros(2)),
        "action_space": BOX,
    }
    return dp.PlanningProblem(**{**given, **changed})


def cem(horizon: object = T, **changed: object) -> dp.CEM:
    return dp.CEM(horizon, **{"num_samples": 3, "num_elites": 2, **changed})


def plan(**changed: object) -> dp.Plan:
    return cem(**changed)(problem(), STATE)


def rolled(segment: object) -> torch.Tensor:
    return problem().rollout(STATE, torch.zeros(3, T, 1), segment)


def constrained(function: Callable[..., object]) -> dp.Plan:
    constraint = dp.constraints.StateConstraint(function)
    return dp.AugmentedLagrangian(cem())(problem(constraints=[constraint]), STATE)


def random(**changed: object) -> dp.StochasticProblem:
    class Drift:
        def predict(self, state: torch.Tensor, action: torch.Tensor) -> object:
            return torch.distributions.Normal(state + action, 0.1)

    return dp.StochasticProblem(
        Drift(), dp.objectives.GoalDistance(torch.zeros(2)), BOX, **changed
    )


def agent_state(batch_size: object, seed: object = 0) -> object:
    return dp.agents.UniformAgent(BOX).initial_state(batch_size, seed=seed)


def rssm(**changed: object) -> dp.models.RSSM:
    sizes = {"belief_size": 2, "state_size": 2, "embedding_size": 2, "hidden_size": 2}
    arguments = {"observation_shape": (3,), "action_dim": 1, **sizes, **changed}
    return dp.models.RSSM(**arguments)


def filtering(batch_size: object) -> object:
    return dp.agents.Filter(rssm()).start(batch_size)


def trainer(model: torch.nn.Module) -> training.ModelTrainer:
    return training.ModelTrainer(model, training.OptimizerConfig())


def train(updates: object) -> object:
    return trainer(rssm()).train(updates, lambda: None, torch.Generator())


def buffer() -> training.ReplayBuffer:
    filled = training.ReplayBuffer("not read")
    episode = training.Episode(np.zeros((3, 2)), np.zeros((2, 1)), np.zeros(2))
    filled.add(episode, write=False)
    return filled


def run_rounds(**changed: object) -> None:
    given = {"config": {}, "seed": 0, "rounds": 1, **changed}
    training.run_rounds(Work(), "not made", **given)


def intersection(cycles: object) -> torch.Tensor:
    return dp.functional.project_intersection(STATE, [torch.relu], cycles)


def online(**changed: object) -> object:
    return training.OnlineConfig(**changed)


def warm(actions: torch.Tensor, batch: int = 3) -> dp.Plan:
    states = torch.zeros(batch, T + 1, 2)
    return cem()(
        problem(), STATE, warm_start=dp.Plan(actions, states, torch.zeros(batch))
    )


# Each is refused by an error of diffplan that contains the words.
MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    # what planning is asked for
    "a numpy state": (lambda: cem()(problem(), STATE.numpy()), "state: "),
    "a list as state": (lambda: cem()(problem(), STATE.tolist()), "state: "),
    "swapped arguments": (lambda: cem()(STATE, problem()), "planner(problem, state)"),
    "a sparse state": (lambda: cem()(problem(), STATE.to_sparse()), "state: "),
    "no problem": (lambda: cem()(None, STATE), "problem: "),
    "no state": (lambda: cem()(problem(), None), "state: "),
    "dynamics that are no function": (lambda: problem(dynamics=3), "dynamics: "),
    "an objective that is none": (lambda: problem(objective=1.0), "objective: "),
    "a Jacobian that is none": (lambda: problem(linearize=BOX), "linearize: "),
    # spaces and constraints
    "a number as action space": (lambda: problem(action_space=1.0), "action_space: "),
    "the class Box": (lambda: problem(action_space=dp.Box), "action_space: "),
    "a discrete space": (
        lambda: problem(action_space=gymnasium.spaces.Discrete(3)),
        "action_space: ",
    ),
    "a box of images": (
        lambda: problem(action_space=gymnasium.spaces.Box(0, 1, (2, 3))),
        "action_space: ",
    ),
    "an empty box": (lambda: dp.Box([], []), "action_space: "),
    "words as bounds": (lambda: dp.Box("a", "b"), "action_space: "),
    "no bounds": (lambda: dp.Box(None, None), "action_space: "),
    "complex bounds": (lambda: dp.Box(torch.ones(1) * 1j, [1.0]), "action_space: "),
    "complex numbers as bounds": (lambda: dp.Box([1j], [1.0]), "action_space: "),
    "bounds without room": (lambda: dp.Box([torch.inf], [torch.inf]), "action_space: "),
    "a huge whole number as bound": (lambda: dp.Box([0], [10**400]), "action_space: "),
    "a complex radius": (lambda: dp.constraints.Ball(torch.tensor(1j)), "radius: "),
    "a word as radius": (lambda: dp.constraints.Ball("a"), "radius: "),
    "a constraint without a tuple": (
        lambda: problem(constraints=dp.constraints.Ball(1.0)),
        "constraints: ",
    ),
    "a constraint's class": (
        lambda: problem(constraints=[dp.constraints.Ball]),
        "constraints[0]: ",
    ),
    # numbers
    "a bool as a number": (lambda: cem(num_elites=True), "num_elites: "),
    "a tensor as a number": (lambda: cem(torch.tensor(T)), "horizon: "),
    "a tensor's bool as a number": (lambda: cem(torch.tensor(True)), "horizon: "),
    "a segment of no step": (lambda: rolled(segment=0), "segment: "),
    "a segment of half a step": (lambda: rolled(segment=0.5), "segment: "),
    "half a step": (lambda: cem(1.5), "horizon: "),
    "a word as a number": (lambda: cem("3"), "horizon: "),
    "a vector as a number": (lambda: cem(torch.ones(2).long()), "horizon: "),
    "a horizon without end": (lambda: cem(10**30), "horizon: "),
    "iterations without end": (lambda: dp.MPPI(T, iterations=10**30), "iterations: "),
    "a bool of iterations": (lambda: dp.Truncated(True), "iterations: "),
    "a word as tolerance": (lambda: dp.Implicit(tolerance="a"), "tolerance: "),
    "a strategy's class": (lambda: dp.MPPI(T, gradient=dp.Unroll), "gradient: "),
    # objectives
    "a scalar goal": (lambda: dp.objectives.GoalDistance(torch.tensor(1.0)), "goal: "),
    "a list as goal": (lambda: dp.objectives.GoalDistance([0.0, 0.0]), "goal: "),
    "a numpy goal": (lambda: dp.objectives.GoalDistance(np.zeros(2)), "goal: "),
    "a complex goal": (lambda: dp.objectives.GoalDistance(GOALS * 1j), "goal: "),
    "no weight": (lambda: dp.objectives.GoalDistance(GOALS, None), "running_weight: "),
    "a word as weight": (lambda: dp.objectives.ActionPenalty("a"), "weight: "),
    "one term without a list": (
        lambda: dp.objectives.SumOfResiduals(dp.objectives.ActionPenalty(1.0)),
        "terms: ",
    ),
    "one weight without a list": (
        lambda: dp.objectives.WeightedSum([dp.objectives.ActionPenalty(1.0)], 1.0),
        "weights: ",
    ),
    "a word in the weights": (
        lambda: dp.objectives.WeightedSum([dp.objectives.ActionPenalty(1.0)], ["a"]),
        "weights[0]: ",
    ),
    "goals that meet steps": (
        lambda: cem()(
            problem(objective=lambda x, u: (x - GOALS).square().sum((-1, -2))), STATE
        ),
        "GoalDistance",
    ),
    "goals that meet as many candidates": (
        lambda: cem()(
            problem(objective=lambda x, u: (x[..., -1, :] - GOALS).square().sum(-1)),
            STATE,
        ),
        "GoalDistance",
    ),
    "numpy in an objective": (
        lambda: cem()(problem(objective=lambda x, u: x.numpy().sum((-1, -2))), STATE),
        "objective: ",
    ),
    "an index beyond the state": (
        lambda: cem()(problem(objective=lambda x, u: x[..., 5].sum(-1)), STATE),
        "objective: ",
    ),
    # constraints on states
    "a constraint of None": (
        lambda: constrained(lambda x, u: None),
        "None",
    ),
    "a constraint of a bool": (
        lambda: constrained(lambda x, u: True),
        "bool",
    ),
    "a constraint of a number": (
        lambda: constrained(lambda x, u: 1.0),
        "float",
    ),
    "a constraint of booleans": (lambda: constrained(lambda x, u: x < 1), "torch.bool"),
    "a constraint without a last dimension": (
        lambda: constrained(lambda x, u: x[..., 0]),
        "unsqueeze",
    ),
    # risk
    "a word as share": (lambda: dp.CVaR("a"), "alpha: "),
    "no share": (lambda: dp.CVaR(None), "alpha: "),
    "a bool as share": (lambda: dp.CVaR(True), "alpha: "),
    "the class of a risk": (lambda: random(risk=dp.Mean), "risk: "),
    "a number as risk": (lambda: random(risk=0.1), "risk: "),
    "a risk of everybody": (
        lambda: cem()(random(risk=lambda costs: costs.mean()), STATE),
        "risk: ",
    ),
    "a bool of particles": (lambda: random(num_particles=True), "num_particles: "),
    # plans
    "half a step ahead": (lambda: plan().shifted(1.5), "steps: "),
    "a bool of steps": (lambda: plan().shifted(True), "steps: "),
    "a mask of whole numbers": (lambda: plan().where(MASK.long(), plan()), "mask: "),
    "a mask that is a list": (lambda: plan().where(MASK.tolist(), plan()), "mask: "),
    "a plan of another horizon": (
        lambda: plan().where(MASK, plan(horizon=T + 1)),
        "other.actions: ",
    ),
    "no other plan": (lambda: plan().where(MASK, None), "other: "),
    "an index of time": (lambda: plan()[..., 0, 0], "plan[…]: "),
    "an index of one plan": (lambda: plan()[0][0], "plan[…]: "),
    "an index beyond the batch": (lambda: plan()[3], "plan[…]: "),
    "a word as index": (lambda: plan()["actions"], "plan[…]: "),
    "a warm start of other steps": (lambda: warm(torch.zeros(3, 2, 1)), "warm_start"),
    "a warm start of other actions": (lambda: warm(torch.zeros(3, T, 2)), "warm_start"),
    "a warm start of another batch": (
        lambda: warm(torch.zeros(2, T, 1), 2),
        "warm_start",
    ),
    "a warm start that broadcasts": (lambda: warm(torch.zeros(1, T, 1)), "warm_start"),
    "a complex warm start": (lambda: warm(torch.zeros(3, T, 1) * 1j), "warm_start"),
    # calls without a planner
    "actions of another batch": (
        lambda: problem().cost(STATE, torch.zeros(2, T, 1)),
        "actions: ",
    ),
    "actions of another size": (
        lambda: problem().cost(STATE, torch.zeros(3, T, 2)),
        "actions: ",
    ),
    "an action outside of the space": (
        lambda: BOX.project(torch.zeros(3, 2)),
        "actions: ",
    ),
}
ENDLESS = {
    "observation_shape": lambda n: rssm(observation_shape=(n,)),
    "action_dim": lambda n: rssm(action_dim=n),
    **{
        name: lambda n, name=name: rssm(**{name: n})
        for name in ("belief_size", "state_size", "embedding_size", "hidden_size")
    },
    **{
        name: lambda n, name=name: rssm(**{name: n})
        for name in ("reward_hidden", "vector_hidden", "image_depth")
    },
    "dimensions": dp.models.PointMass,
    **{
        name: lambda n, name=name: online(**{name: n})
        for name in ("rounds", "seed_episodes", "updates_per_round", "sequence_length")
    },
    "replay_capacity": lambda n: online(replay_capacity=n),
    "updates": lambda n: training.OfflineConfig(n),
    "passes": lambda n: training.PPOConfig(passes=n),
    "keep": lambda n: training.Checkpoints("not made", n),
    "capacity": lambda n: training.ReplayBuffer(capacity=n),
    "batch_size": lambda n: buffer().sample(n, 1, torch.Generator()),
    "length": lambda n: buffer().sample(1, n, torch.Generator()),
    "count": lambda n: buffer().restore(n),
    "cycles": intersection,
    "refinements": lambda n: dp.solvers.RiccatiSolver(n),
}
MISTAKES |= {
    f"{name} of {number}": (lambda c=call, n=number: c(n), f"{name}: expected")
    for name, call in ENDLESS.items()
    for number in (-1, 10**30, 2.5, True)
}
MISTAKES |= {
    f"a batch of {number!r}": (lambda c=call, n=number: c(n), "batch_size: expected")
    for call in (agent_state, filtering)
    for number in (-1, 2.5, True, "a", None, 10**30)
}


def stepped(actions: list) -> object:
    with dp.envs.make_vector("lottery/paper", 2) as envs:
        envs.reset(seed=[0, 1])
        return envs.step(actions)


MISTAKES |= {
    "no cycles": (lambda: intersection(0), "cycles: "),
    "layers without end": (lambda: rssm(reward_layers=10**9), "reward_layers: "),
    "vector layers without end": (lambda: rssm(vector_layers=10**9), "vector_layers: "),
    "ragged actions": (
        lambda: stepped([[1.0], [1.0, 2.0]]),
        "actions: expected an array",
    ),
    "half a seed": (lambda: agent_state(1, 2.5), "seed: "),
    "a seed below zero": (lambda: EnvOptions(seed=-3), "seed: "),
    "a seed of an environment that is none": (lambda: EnvOptions(seed="a"), "seed: "),
    "checkpoints after no round": (
        lambda: run_rounds(checkpoint_every=0),
        "checkpoint_every: ",
    ),
    "rounds below zero": (lambda: run_rounds(rounds=-1), "rounds: "),
    "half a seed of a run": (lambda: run_rounds(seed=0.5), "seed: "),
    "no updates": (lambda: train(0), "updates: "),
    "updates below zero": (lambda: train(-1), "updates: "),
    "half an update": (lambda: train(2.5), "updates: "),
    "a model of no parameters": (lambda: trainer(Empty()), "Empty has none"),
}


class Seeing:
    """A model whose methods are handed over."""

    def __init__(self, **methods: Callable[..., object]) -> None:
        right = {"decode": lambda x: x, "observe": lambda x, u, o: o}
        vars(self).update(right | methods)


def descent(function: Callable[[torch.Tensor], object]) -> dp.GradMPC:
    class Rule:
        def direction(self, gradient: torch.Tensor, moments: object) -> object:
            return function(gradient), moments

    return dp.GradMPC(T, iterations=2, optimizer=Rule())


def seeing(function: Callable[[torch.Tensor], object], name: str) -> dp.Planner:
    model = Seeing(**{name: lambda *given: function(given[-1])})
    return dp.ImageCollocation(T, model, iterations=2)


# For planners that a function is handed over to, the words that an error begins with.
HANDED: dict[str, tuple[Callable[..., dp.Planner], str]] = {
    "multiplier_rule": (
        lambda f: dp.LatCo(T, iterations=2, multiplier_rule=lambda m, v, t: f(m)),
        "multiplier_rule: ",
    ),
    "multiplier_rules": (
        lambda f: dp.FirstOrderLatCo(
            T, iterations=2, dual_every=1, multiplier_rules=(lambda m, v, t: f(m),) * 2
        ),
        "multiplier_rules: ",
    ),
    "optimizer": (descent, "optimizer: "),
    **{
        name: (lambda f, name=name: seeing(f, name), "model: ")
        for name in ("decode", "observe")
    },
}
WRONG: dict[str, Callable[[torch.Tensor], object]] = {
    "one problem's": lambda right: right[:1],
    "the sum": lambda right: right.sum(1, keepdim=True),
    "the mean": torch.mean,
    "None": lambda right: None,
    "a number": lambda right: 1.0,
    "numpy": lambda right: right.detach().numpy(),
    "double": torch.Tensor.double,
    "what fails": lambda right: right.flatten(9),
}
MISTAKES |= {
    f"{words} as {name}": (
        lambda make=make, wrong=wrong: make(wrong)(problem(), STATE),
        begins,
    )
    for name, (make, begins) in HANDED.items()
    for words, wrong in WRONG.items()
}

# Each is answered as its twin is.
WELCOME: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "whole numbers of numpy": (
        lambda: plan(
            horizon=np.int64(T), num_samples=np.int32(3), chunk_size=np.uint8(2)
        ),
        lambda: plan(chunk_size=2),
    ),
    "a box of gymnasium": (
        lambda: cem()(
            problem(action_space=gymnasium.spaces.Box(-1, 1, (1,), np.float32)), STATE
        ),
        plan,
    ),
    "numpy bounds": (
        lambda: cem()(problem(action_space=dp.Box(-np.ones(1), np.ones(1))), STATE),
        plan,
    ),
    "a warm start of whole numbers": (
        lambda: warm(torch.ones(3, T, 1, dtype=torch.long)),
        lambda: warm(torch.ones(3, T, 1)),
    ),
    "a warm start in float64": (
        lambda: warm(torch.full((3, T, 1), 0.25, dtype=torch.float64)),
        lambda: warm(torch.full((3, T, 1), 0.25)),
    ),
    "a goal in float64": (
        lambda: cem()(
            problem(objective=dp.objectives.GoalDistance(torch.zeros(2).double())),
            STATE,
        ),
        plan,
    ),
    "a list of indices": (lambda: plan()[[0, 2]], lambda: plan()[torch.tensor([0, 2])]),
    "a numpy mask": (lambda: plan()[MASK.numpy()], lambda: plan()[MASK]),
}


def answer(call: Callable[[], object]) -> tuple[bool, str]:
    """Whether an error of diffplan answered, and what was said."""
    try:
        return False, f"no error, but {call()!r}"
    except dp.errors.DiffplanError as error:
        return True, str(error)
    except Exception as error:
        return False, f"raw {error!r}"


def alike(call: Callable[[], object], twin: Callable[[], object]) -> tuple[bool, str]:
    """Whether two calls give the same plan, and what went wrong."""
    try:
        got, expected = call(), twin()
    except Exception as error:
        return False, repr(error)
    return torch.equal(got.actions, expected.actions), f"{got.actions.tolist()}"


if __name__ == "__main__":
    refused = {name: answer(call) for name, (call, _) in MISTAKES.items()}
    welcome = {name: alike(*pair) for name, pair in WELCOME.items()}
    json.dump({"refused": refused, "welcome": welcome}, sys.stdout)
