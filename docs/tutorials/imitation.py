"""
Imitation through a planner
===========================

An expert balances a pendulum. The learner sees its actions and nothing else, and has
a pendulum of unknown gravity and mass and a cost with an unknown price of effort. It
plans with them, and descends the difference of the actions *through the planner*.
"""

# %%
# A planner as a layer
# --------------------
# Costs are sums of squares, so that iLQR and LatCo can take them too.

import matplotlib.pyplot as plt
import torch

import diffplan as dp

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
WEIGHT = torch.tensor([1.0, 0.1**0.5])


class Balance(dp.objectives.ResidualObjective):
    """½ Σ (angle² + 0.1 velocity² + effort · torque²), the end counts ten times."""

    def __init__(self, effort):
        super().__init__()
        self.effort = effort

    def running_residual(self, state, action):
        return torch.cat([state * WEIGHT, self.effort.sqrt() * action], dim=-1)

    def terminal_residual(self, state):
        return 10**0.5 * state * WEIGHT


def controller(planner, gravity, mass, effort):
    """Return what plans actions `[B, T, 1]` from states `[B, 2]`."""
    problem = dp.PlanningProblem(
        dp.models.Pendulum(gravity=gravity, mass=mass),
        Balance(effort),
        dp.Box([-20.0], [20.0]),
    )
    return lambda state: planner(problem, state).actions


# %%
# What is known of the expert: 16 starts, and what it did.

state = (2 * torch.rand(16, 2, generator=torch.Generator().manual_seed(0)) - 1) * (
    torch.tensor([1.2, 2.0])
)
truth = torch.tensor([9.8, 1.0, 0.03])
names = ("gravity", "mass", "effort")
with torch.no_grad():
    shown = controller(dp.ILQR(8), *truth)(state)

# %%
# Learning
# --------
# The gradient of the plan is implicit: that of its optimality condition, which needs no
# memory for iterations. Numbers that are positive are learned by their logarithms.

planner = dp.ILQR(8, iterations=20, gradient=dp.Implicit())
logarithms = torch.tensor([5.0, 1.6, 0.1]).log().requires_grad_()
optimizer = torch.optim.Adam([logarithms], lr=0.05)
history, losses, first = [], [], None
for _ in range(150):
    planned = controller(planner, *logarithms.exp())(state)
    first = planned.detach() if first is None else first
    loss = (planned - shown).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    history.append(logarithms.detach().exp() / truth)
    losses.append(loss.item())

# %%
# All three numbers are found from actions alone.

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
for index, name in enumerate(names):
    left.plot([values[index] for values in history], label=name)
left.axhline(1, color="grey", linewidth=0.8)
left.set(xlabel="step", ylabel="believed / true")
left.legend()
right.plot(shown[0, :, 0], "o", color="black", label="expert")
right.plot(first[0, :, 0], "--", label="before")
right.plot(planned[0, :, 0].detach(), label="after")
right.set(xlabel="time step", ylabel="torque, N m")
right.legend()
figure.tight_layout()
print({name: f"{100 * (history[-1][i] - 1):+.1f} %" for i, name in enumerate(names)})

# %%
# :doc:`/gradients` says which planner can be differentiated how;
# `examples/imitation.py` does the same with LatCo and DCEM.

torch.set_default_dtype(torch.float32)
