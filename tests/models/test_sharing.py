"""A model that is shared is the model, and its file is what the world calls so."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import diffplan as dp
from diffplan.errors import ArgumentError, FileError
from diffplan.models import available, card, load, save

CARD = {"task": "reach “it”", "measured": {"return": 0.5}, "seeds": [0, 1]}


class Doubled(nn.Module):
    """A model of somebody else's."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.config = {"size": size}
        self.register_buffer("gain", torch.full((size,), 2.0, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("nothing", torch.zeros(0, 3))
        self.half = nn.Linear(size, 3).to(torch.bfloat16)


def models() -> dict[str, nn.Module]:
    box = dp.Box([-1.0, 0.0], [1.0, 2.0])
    sizes = {"belief_size": 4, "hidden_size": 8, "embedding_size": 6}
    return {
        "RSSM": dp.models.RSSM((5,), 2, **sizes),
        "images": dp.models.RSSM((3, 64, 64), 2, image_depth=1, image_bits=5, **sizes),
        "Actor": dp.models.Actor(6, box, hidden_size=8, layers=1, mode="densest"),
        "Critic": dp.models.Critic(6, hidden_size=8, activation="relu"),
        "Doubled": Doubled(4),
    }


@pytest.mark.parametrize("name", models())
def test_what_is_loaded_is_what_was_saved(name: str, tmp_path: Path) -> None:
    model = models()[name]
    save(model, path := tmp_path / "folder" / "m.safetensors", card=CARD)
    again = load(path, kinds={"Doubled": Doubled})
    assert type(again) is type(model)
    assert again.config == model.config
    assert not any(part.training for part in again.modules())
    read, weights = load_file(path), again.state_dict()
    for key, value in model.state_dict().items():
        for found in (read[key], weights[key]):
            assert found.dtype == value.dtype
            assert torch.equal(found, value)
    assert card(path) == {"kind": type(model).__name__, **CARD}
    with safe_open(path, "pt") as file:
        assert file.metadata()["kind"] == type(model).__name__


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    model = Doubled(4)
    more = {"text": '“\x1f\\"\x7f\u2028', **CARD}
    for number in range(8):  # the order of the header's entries is drawn anew in each
        save(model, path := tmp_path / str(number), card=more)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert card(path) == {"kind": "Doubled", **more}


def test_a_loaded_actor_acts_as_before(tmp_path: Path) -> None:
    actor, state = models()["Actor"], torch.randn(7, 6)
    save(actor, tmp_path / "actor.safetensors")
    assert torch.equal(load(tmp_path / "actor.safetensors")(state), actor(state))


def test_what_cannot_be_saved_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(ArgumentError, match=r"model: .*config.*got Linear"):
        save(nn.Linear(2, 2), path)
    with pytest.raises(ArgumentError, match="card: expected a dictionary of plain"):
        save(models()["Critic"], path, card={"a": torch.zeros(1)})
    with pytest.raises(ArgumentError, match="card"):
        save(models()["Critic"], path, card={"a": float("nan")})
    model = Doubled(2)
    model.register_buffer("wrong", torch.zeros(2).to_sparse())
    with pytest.raises(ArgumentError, match="model: expected weights that"):
        save(model, path)
    assert not path.exists()


def test_what_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="reach-state-0"):
        load("reach")
    with pytest.raises(FileError, match="there is no such file"):
        load(tmp_path / "reach.safetensors")
    save(Doubled(2), path := tmp_path / "mine.safetensors")
    with pytest.raises(FileError, match="it is a Doubled, not a RSSM or Actor"):
        load(path)


@pytest.mark.parametrize("name", available())
def test_a_model_that_comes_along_plans(name: str) -> None:
    model, told = load(name), card(name)
    assert {"task", "data", "commit", "sha256_of_run", "licence"} <= told.keys()
    assert told["uncommitted_changes"] is False
    assert all(weight.isfinite().all() for weight in model.state_dict().values())
    path = Path(dp.models.__file__).parent / "trained" / f"{name}.safetensors"
    assert path.stat().st_size < 1e6
    state = model.observe(
        model.initial_state((2,)),
        torch.zeros(2, model.action_dim),
        torch.zeros(2, *model.observation_shape),
    )
    box = dp.Box([-1.0] * model.action_dim, [1.0] * model.action_dim)
    objective = dp.objectives.NegativeReturn(model.reward)
    problem = dp.PlanningProblem(model, objective, box)
    with torch.no_grad():
        plan = dp.CEM(horizon=6, num_samples=32, iterations=3)(problem, state)
        reward = torch.zeros(2)
        for action in plan.actions.unbind(1):
            state = model.step(state, action)
            reward += model.reward(state)
    torch.testing.assert_close(plan.cost, -reward, rtol=1e-4, atol=1e-4)
