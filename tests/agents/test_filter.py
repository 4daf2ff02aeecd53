"""One filter for all agents; it asks a model for what it uses and no more."""

import pytest
import torch
from torch import Tensor, nn
from toy import BOX, GreedyPlanner, LinearModel

from diffplan.agents import AgentState, Filter, PlanningAgent
from diffplan.errors import ArgumentError, ShapeError
from diffplan.functional._random import standard_normal
from diffplan.objectives import GoalDistance

GOAL = GoalDistance(torch.zeros(1))


class Seeing:
    """Steps and encodes; it is no module and knows nothing else."""

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        return state + 0.1 * action

    def encode(self, observation: Tensor) -> Tensor:
        return 2 * observation


class Remembering(Seeing):
    """Steps and observes; knows nothing else."""

    encode = None

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> Tensor:
        return torch.ones(*batch_shape, 1)

    def observe(
        self, state: Tensor, action: Tensor, observation: Tensor, noise: Tensor | None
    ) -> Tensor:
        assert noise is None
        return 0.5 * self.step(state, action) + 0.5 * observation


class Square(Seeing):
    """Its latent is a matrix, or was flattened."""

    def __init__(self, flat: bool = False) -> None:
        self.flat = flat

    def encode(self, observation: Tensor) -> Tensor:
        latent = observation[..., None].expand(*observation.shape, 3)
        return latent.flatten(1) if self.flat else latent


def memory_of(belief: Filter, batch: int) -> AgentState:
    return AgentState.start(belief.start(batch), 1, seed=0)


def test_beliefs_are_what_the_model_observes() -> None:
    model = LinearModel()
    belief = Filter(model)
    memory, seen = memory_of(belief, 3), torch.rand(3, 1)
    expected = model.observe(memory.state, memory.action, seen)
    assert torch.equal(belief(seen, memory, memory.noise_keys()), expected)


def test_a_sample_is_drawn_from_the_keys() -> None:
    model = LinearModel()
    belief = Filter(model, "sample")
    memory, seen = memory_of(belief, 3), torch.rand(3, 1)
    noise = standard_normal(memory.noise_keys(), (1,), memory.state)
    expected = model.observe(memory.state, memory.action, seen, noise)
    assert torch.equal(belief(seen, memory, memory.noise_keys()), expected)


def test_an_agent_acts_with_a_model_that_steps_and_encodes() -> None:
    agent = PlanningAgent(Seeing(), GreedyPlanner(), GOAL, BOX)
    memory = agent.initial_state(2)
    assert memory.state.shape == (2, 0)
    for seen in torch.rand(3, 2, 1):
        action, memory = agent.act(seen, memory)
        assert torch.equal(memory.state, 2 * seen)
        assert action.shape == (2, 1)
    again = agent.reset(memory, torch.tensor([True, False]))
    assert again.age.tolist() == [-1, 1]
    assert again.action[0] == 0
    agent.act(seen, again)


def test_an_agent_acts_with_a_model_that_steps_and_observes() -> None:
    agent = PlanningAgent(Remembering(), GreedyPlanner(), GOAL, BOX)
    memory = agent.initial_state(2)
    _, memory = agent.act(torch.zeros(2, 1), memory)
    assert memory.state.tolist() == [[0.5], [0.5]]
    again = agent.reset(memory, torch.tensor([False, True]))
    assert again.state.tolist() == [[0.5], [1.0]]


def test_the_memory_lives_where_the_model_does() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1, dtype=torch.float64)

        def encode(self, observation: Tensor) -> Tensor:
            return self.layer(observation)

    assert Filter(Encoder()).start(2).dtype == torch.float64


def test_a_latent_with_more_dimensions_is_to_be_flattened() -> None:
    seen = torch.rand(2, 3)
    belief = Filter(Square())
    memory = memory_of(belief, 2)
    with pytest.raises(ShapeError, match=r"model.encode: .*\[2, 3, 3\]: flatten the"):
        belief(seen, memory, memory.noise_keys())
    flat = Filter(Square(flat=True))
    assert flat(seen, memory, memory.noise_keys()).shape == (2, 9)

    class Grid(LinearModel):
        def initial_state(self, batch_shape: tuple[int, ...] = ()) -> Tensor:
            return torch.zeros(*batch_shape, 4, 4)

    with pytest.raises(ShapeError, match=r"model.initial_state: .*flatten the latent"):
        Filter(Grid()).start(2)


def test_a_model_that_lacks_what_is_used_is_refused_by_name() -> None:
    class Stepping:
        def step(self, state: Tensor, action: Tensor) -> Tensor:
            return state

    with pytest.raises(TypeError, match="observe and initial_state, or encode"):
        Filter(Stepping())
    with pytest.raises(ArgumentError, match="'sample' needs a model with state_size"):
        Filter(Seeing(), "sample")
    # The suite's type checker may speak first.
    with pytest.raises(TypeError, match="model"):
        PlanningAgent(nn.Linear(1, 1), GreedyPlanner(), GOAL, BOX)
