"""
Swing-up by LatCo in a learned model
====================================

A model that was trained on the cartpole of the DeepMind control suite comes along with
diffplan. LatCo plans in its latent space, and the plan is carried out in the simulator.
"""

# %%
# A trained model, by name
# ------------------------
# The card says where it comes from, and what was measured: the return of whole episodes
# with the planner that the model was trained with, which was not LatCo.

import matplotlib.pyplot as plt
import torch

import diffplan as dp
from diffplan.agents import PlanningAgent

torch.set_num_threads(1)
name = "cartpole-swingup-state-1"
model = dp.models.load(name).requires_grad_(False)
card = dp.models.card(name)
print(card["task"], card["commit"][:10])
print(card["settings"]["run"]["planner"]["name"], card["measured"])

# %%
# Plan once
# ---------
# Collocation moves states and actions together, and lets them break the dynamics
# while it searches: less from the first iteration on with larger first multipliers.

env = dp.envs.make(card["task"], action_repeat=8)
observation, _ = env.reset(seed=0)
box = dp.Box([-1.0], [1.0])
problem = dp.PlanningProblem(model, dp.objectives.SoftplusReward(model.reward), box)
planner = dp.LatCo(
    horizon=25, iterations=40, initial_multipliers=(100.0, 1.0), gradient=dp.Detach()
)


def see(state, action, observation):
    """Return the belief after an action and what was seen then."""
    return model.observe(state, action, torch.as_tensor(observation)[None].float())


still = torch.zeros(1, 1)
start = see(model.initial_state((1,)), still, observation)
plan = planner(problem, start)
print(plan)

# %%
# Imagined and real
# -----------------
# The model decodes what it imagines. The same actions in the simulator show how far its
# imagination holds.

imagined = model.decode(plan.states)[0]
real = [torch.as_tensor(observation)]
for action in plan.actions[0]:
    observation, *_ = env.step(action.numpy())
    real.append(torch.as_tensor(observation))
real = torch.stack(real)
seconds = 0.08 * torch.arange(len(real))

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
left.plot(seconds, imagined[:, 1], label="imagined")
left.plot(seconds, real[:, 1], label="what happened")
left.set(xlabel="s", ylabel="cosine of the pole's angle", ylim=(-1.1, 1.1))
left.legend()
right.step(seconds[:-1], plan.actions[0, :, 0], where="post")
right.set(xlabel="s", ylabel="action")
figure.tight_layout()

# %%
# Close the loop
# --------------
# An agent filters, and plans again from the plan before: at every second step, for a
# pole that stands soon falls.

agent = PlanningAgent(model, planner, problem.objective, box, replan_every=2)
observation, _ = env.reset(seed=0)
memory, seen, total = agent.initial_state(batch_size=1), [observation], 0.0
for _ in range(75):
    action, memory = agent.act(torch.as_tensor(observation)[None].float(), memory)
    observation, reward, *_ = env.step(action[0].numpy())
    seen.append(observation)
    total += reward

figure, frames = plt.subplots(3, 10, figsize=(8, 3.2))
for axes, time in zip(frames.flat, range(0, 75, 5), strict=False):
    place, cos, sin = seen[time][:3]
    axes.plot([place - 0.2, place + 0.2], [0, 0], linewidth=5)
    axes.plot([place, place + sin], [0, cos], linewidth=2)
    axes.set_title(f"{0.08 * time:.1f} s", fontsize=8)
for axes in frames.flat:
    axes.set(xlim=(-2, 2), ylim=(-1.2, 1.2), aspect="equal", xticks=[], yticks=[])
figure.tight_layout()
lowest = min(cos for _, cos, *_ in seen[-25:])
print(f"return of the first 75 of 125 steps: {total:.0f}")
print(f"least cosine in the last 25 of them: {lowest:.2f}")
