"""Planners that act with one frozen model, from the same starts."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from diffplan._runs.online import OnlineRun, action_box
from diffplan._runs.settings import Settings
from diffplan._runs.stopwatch import Stopwatch, planner_watch
from diffplan._runs.tables import read_csv, write_csv
from diffplan.agents import Agent, PlanningAgent, PolicyAgent, UniformAgent
from diffplan.envs.vector import VectorEnv
from diffplan.gradients import Detach
from diffplan.models.rssm import RSSM
from diffplan.objectives import Ensemble, NegativeReturn, minimum
from diffplan.planners import follow
from diffplan.planners.gradient import PolicyGradMPC
from diffplan.planners.request import PlanRequest
from diffplan.planners.sampling import Search
from diffplan.planners.sampling.cem import CEM
from diffplan.problem import Box, Objective
from diffplan.training._interaction import run_episodes
from diffplan.training.seeding import SIMULATOR_BITS, derive_seed
from examples.planners.dream_mpc import ReturnAndValue, cautious_return
from reproductions.common.idle import still
from reproductions.common.stages import Unit
from reproductions.grad_mpc.dreamer_settings import DreamerRun
from reproductions.grad_mpc.online import MODEL, POLICY, Policy, load_policy

TOGETHER = 10
"""Episodes that are played side by side: the noise of one does not depend on others."""


class PolicyCEM(CEM):
    """CEM whose first mean is what a policy would do.

    Args:
        horizon: T, number of planned actions.
        policy: `state […, S] → action […, A]`.
        num_samples: Candidates of a refit.
        num_elites: That are kept.
        iterations: Refits.
    """

    def __init__(
        self,
        horizon: int,
        policy: Any,
        *,
        num_samples: int = 100,
        num_elites: int = 10,
        iterations: int = 4,
    ) -> None:
        super().__init__(
            horizon,
            num_samples=num_samples,
            num_elites=num_elites,
            iterations=iterations,
            gradient=Detach(),
        )
        self.policy = policy

    def begin(self, request: PlanRequest) -> Search:
        """Return the policy's actions as the mean; the spread is CEM's."""
        search = super().begin(request)
        with torch.no_grad():
            mean = follow(
                lambda state, _: self.policy(state),
                request.problem,
                request.state,
                torch.zeros_like(search.mean).unsqueeze(1),
            )
        return search._replace(mean=mean.squeeze(1))


@dataclass(frozen=True)
class Contender:
    """Who acts in a contest.

    Attributes:
        name: Of its rows.
        kind: A "plan", what the "policy" does, a plan that begins with the policy
            ("from_policy"), "random" actions, or none ("still").
        settings: Of the planner.
        horizon: Actions of a plan, of which the first is executed.
        objective: What plans maximise: the model's "reward" of each step, the "value"
            of each state (eq. 6), or the "return", rewards and the last state's value,
            which begins with its own reward (eq. 3 and 5).
        critics: Whose value that is: the "first", from which the actor learnt, the
            "least" of all, or their mean less a price of doubt (Dream-MPC).
    """

    name: str
    kind: Literal["plan", "policy", "from_policy", "random", "still"] = "plan"
    settings: Settings | None = None
    horizon: int = 1
    objective: Literal["reward", "value", "return"] = "reward"
    critics: Literal["first", "least", "doubt"] = "first"

    @property
    def evaluations(self) -> int:
        """Steps of the model that one plan takes; Grad-MPC's with a gradient."""
        found: Mapping[str, Any] = self.settings or {}
        each = found.get("num_starts", found.get("num_samples", 1))
        each += self._reuses  # and the last plan
        return self.horizon * each * found.get("iterations", 0)

    @property
    def _reuses(self) -> bool:
        return self.settings is not None and self.settings.get("reuse", 0.0) > 0

    def agent(self, model: RSSM, box: Box, policy: Policy | None) -> Agent:
        """Return who acts with this model."""
        if self.kind in ("random", "still"):
            return UniformAgent(box) if self.kind == "random" else still(box)
        if self.kind == "policy":
            assert policy is not None  # contests of policies have Dreamer's runs
            return PolicyAgent(model, policy.actor, box)
        assert self.settings is not None  # every planner has settings
        given = (policy.actor,) if policy and self.kind == "from_policy" else ()
        return PlanningAgent(
            model,
            self.settings.build(self.horizon, *given),
            self._objective(model, policy),
            box,
            warm_start=self._reuses,
        )

    def _objective(self, model: RSSM, policy: Policy | None) -> Objective:
        if self.objective == "reward" or policy is None:
            return NegativeReturn(model.reward)
        if self.critics == "doubt":
            return cautious_return(model.reward, policy.critics)
        value = policy.critics[0]
        if self.critics == "least":
            value = Ensemble(policy.critics, minimum)
        if self.objective == "value":
            return NegativeReturn(value)
        return ReturnAndValue(model.reward, discount=0.99, value=value)


