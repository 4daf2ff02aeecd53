"""What a user's editor is told: read by mypy and pyright, never run.

Each line that ends in a comment is one that the checkers answer: the type that they
reveal there, or `error`.
"""

from typing import reveal_type

import torch

import diffplan as dp

pendulum = dp.models.Pendulum()
objective = dp.objectives.GoalDistance(torch.zeros(2))
problem = dp.PlanningProblem(pendulum, objective, dp.Box([-1.0], [1.0]))
planner = dp.LatCo(horizon=3)
state = torch.zeros(2)
plan = planner(problem, state)

reveal_type(plan)  # Plan
reveal_type(plan.actions)  # Tensor
reveal_type(dp.CEM(3)(problem.to("cpu"), state, warm_start=plan.shifted()))  # Plan
reveal_type(plan.to(state).detach()[0])  # Plan
reveal_type(problem.to("cpu"))  # PlanningProblem
reveal_type(pendulum(state, plan.action))  # Tensor
reveal_type(objective(plan.states, plan.actions))  # Tensor
reveal_type(dp.models.Critic(2)(state))  # Tensor
reveal_type(planner.gradient)  # GradientStrategy
reveal_type(dp.envs.list_tasks()[0])  # str
reveal_type(dp.training.constant(3))  # float
noisy = dp.agents.GaussianNoise(0.1)
reveal_type(noisy)  # GaussianNoise

typo = plan.actoins  # error
swapped = planner(state, problem)  # error
unknown = dp.agent  # error
later = planner(problem, state, warmstart=plan)  # error
