"""Runs stable-worldmodel's own planning tests with planners in its solvers' places.

    nox -s tests_adapters -- --theirs checkout/of/stable-worldmodel/tests

The tests are those of the tag 0.1.1; they are read where they lie. Planners take the
places of `CEMSolver`, `ICEMSolver`, `MPPISolver`, `GradientSolver`, `LagrangianSolver`
in the tests of solvers, and that of the mock solvers in the tests of policies. A test
applies if it configures a solver, solves, or acts; and if what it looks at is part of
the solver protocol. `NOT_APPLICABLE` says which others there are, and why.
"""

import inspect
import re
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import diffplan as dp
from diffplan.adapters.stable_worldmodel import PlannerSolver

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_stable_worldmodel  # noqa: F401  (first)
from stable_worldmodel import solver as solvers

# By what is found in a test's source. The first that fits counts.
NOT_APPLICABLE = {
    r"spaces\.Discrete|PGDSolver|CategoricalCEM": "discrete actions",
    r"callbacks|Recorder|Callback": "callbacks, given a solver's own iterates",
    r"init_action_distrib|\.init_action\(|solver\.init\b": "a solver's own start",
    r"_lambdas|lambdas|_loss|_multipliers|rho|Constrain|constraint": "multipliers",
    r"'cost'|outputs\[.cost.\]|action_noise": "what only that solver returns or does",
    r"\._config\b|\._action_low": "a solver's private attributes",
    r"MagicMock\(spec": "a model that is a mock and returns no costs",
    r"_assertion": "the type of an error: theirs are AssertionError, ours say why",
}
APPLIES = r"\.configure\(|configure\(|\.solve\(|solver\(|\.get_action\(|\.set_env\("


def shim(build: Any) -> type[PlannerSolver]:
    """Return a solver class with the arguments of theirs; `build` makes the planner."""

    class Shim(PlannerSolver):
        def __init__(
            self, model: Any, batch_size: int | None = None, **given: Any
        ) -> None:
            seed = given.pop("seed", 1234)
            make = partial(build, given)
            super().__init__(make, model, batch_size=batch_size, seed=seed)

        @property
        def _configured(self) -> bool:
            return self.n_envs is not None

    return Shim


def cem(given: dict[str, Any], horizon: int, colour: float = 0.0) -> dp.CEM:
    """Return the planner of `CEMSolver`, or of `ICEMSolver` with a colour."""
    return dp.CEM(
        horizon,
        num_samples=given.get("num_samples", 300),
        num_elites=given.get("topk", 30),
        iterations=given.get("n_steps", 30),
        initial_std=float(given.get("var_scale", 1)),
        noise_exponent=given.get("noise_beta", colour),
    )


def mppi(given: dict[str, Any], horizon: int) -> dp.MPPI:
    """Return the planner of `MPPISolver`."""
    return dp.MPPI(
        horizon,
        num_samples=given.get("num_samples", 300),
        iterations=given.get("n_steps", 30),
        temperature=given.get("temperature", 0.5),
        initial_std=float(given.get("var_scale", 1)),
    )


def descent(given: dict[str, Any], horizon: int) -> dp.ShootingGD:
    """Return the planner of `GradientSolver` and `LagrangianSolver`."""
    steps = given["n_steps"] * given.get("n_outer_steps", 1)
    return dp.ShootingGD(
        horizon, iterations=steps, num_starts=given.get("num_samples", 1)
    )


SHIMS = {
    "cem.CEMSolver": shim(cem),
    "icem.ICEMSolver": shim(partial(cem, colour=2.0)),
    "mppi.MPPISolver": shim(mppi),
    "gd.GradientSolver": shim(descent),
    "lagrangian.LagrangianSolver": shim(descent),
}


class Still:
    """A model for tests that count calls: the mock's answer, zero, is the best."""

    def get_cost(
        self, info_dict: dict[str, Any], action_candidates: torch.Tensor
    ) -> torch.Tensor:
        """Return how large the actions are."""
        return action_candidates.square().sum((-1, -2))


class MockSolver(PlannerSolver):
    """A planner where a test of the policy has a mock; tells what the mock tells."""

    def __init__(self, model: Any = None) -> None:
        still = partial(dp.ShootingGD, iterations=2), Still()
        given = partial(dp.MPPI, num_samples=4, iterations=1), model
        super().__init__(*(still if model is None else given))
        self.configured, self.call_count = False, 0
        self.last_batch_size: int | None = None
        self.received_init_action: torch.Tensor | None = None

    def configure(self, **given: Any) -> None:
        """Note that it was called, as the mock does."""
        super().configure(**given)
        self.configured = True

    def _start(self, *given: Any) -> torch.Tensor | None:
        self.received_init_action = super()._start(*given)
        return self.received_init_action

    def __call__(self, *given: Any, **named: Any) -> dict[str, Any]:
        """Note how often and for how many it was called, as the mock does."""
        self.call_count += 1
        found = super().__call__(*given, **named)
        self.last_batch_size = len(found["actions"])
        return found


class Suite:
    """A plugin of pytest: puts planners in, leaves out what does not apply, counts."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self.outcomes: dict[str, str] = {}

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Function]
    ) -> None:
        """Choose the tests that apply."""
        chosen, rest = [], []
        for item in items:
            policy = item.module.__name__.endswith("test_policy")
            if policy:
                item.module.MockSolver = MockSolver
                item.module.MockSolverWithWarmStart = MockSolver
            reason = reason_against(item, policy)
            (rest if reason else chosen).append(item)
            if reason:
                self.left_out[reason] += 1
        items[:] = chosen
        config.hook.pytest_deselected(items=rest)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the worst outcome of each test."""
        if report.when == "call" or report.outcome == "failed":
            self.outcomes[report.nodeid] = report.outcome


def reason_against(item: pytest.Function, policy: bool) -> str:
    """Return why a test does not apply; empty if it does."""
    source = inspect.getsource(item.function)
    if policy and not item.name.startswith("test_worldmodel_policy"):
        return "no planning"
    for pattern, reason in NOT_APPLICABLE.items():
        if re.search(pattern, source + item.name):
            return reason
    return "" if policy or re.search(APPLIES, source) else "no planning"


def main(folder: Path) -> int:
    """Run the tests in a folder and print how many passed, failed, do not apply."""
    for name, solver in SHIMS.items():
        module, kind = name.split(".")
        setattr(sys.modules[f"{solvers.__name__}.{module}"], kind, solver)
    suite = Suite()
    found = [folder / "solver", folder / "test_policy.py"]
    options = ("-q", "-p", "no:cacheprovider", "-c", "/dev/null", f"--rootdir={folder}")
    pytest.main([*options, *map(str, found)], plugins=[suite])
    counts = Counter(suite.outcomes.values())
    for reason, count in suite.left_out.most_common():
        print(f"not applicable: {count:3} {reason}")  # noqa: T201
    print(  # noqa: T201
        f"{counts['passed']} passed, {counts['failed']} failed, "
        f"{suite.left_out.total()} not applicable"
    )
    return int(counts["failed"] > 0 or counts["passed"] == 0)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
