"""TorchRL's CEMPlanner on a model-based environment."""

from typing import Any

import torch
from _problems import Problem
from _worker import Contender, serve
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.model_based import ModelBasedEnvBase
from torchrl.modules import CEMPlanner, WorldModelWrapper


class Imagination(ModelBasedEnvBase):
    """The problem as an environment; keeps its last rollout, to judge the answer."""

    def __init__(self, problem: Problem, model: nn.Module) -> None:
        super().__init__(model)
        dtype = problem.state.dtype
        self.observation_spec = Composite(state=Unbounded((problem.size,), dtype=dtype))
        self.state_spec = self.observation_spec.clone()
        self.action_spec = Bounded(
            -problem.limit, problem.limit, (problem.width,), dtype=dtype
        )
        self.reward_spec = Unbounded((1,), dtype=dtype)
        self.last: TensorDict | None = None

    def _reset(self, tensordict: TensorDict | None) -> TensorDict:
        del tensordict
        return self.full_state_spec.zero()

    def rollout(self, *arguments: Any, **options: Any) -> TensorDict:
        """Roll out as ever, and keep what came of it."""
        self.last = super().rollout(*arguments, **options)
        return self.last


def prepare(problem: Problem, case: dict[str, Any]) -> Contender:
    """Set TorchRL up."""
    batch = problem.state.shape[0]

    def reward(following: Tensor, action: Tensor) -> Tensor:
        # A reward comes on arrival: the effort of the action, the cost of the state.
        return -problem.running_cost(following, action).unsqueeze(-1)

    model = WorldModelWrapper(
        TensorDictModule(
            problem.dynamics, in_keys=["state", "action"], out_keys=["state"]
        ),
        TensorDictModule(reward, in_keys=["state", "action"], out_keys=["reward"]),
    )
    environment = Imagination(problem, model)
    planner = CEMPlanner(
        environment,
        planning_horizon=problem.horizon,
        optim_steps=case["iterations"],
        num_candidates=case["samples"],
        top_k=case["elites"],
    )
    start = TensorDict({"state": problem.state}, batch_size=[batch])

    @torch.no_grad()
    def solve() -> Tensor:
        return planner(start.clone())["action"]

    def actions(_: Tensor) -> Tensor:
        # The planner returns the first action alone. The rest of its final mean is
        # computed again from its last candidates.
        last = environment.last
        returns = last["next", "reward"].sum(dim=(-2, -1))
        best = returns.topk(case["elites"], dim=1).indices
        index = best[..., None, None].expand(-1, -1, *last["action"].shape[2:])
        return last["action"].gather(1, index).mean(dim=1)

    torch.manual_seed(0)
    return Contender(solve, actions)


if __name__ == "__main__":
    serve(["torchrl", "tensordict"], prepare)