def unit(
    name: str,
    contenders: Iterable[Contender],
    source: Unit,
    run: OnlineRun,
    *,
    starts: int,
    seed: int,
    folder: Path,
    together: int = TOGETHER,
) -> Unit:
    """Return the unit of a contest.

    Args:
        name: Of the unit.
        contenders: Who acts.
        source: The unit of the run whose model is used.
        run: Its settings.
        starts: Test episodes, the same for all.
        seed: Of the run, and of the planners' random numbers.
        folder: Of the unit.
        together: Test episodes that are played side by side: fewer take less memory.
    """
    # Published units know of no such setting: named where it is another than theirs.
    more = {} if together == TOGETHER else {"together": together}
    work = partial(
        contest,
        directory=folder,
        source=source.directory,
        run=run,
        contenders={each.name: each for each in contenders},
        starts=starts,
        seed=seed,
        **more,
    )
    return Unit(name, work, folder, (source.name,))


def contest(
    directory: Path,
    source: Path,
    run: OnlineRun,
    contenders: Mapping[str, Contender],
    starts: int,
    seed: int,
    together: int = TOGETHER,
) -> None:
    """Let each contender act from every start; write `<contender>.csv`."""
    device = run.resolve_device()
    model = RSSM.load(source / MODEL, device).eval()
    with run.environments(Stopwatch(), min(starts, together)) as environments:
        box = action_box(environments.single_action_space, device)
        policy = None
        if isinstance(run, DreamerRun):
            policy = load_policy(run, model.state_dim, box, source / POLICY)
        for index, each in enumerate(contenders.values()):
            # One that has played stays, where the contest was interrupted.
            if not (directory / f"{each.name}.csv").exists():
                rows = play(each.agent(model, box, policy), environments, starts, seed)
                more = {"model_evaluations": each.evaluations}
                write_csv(directory / f"{each.name}.csv", [row | more for row in rows])
            print(f"{index + 1} of {len(contenders)} contenders")


def play(
    agent: Agent, environments: VectorEnv, starts: int, seed: int
) -> list[dict[str, object]]:
    """Return what an agent earned from each start, and its time for a plan."""
    watch = planner_watch()
    if isinstance(agent, PlanningAgent):
        watch.watch(agent.planner)
    episodes = run_episodes(
        agent,
        environments,
        # Fresh states, the same for every contender and every model.
        [derive_seed(0, "test", i, bits=SIMULATOR_BITS) for i in range(starts)],
        agent_seed=derive_seed(seed, "contest"),
    )
    milliseconds = round(1000 * watch.wall / max(watch.calls, 1), 3)
    return [
        {
            "seed": seed,
            "start": index,
            "episode_return": episode.episode_return,
            "milliseconds": milliseconds,
        }
        for index, episode in enumerate(episodes)
    ]


def entries(folder: Path, name: str) -> Iterator[dict[str, object]]:
    """Yield the ledger's rows of a contest.

    Args:
        folder: Of the unit.
        name: Of the unit, `<experiment>/<task>/seed_<n>`.
    """
    experiment, task, _ = name.split("/")
    for path in sorted(folder.glob("*.csv")):
        for row in read_csv(path):
            yield {
                "experiment": experiment,
                "unit": name,
                "planner": path.stem,
                "seed": row["seed"],
                "episode": row["start"],
                "episode_return": row["episode_return"],
                "model_evaluations": row["model_evaluations"],
                "milliseconds": row["milliseconds"],
                "task": task,
            }


REFERENCES = (Contender("random", "random"), Contender("still", "still"))


def refined(
    horizon: int,
    iterations: int,
    step_size: float,
    critics: Literal["first", "least"] = "first",
) -> Contender:
    """Return Policy + Grad-MPC (eq. 6), for a horizon of 1 with the value alone."""
    least = "_least" * (critics == "least")
    return Contender(
        f"policy_grad_mpc{least}_h{horizon}_i{iterations}_s{step_size:g}",
        "from_policy",
        Settings(
            partial(PolicyGradMPC, keep_best=False),
            num_starts=1,
            iterations=iterations,
            step_size=step_size,
        ),
        horizon,
        "value" if horizon == 1 else "return",
        critics,
    )


def dream_mpc(reuse: bool, doubt: bool) -> Contender:
    """Return Dream-MPC (arXiv:2605.04568), whole or without one or both of its ideas.

    Five proposals of the policy, three steps ahead, one gradient step.

    Args:
        reuse: Whether they are mixed with what those of the last plan became, a tenth,
            and the last plan is one more.
        doubt: Whether what the critics disagree about has a price, 0.01 of their
            standard deviation; else the value is that of the first.
    """
    settings = Settings(
        partial(PolicyGradMPC, keep_best=False),
        num_starts=5,
        iterations=1,
        step_size=0.1,
        init="sample",
        reuse=0.1 if reuse else 0.0,
    )
    name = "dream_mpc" + "_reuse" * reuse + "_doubt" * doubt
    heads: Literal["doubt", "first"] = "doubt" if doubt else "first"
    return Contender(name, "from_policy", settings, 3, "return", heads)
