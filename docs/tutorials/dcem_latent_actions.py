"""
DCEM's learned action space
===========================

Plans of twenty torques have twenty dimensions, few of which matter. A decoder that
makes all of them from two numbers is trained *through* the search for those two
numbers, which is what the differentiable cross-entropy method is for.
"""

# %%
# Search in two dimensions
# ------------------------
# The decoder is any module. DCEM searches its latent space, the box [-1, 1]², and each
# plan is differentiable to the decoder's weights.

import matplotlib.pyplot as plt
import torch
from torch import nn

import diffplan as dp

torch.set_num_threads(1)
torch.manual_seed(0)
HORIZON = 20
problem = dp.PlanningProblem(
    dp.models.Pendulum(),
    dp.objectives.SumOfResiduals(
        [
            dp.objectives.GoalDistance(torch.zeros(2)),
            dp.objectives.ActionPenalty(0.1),
        ]
    ),
    dp.Box([-3.0], [3.0]),
)


class Decoder(nn.Module):
    """Two numbers → twenty torques."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, HORIZON))

    def forward(self, z):
        return 3 * torch.tanh(self.layers(z)).unsqueeze(-1)


settings = {"num_samples": 30, "num_elites": 6, "iterations": 4}
decoder = Decoder()
latent = dp.LatentActions(dp.DCEM(1, **settings), decoder, 2, horizon=HORIZON)

# %%
# Train the decoder through the search
# ------------------------------------
# The loss is the cost of the plans that the search finds from random starts.


def starts(count, generator):
    """Return states near upright: angles up to ±0.6 rad, speeds up to ±1 rad/s."""
    return (2 * torch.rand(count, 2, generator=generator) - 1) * torch.tensor([0.6, 1])


def judged(planner):
    """Return the mean cost from the same 64 starts."""
    with torch.no_grad():
        return planner(
            problem, starts(64, torch.Generator().manual_seed(1))
        ).cost.mean()


generator = torch.Generator().manual_seed(0)
optimizer = torch.optim.Adam(decoder.parameters(), lr=3e-3)
curve = [judged(latent).item()]
for _ in range(15):
    for _ in range(10):
        optimizer.zero_grad()
        latent(problem, starts(32, generator)).cost.mean().backward()
        optimizer.step()
    curve.append(judged(latent).item())

# %%
# With as many samples, a search in all twenty dimensions finds worse plans; the
# optimum is that of iLQR.

whole = judged(dp.DCEM(HORIZON, **settings)).item()
best = judged(dp.ILQR(HORIZON, iterations=30)).item()
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
left.plot(range(0, 160, 10), curve, label="two learned dimensions")
left.axhline(whole, color="tab:red", linestyle="--", label="all twenty")
left.axhline(best, color="grey", label="optimum")
left.set(xlabel="updates of the decoder", ylabel="cost of a plan", yscale="log")
left.legend()
with torch.no_grad():
    for turn in torch.linspace(0, 2 * torch.pi, 9)[:-1]:
        z = torch.stack([turn.cos(), turn.sin()])
        right.plot(decoder(z)[:, 0], color=plt.colormaps["twilight"](turn.item() / 6.3))
right.set(
    xlabel="time step", ylabel="torque, N m", title="what points of a circle mean"
)
figure.tight_layout()
print(
    f"cost {curve[0]:.2f} before, {curve[-1]:.2f} after; {whole:.2f} in all dimensions"
)
