"""The locomotion stage of the DCEM reproduction: controller, phases, report."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import nn

from diffplan._runs.online import build_model
from diffplan.errors import ArgumentError, UnknownNameError
from diffplan.models.base import SequenceBatch
from diffplan.models.rssm import RSSM
from diffplan.objectives.reward import NegativeReturn
from diffplan.planners import CEM, DCEM
from diffplan.planners.request import PlanRequest
from diffplan.problem import Box, PlanningProblem
from diffplan.training import PPO, Experience, PPOConfig
from reproductions.dcem import locomotion, paper_numbers
from reproductions.dcem.locomotion_config import (
    MODEL,
    PARTS,
    TASKS,
    EmbeddingSettings,
    LocomotionConfig,
    PolicySettings,
)
from reproductions.dcem.locomotion_controller import (
    ControllerAgent,
    Decision,
    DecoderTraining,
    EmbeddedController,
    SequenceDecoder,
)
from reproductions.dcem.locomotion_evaluation import counted
from reproductions.dcem.locomotion_policy import (
    ControllerPolicy,
    PolicyTraining,
)
from reproductions.dcem.locomotion_world import new_controller
from reproductions.dcem.paper import PAPER

SMOKE = PAPER.settings("smoke").locomotion
BOX = Box([-1.0] * 2, [1.0] * 2)
TINY = EmbeddingSettings(
    horizon=4, latent=3, hidden=6, num_samples=8, num_elites=2, iterations=2, states=3
)


def controller(
    settings: EmbeddingSettings = TINY, dtype: torch.dtype = torch.float32
) -> EmbeddedController:
    small = SMOKE.model.replaced(state_size=3, belief_size=5)
    model = build_model(small, (4,), 2, seed=0)
    made = new_controller(model, settings, BOX, seed=0)
    return made.to(dtype)


def beliefs(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, 8, generator=generator, dtype=dtype)


def copy_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


# The paper's settings


def test_the_planners_are_the_papers() -> None:
    paper = PAPER.settings("paper").locomotion
    full, search = paper.search.build(), paper.embedding.search()
    assert isinstance(full, CEM)
    assert (full.horizon, full.iterations) == (12, 10)
    assert (full.num_samples, full.num_elites) == (1000, 100)
    assert isinstance(search, DCEM)
    assert (paper.embedding.horizon, search.iterations) == (12, 10)
    assert (search.num_samples, search.num_elites, search.temperature) == (100, 10, 1)


def test_the_training_is_the_papers() -> None:
    paper = PAPER.settings("paper").locomotion
    for training in (paper.initial, paper.embedded):
        assert (training.batch_size, training.sequence_length) == (50, 50)
        assert training.interleave
    assert paper.initial.seed_episodes == 5
    assert (paper.cheetah.action_repeat, paper.walker.action_repeat) == (4, 2)
    assert paper.test_episodes == 100
    assert paper.world.scale_episodes == 0
    for task in TASKS:
        lengths = paper.lengths(task)
        played = 1000 * (paper.initial.seed_episodes + lengths.initial_rounds)
        assert played == paper_numbers.locomotion_steps(task, "initial")
        played = 1000 * paper.policy.episodes * lengths.policy_steps
        assert played == paper_numbers.locomotion_steps(task, "policy")
    policy = paper.policy
    assert (policy.episodes, policy.tuned) == (10, ("decoder", "reward"))
    assert policy.std**2 == pytest.approx(0.1)  # "a fixed variance of 0.1"
    assert PAPER.settings("cpu").locomotion.policy.std == 0.1  # as published
    ppo = policy.ppo
    assert ppo.passes in (1, 2, 4)
    assert ppo.learning_rate in (1e-4, 1e-5)
    assert (ppo.clip, ppo.gae_lambda, ppo.discount) == (0.2, 0.95, 0.99)
    assert (ppo.gradient_clip, ppo.epsilon) == (0.5, 1e-5)


def test_the_model_has_the_papers_layers() -> None:
    model = build_model(MODEL, (17,), 6, seed=0)
    assert model.belief_size == 200
    assert [layer.in_features for layer in model.reward_head.layers] == [230, 200, 200]
    prior = model.transition.prior_head.layers
    assert [layer.out_features for layer in prior] == [200, 60]


@pytest.mark.parametrize("preset", ["paper", "cpu"])
def test_the_controller_needs_at_most_a_tenth_of_the_transitions(preset: str) -> None:
    """Counted for one decision with the preset's planners, on a small model."""
    config = PAPER.settings(preset).locomotion
    model = RSSM((4,), 2, belief_size=3, state_size=2, hidden_size=3, reward_hidden=3)
    belief = torch.zeros(2, model.state_dim)
    plain = PlanningProblem(model.step, NegativeReturn(model.reward), BOX)
    problem, watch = counted(plain)
    config.search.build()(problem, belief)
    _, full = watch.collect()
    made = new_controller(model, replace(config.embedding, hidden=4), BOX, seed=0)
    made.problem = problem
    made.plan(belief, made.draw_noise(belief, torch.arange(2)))
    search, embedding = config.search, config.embedding
    candidates = search.num_samples * search.iterations
    # CEM also rolls its answer out, and tries a step with and without candidates.
    trial = full - 2 * (candidates + 1) * search.horizon
    assert 0 <= trial <= 2 * (1 + 20)
    candidates = embedding.num_samples * embedding.iterations
    assert watch.calls == 2 * candidates * embedding.horizon
    assert watch.calls <= full / 10


