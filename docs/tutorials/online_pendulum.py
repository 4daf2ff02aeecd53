"""
From nothing to a curve: your own world model on Pendulum-v1
============================================================

A model of your own, trained online on a task of Gymnasium: it acts by planning, learns
from what it met, and acts better. Then it is saved, loaded and watched.
"""

# %%
# The model
# ---------
# Three methods make a world model. Here an observation tells everything, so that
# `encode` is the way to see; one that must remember defines `observe` instead
# (:doc:`/extending/world_model`). `config` holds the arguments that build it again.

import tempfile
from pathlib import Path

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import diffplan as dp
from diffplan.agents import PlanningAgent
from diffplan.envs.vector import VectorEnv
from diffplan.models import LossRecord, WorldModel
from diffplan.training import OnlineConfig, OnlineTrainer, OptimizerConfig, read_metrics


class Learned(WorldModel):
    """Predicts by how much the observation changes, and the reward."""

    def __init__(self, units: int = 64) -> None:
        super().__init__()
        self.config = {"units": units}
        self.state_dim, self.action_dim = 3, 1
        self.register_buffer("scale", torch.tensor([1.0, 1.0, 8.0]))
        self.layers = nn.Sequential(
            nn.Linear(4, units), nn.SiLU(), nn.Linear(units, units), nn.SiLU()
        )
        self.change, self.worth = nn.Linear(units, 3), nn.Linear(units, 1)

    def encode(self, observation):
        return observation / self.scale

    def step(self, state, action):
        return state + self.change(self.layers(torch.cat([state, action / 2], -1)))

    def reward(self, state, action):
        seen = self.layers(torch.cat([state, action / 2], -1))
        return 10 * self.worth(seen).squeeze(-1)

    def loss(self, batch, generator):
        seen = self.encode(batch.observations)
        state, error, worth = seen[:, 0], 0.0, 0.0
        for time, action in enumerate(batch.actions.unbind(1)):
            reward = self.reward(state, action)
            worth = worth + (reward - batch.rewards[:, time]).square().mean()
            state = self.step(state, action)
            error = error + (state - seen[:, time + 1]).square().mean()
        total = (100 * error + 0.1 * worth) / batch.length
        return LossRecord(total, {"error": error.detach(), "reward": worth.detach()})


torch.manual_seed(0)
torch.set_num_threads(1)
model = Learned()
dp.testing.check_world_model(model, torch.randn(3, 3))

# %%
# Planner, agent, trainer
# -----------------------
# The agent sees with the model and plans in it. The reward takes the action, and the
# objective notices.

box = dp.Box([-2.0], [2.0])
planner = dp.CEM(horizon=20, num_samples=100, num_elites=10, iterations=3)
objective = dp.objectives.NegativeReturn(model.reward)
agent = PlanningAgent(model, planner, objective, box, replan_every=2)
environments = VectorEnv([lambda: gymnasium.make("Pendulum-v1")] * 2)

config = OnlineConfig(
    rounds=8,
    seed_episodes=2,
    episodes_per_round=2,
    pretrain_updates=10,
    updates_per_round=40,
    batch_size=64,
    sequence_length=5,
    evaluate_every=0,
    videos=False,
    optimizer=OptimizerConfig(learning_rate=2e-3),
)
directory = Path(tempfile.mkdtemp())
trainer = OnlineTrainer(model, agent, environments, config, seed=0, directory=directory)
trainer.run(quiet=True, tensorboard=False)

# %%
# The first two episodes are random; from then on the planner acts. A run can be killed
# at any moment and goes on with the same call. What it measured lies in its folder.

rows = [
    row
    for row in read_metrics(directory / "metrics.csv")
    if row["name"] == "collect/return"
]
steps = [int(row["environment_step"]) for row in rows]
returns = [float(row["value"]) for row in rows]
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(steps, returns, marker="o")
axes.set(xlabel="steps in the environment", ylabel="return of two episodes, mean")
figure.tight_layout()

# %%
# Where an episode can end by itself, the model says how likely it is that it goes on:
# a method `continues(state)`, learned from `batch.terminated`. The objective
# `TerminatingReturn(model.reward, model.continues)` then discounts by it, for planners
# that ask for costs only (:doc:`/objectives`).
#
# Save, load, watch
# -----------------
# A file is safetensors with a card. A class of your own is named to the reader, which
# runs nothing that a file holds.

path = directory / "pendulum.safetensors"
dp.models.save(model, path, card={"task": "Pendulum-v1", "return": returns[-1]})
again = dp.models.load(path, kinds={"Learned": Learned})
print(dp.models.card(path))

objective = dp.objectives.NegativeReturn(again.reward)
agent = PlanningAgent(again, planner, objective, box, replan_every=2)
environment = gymnasium.make("Pendulum-v1")
observation, _ = environment.reset(seed=5)
memory, seen, ended = agent.initial_state(batch_size=1), [observation], False
while not ended:
    action, memory = agent.act(torch.from_numpy(observation)[None], memory)
    observation, _, terminated, truncated, _ = environment.step(action[0].numpy())
    seen.append(observation)
    ended = terminated or truncated

figure, frames = plt.subplots(1, 10, figsize=(8, 1.3))
for axes, time in zip(frames, range(0, 100, 10), strict=True):
    cos, sin, _ = seen[time]
    axes.plot([0, -sin], [0, cos], linewidth=4, solid_capstyle="round")
    axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal", xticks=[], yticks=[])
    axes.set_title(f"{0.05 * time:.1f} s", fontsize=8)
figure.tight_layout()
print(f"upright at the end: {np.mean([cos for cos, _, _ in seen[-50:]]):.2f} of 1")

# %%
# :doc:`/getting_started` says what else there is, also from the command line.