def test_wrong_settings() -> None:
    with pytest.raises(UnknownNameError, match="did you mean reward"):
        PolicySettings(tuned=("rewards",))
    with pytest.raises(ArgumentError, match="tuned: expected some of"):
        PolicySettings(tuned=())
    with pytest.raises(UnknownNameError, match="did you mean walker-walk"):
        LocomotionConfig(tasks=("walker-wlk",))


# The controller


def test_a_decoder_makes_sequences_of_allowed_actions() -> None:
    decoders = [
        SequenceDecoder(3, 16, 5, 2, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    latent = 2 * torch.rand(7, 4, 3, generator=torch.Generator().manual_seed(0)) - 1
    actions = [decoder(latent) for decoder in decoders]
    assert actions[0].shape == (7, 4, 5, 2)
    assert (actions[0].abs() <= 1).all()
    assert torch.equal(actions[0], actions[1])
    assert not torch.equal(actions[0], actions[2])
    assert actions[0].flatten(0, 1).std(dim=0).min() > 0.05


def test_the_controller_plans_as_the_planner_does() -> None:
    made, belief = controller(), beliefs(6)
    noise = made.draw_noise(belief, torch.arange(len(belief)))
    plan = made.planner.plan_for(PlanRequest(made.problem, belief, noise))
    torch.testing.assert_close(made.plan(belief, noise), plan.actions)
    torch.testing.assert_close(made.cost(belief, noise), plan.cost)
    assert belief.shape[0] == noise.shape[0]
    alone = made.plan(belief[2:3], noise[2:3])
    torch.testing.assert_close(made.plan(belief, noise)[2:3], alone)


def test_the_gradient_goes_through_the_search() -> None:
    """Of the predicted return, to the decoder, against central differences."""
    made = controller(dtype=torch.float64)
    belief = beliefs(2, torch.float64)
    noise = made.draw_noise(belief, torch.arange(len(belief)))
    learnt = list(made.decoder.parameters())
    gradients = torch.autograd.grad(made.cost(belief, noise).sum(), learnt)
    generator = torch.Generator().manual_seed(2)
    directions = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in learnt
    ]
    slope = sum(
        float((g * d).sum()) for g, d in zip(gradients, directions, strict=True)
    )
    step, costs = 1e-6, []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, direction in zip(learnt, directions, strict=True):
                parameter += sign * step * direction
            costs.append(float(made.cost(belief, noise).sum()))
    assert slope == pytest.approx((costs[0] - costs[1]) / (2 * step), rel=1e-5)
    assert abs(slope) > 1e-4
    # Not what one gets with the point that was found held fixed.
    plan = made.planner(made.problem, belief, noise=noise, evaluate=False)
    found = plan.diagnostics["latent"].detach()
    held = made.problem.cost(belief, made.planner.decode(made.problem, found)).sum()
    fixed = torch.autograd.grad(held, learnt)
    other = sum(float((g * d).sum()) for g, d in zip(fixed, directions, strict=True))
    assert other != pytest.approx(slope, rel=1e-3)


def test_decoder_updates_touch_the_decoder_alone() -> None:
    made = controller()
    model, decoder = copy_of(made.model), copy_of(made.decoder)
    generator = torch.Generator().manual_seed(0)
    batch = SequenceBatch(
        torch.randn(4, 6, 4, generator=generator),
        torch.randn(4, 5, 2, generator=generator),
        torch.randn(4, 5, generator=generator),
    )
    training = DecoderTraining(made, TINY, seed=0)
    training.update(batch)
    for name, value in made.model.named_parameters():
        assert torch.equal(value, model[name]), name
        assert value.grad is None
        assert value.requires_grad
    for name, value in made.decoder.named_parameters():
        assert not torch.equal(value, decoder[name]), name


def test_decoder_updates_lower_the_predicted_cost() -> None:
    made, belief = controller(), beliefs(32)
    noise = made.draw_noise(belief, torch.arange(len(belief)))
    training = DecoderTraining(made, replace(TINY, learning_rate=1e-2), seed=0)
    training._states = lambda batch: belief  # type: ignore[method-assign]
    before = float(made.cost(belief, noise).mean().detach())
    empty = SequenceBatch(torch.zeros(1, 2, 4), torch.zeros(1, 1, 2), torch.zeros(1, 1))
    for _ in range(20):
        training.update(empty)
    assert float(made.cost(belief, noise).mean().detach()) < before - 0.01


# Phase 3


def experience(policy: ControllerPolicy) -> Experience:
    belief = beliefs(12)
    generator = torch.Generator().manual_seed(3)
    noise = policy.controller.draw_noise(belief, torch.arange(12))
    with torch.no_grad():
        distribution, values = policy(belief, noise)
    white = torch.randn(12, 2, generator=generator)
    actions = distribution.mean + distribution.stddev * white
    log_probs = distribution.log_prob(actions)
    advantages = torch.randn(12, generator=generator)
    return Experience((belief, noise), actions, log_probs, values, advantages)


@pytest.mark.parametrize(
    "tuned", [each for n in (1, 2, 3) for each in combinations(PARTS, n)]
)
@pytest.mark.parametrize("learn_std", [False, True])
def test_ppo_changes_the_parts_that_it_may(
    tuned: tuple[str, ...], learn_std: bool
) -> None:
    settings = PolicySettings(
        tuned=tuned, learn_std=learn_std, ppo=PPOConfig(passes=1, minibatches=2)
    )
    made = controller()
    policy = ControllerPolicy(made, settings, seed=0)
    before = copy_of(policy)
    training = PolicyTraining(policy, None, None, settings, 1, 0)  # type: ignore[arg-type]
    training.ppo.update(experience(policy), torch.Generator().manual_seed(0))
    may = {id(p) for name in tuned for p in made.part(name)}
    may |= {id(p) for p in policy.critic.parameters()}
    if learn_std:
        may.add(id(policy.log_std))
    parts = {name: {id(p) for p in made.part(name)} for name in PARTS}
    assert not parts["reward"] & parts["transition"]
    for name, value in policy.named_parameters():
        same = torch.equal(value, before[name])
        assert same == (id(value) not in may), name


def test_what_is_frozen_is_all_but_the_parts() -> None:
    """Encoder, observation decoder and posterior belong to no part."""
    made = controller()
    known = {id(p) for name in PARTS for p in made.part(name)}
    rest = {name for name, p in made.named_parameters() if id(p) not in known}
    assert rest
    for name in rest:
        assert name.startswith(("model.observations.", "model.transition.posterior"))


def test_the_deviation_is_what_was_asked_for() -> None:
    policy = ControllerPolicy(controller(), PolicySettings(std=0.1), seed=0)
    distribution, values = policy(*experience(policy).inputs)
    torch.testing.assert_close(distribution.stddev, torch.full((12, 2), 0.1))
    assert values.shape == (12,)


@pytest.mark.parametrize(("latent", "spread"), [(8, 0.5), (2, 0.25)])
def test_the_first_plans_differ_as_those_of_cem_do(latent: int, spread: float) -> None:
    """Unit deviation before tanh, over latent points of the given spread."""
    generator = torch.Generator().manual_seed(0)
    squares = []
    for _ in range(20):
        decoder = SequenceDecoder(latent, 200, 12, 6, generator, spread)
        points = spread * torch.randn(500, latent, generator=generator)
        decoder.layers[-1].register_forward_hook(
            lambda _, __, output: squares.append(output.detach().square().mean())
        )
        decoder(points)
    assert float(torch.stack(squares).mean()) == pytest.approx(1.0, rel=0.15)


def test_episodes_side_by_side_take_the_deviations_of_the_noise_in_turn() -> None:
    settings = replace(TINY, exploration=(0.0, 0.5))
    deviations = settings.deviations(6)
    assert deviations.flatten().tolist() == [0.0, 0.5] * 3
    decisions: list[Decision] = []
    agent = ControllerAgent(controller(), lambda: deviations, record=decisions.append)
    memory = agent.initial_state(6)
    observation = torch.zeros(6, 4)
    for _ in range(50):
        _, memory = agent.act(observation, memory, explore=True)
    noise = torch.stack([each.action - each.mean for each in decisions])
    assert torch.equal(noise[:, ::2], torch.zeros(50, 3, 2))
    assert float(noise[:, 1::2].std()) == pytest.approx(0.5, rel=0.15)
    for wrong in ((), (0.3, -0.1)):
        with pytest.raises(ArgumentError, match="exploration"):
            replace(TINY, exploration=wrong)


def test_units_form_chains() -> None:
    config = replace(SMOKE, tasks=TASKS, models=2)
    units = locomotion.units(config, [3, 5, 7], Path("runs"))
    names = [unit.name for unit in units]
    assert len(set(names)) == 2 * (3 * 6 + 2)  # random, and no action
    assert "locomotion/walker-walk/seed_7/policy_tests" in names
    needs = {unit.name.partition("/")[2]: unit.needs for unit in units}
    assert needs["cheetah-run/seed_3/policy"] == (
        "locomotion/cheetah-run/seed_3/embedded",
    )
    assert needs["cheetah-run/seed_3/initial"] == ()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_everything_runs_on_a_gpu() -> None:
    """Acting, an update of the decoder and one of PPO, all on the device."""
    device = torch.device("cuda")
    small = SMOKE.model.replaced(state_size=3, belief_size=5)
    model = build_model(small, (4,), 2, seed=0)
    box = BOX.to(torch.zeros(1, device=device))
    made = new_controller(model.to(device), TINY, box, seed=0)
    agent = ControllerAgent(made, lambda: 0.1, posterior="sample")
    observation = torch.zeros(6, 4, device=device)
    action, memory = agent.act(observation, agent.initial_state(6), explore=True)
    action, memory = agent.act(observation, memory, explore=True)
    training = DecoderTraining(made, TINY, seed=0)
    batch = SequenceBatch(torch.zeros(4, 6, 4), torch.zeros(4, 5, 2), torch.zeros(4, 5))
    training.update(batch)
    training.load_state_dict(training.state_dict())
    policy = ControllerPolicy(made, PolicySettings(learn_std=True), seed=0)
    noise = made.draw_noise(memory.state, torch.arange(6, device=device))
    with torch.no_grad():
        distribution, values = policy(memory.state, noise)
    log_probs = distribution.log_prob(action)
    data = Experience((memory.state, noise), action, log_probs, values, values)
    ppo = PPO(policy, PPOConfig(passes=1, minibatches=2), policy.groups())
    metrics = ppo.update(data, torch.Generator().manual_seed(0))
    assert metrics["gradient_norm"] > 0
    for value in (action, *made.parameters(), *policy.parameters()):
        assert value.device.type == "cuda"
