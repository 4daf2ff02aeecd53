"""The RSSM as a dynamics and a filter: shapes, Jacobians, borders, files."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev, vmap

from diffplan.capabilities import knows
from diffplan.errors import (
    ArgumentError,
    NonFiniteError,
    ShapeError,
    TensorTypeError,
    UnknownNameError,
)
from diffplan.models import RSSM
from diffplan.problem import Linearizable, Predictable

BELIEFS = pytest.mark.parametrize("belief_size", [6, 0], ids=["belief", "no_belief"])


def tiny(belief_size: int = 6, dtype: torch.dtype = torch.float32) -> RSSM:
    """Make a model of 5-vectors and 2 actions, state 4 + `belief_size`."""
    return RSSM(
        (5,),
        2,
        belief_size=belief_size,
        state_size=4,
        embedding_size=8,
        hidden_size=7,
        reward_hidden=9,
        vector_hidden=10,
    ).to(dtype)


def pair(
    model: RSSM, *batch: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw random states and actions."""
    state = torch.randn(*batch, model.state_dim, dtype=dtype)
    return state, torch.randn(*batch, model.action_dim, dtype=dtype)


def test_latco_size() -> None:
    model = RSSM((3, 64, 64), 4)
    assert sum(p.numel() for p in model.parameters()) == 5_296_420
    assert model.state_dim == 230


def test_other_steps_are_other_dynamics() -> None:
    class Slow(RSSM):
        def step(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
            return state + 0.2 * (super().step(state, action) - state)

    slow, kinds = tiny(), (Linearizable, Predictable)
    assert [knows(slow, kind) for kind in kinds] == [True, True]
    slow.__class__ = Slow
    assert [knows(slow, kind) for kind in kinds] == [False, False]


def test_step_without_belief_is_latcos_network() -> None:
    """Two hidden layers, ELU and sigmoid, then linear; the first half is the mean."""
    model = tiny(belief_size=0)
    state, action = pair(model, 3)
    first, second, last = model.transition.prior_head.layers
    hidden = torch.nn.functional.elu(first(torch.cat([state, action], dim=-1)))
    expected = last(torch.sigmoid(second(hidden)))[:, :4]
    torch.testing.assert_close(model.step(state, action), expected)


@BELIEFS
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_shapes(belief_size: int, batch: tuple[int, ...]) -> None:
    model = tiny(belief_size)
    size = 4 + belief_size
    state, action = pair(model, *batch)
    noise, observation = torch.randn(*batch, 4), torch.randn(*batch, 5)
    assert model.initial_state(batch).shape == (*batch, size)
    assert model.step(state, action).shape == (*batch, size)
    assert torch.equal(model(state, action), model.step(state, action))
    assert model.sample_step(state, action, noise).shape == (*batch, size)
    assert model.observe(state, action, observation).shape == (*batch, size)
    assert model.observe(state, action, observation, noise).shape == (*batch, size)
    assert model.predict(state, action).scale.shape == (*batch, size)
    assert model.reward(state).shape == batch
    assert model.decode(state).shape == (*batch, 5)
    assert model.encode_observation(observation).shape == (*batch, 8)
    shapes = [tuple(t.shape) for t in model.linearize(state, action)]
    assert shapes == [(*batch, size), (*batch, size, size), (*batch, size, 2)]


@BELIEFS
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)]
)
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_linearize_equals_autodiff(
    belief_size: int, batch: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    model = tiny(belief_size, dtype)
    state, action = pair(model, *batch, dtype=dtype)
    jacobian = jacrev(model.step, argnums=(0, 1))
    for _ in batch:
        jacobian = vmap(jacobian)
    by_state, by_action = jacobian(state, action)
    following, own_by_state, own_by_action = model.linearize(state, action)
    close = {"rtol": 0, "atol": tolerance}
    torch.testing.assert_close(following, model.step(state, action), **close)
    torch.testing.assert_close(own_by_state, by_state, **close)
    torch.testing.assert_close(own_by_action, by_action, **close)


def test_linearize_at_the_papers_size() -> None:
    model = RSSM((18,), 4)
    state, action = pair(model, 2)
    by_state, by_action = vmap(jacrev(model.step, argnums=(0, 1)))(state, action)
    _, own_by_state, own_by_action = model.linearize(state, action)
    torch.testing.assert_close(own_by_state, by_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(own_by_action, by_action, rtol=0, atol=1e-5)


@BELIEFS
def test_gradients_through_step_and_linearize(belief_size: int) -> None:
    model = tiny(belief_size, torch.float64)
    inputs = pair(model, 2, dtype=torch.float64)
    inputs = tuple(value.requires_grad_() for value in inputs)
    assert torch.autograd.gradcheck(model.step, inputs)
    assert torch.autograd.gradcheck(model.linearize, inputs)
    assert torch.autograd.gradgradcheck(model.step, inputs)


@BELIEFS
def test_gradients_of_the_jacobian_by_the_weights(belief_size: int) -> None:
    model = tiny(belief_size, torch.float64)
    state, action = pair(model, 2, dtype=torch.float64)
    names = [n for n, _ in model.named_parameters() if n.startswith("transition")]
    names = [n for n in names if "posterior" not in n]
    weights = tuple(model.get_parameter(name) for name in names)

    def jacobian(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weights = dict(zip(names, values, strict=True))
        module = Linearized(model)
        prefixed = {f"model.{name}": value for name, value in weights.items()}
        return functional_call(module, prefixed, (state, action))

    # fast_mode: a random projection, since there are hundreds of weights.
    assert torch.autograd.gradcheck(jacobian, weights, fast_mode=True)


class Linearized(torch.nn.Module):
    """Makes `linearize` the forward pass, for `functional_call`."""

    def __init__(self, model: RSSM) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, state: torch.Tensor, action: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.model.linearize(state, action)


@BELIEFS
def test_vmap_equals_batching(belief_size: int) -> None:
    model = tiny(belief_size)
    state, action = pair(model, 6)
    observation = torch.randn(6, 5)
    torch.testing.assert_close(
        vmap(model.step)(state, action), model.step(state, action)
    )
    torch.testing.assert_close(
        vmap(model.linearize)(state, action), model.linearize(state, action)
    )
    filtered = vmap(lambda s, a, o: model.observe(s, a, o, validate=False))(
        state, action, observation
    )
    torch.testing.assert_close(filtered, model.observe(state, action, observation))


# Torch itself scripts functions when forward mode is first used.
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@BELIEFS
def test_forward_mode_passes_through_linearize(belief_size: int) -> None:
    model = tiny(belief_size, torch.float64)
    state, action = pair(model, dtype=torch.float64)
    forward = torch.func.jacfwd(lambda s: model.linearize(s, action)[1])(state)
    reverse = jacrev(lambda s: model.linearize(s, action)[1])(state)
    torch.testing.assert_close(forward, reverse)


@BELIEFS
def test_neighbours_do_not_matter(belief_size: int) -> None:
    model = tiny(belief_size, torch.float64)
    state, action = pair(model, 3, dtype=torch.float64)
    before = model.step(state, action)[0]
    state[1:] = torch.nan
    torch.testing.assert_close(model.step(state, action)[0], before)
    torch.testing.assert_close(model.linearize(state, action)[0][0], before)


@BELIEFS
def test_samples_have_the_predicted_distribution(
    belief_size: int, generator: torch.Generator
) -> None:
    model = tiny(belief_size, torch.float64)
    state, action = pair(model, dtype=torch.float64)
    number = 40_000
    noise = torch.randn(number, 4, generator=generator, dtype=torch.float64)
    samples = model.sample_step(
        state.expand(number, -1), action.expand(number, -1), noise
    )
    predicted = model.predict(state, action)
    torch.testing.assert_close(predicted.mean, model.step(state, action))
    # Five standard errors of mean and of standard deviation.
    error = 5 * predicted.scale / number**0.5
    assert ((samples.mean(0) - predicted.mean).abs() <= error).all()
    stochastic = slice(0, 4)
    deviation = (samples.std(0) - predicted.scale).abs()
    assert (deviation <= error)[stochastic].all()
    assert (predicted.scale[stochastic] > 0.1).all()
    assert (predicted.scale[4:] == RSSM.BELIEF_STD).all()
    assert (samples.std(0)[4:] < 1e-12).all()


@BELIEFS
def test_observe_looks_at_the_observation(belief_size: int) -> None:
    model = tiny(belief_size)
    state, action = pair(model, 3)
    seen = [model.observe(state, action, torch.randn(3, 5)) for _ in range(2)]
    assert ((seen[0] - seen[1])[:, :4].abs() > 1e-4).any(dim=-1).all()
    # The belief is a function of the past alone.
    torch.testing.assert_close(seen[0][:, 4:], model.step(state, action)[:, 4:])


@BELIEFS
def test_observe_noise_is_reparameterised(belief_size: int) -> None:
    model = tiny(belief_size, torch.float64)
    state, action = pair(model, 3, dtype=torch.float64)
    observation = torch.randn(3, 5, dtype=torch.float64)
    noise = torch.randn(3, 4, dtype=torch.float64)
    mean = model.observe(state, action, observation)
    unit = model.observe(state, action, observation, torch.ones_like(noise))
    std = (unit - mean)[:, :4]
    drawn = model.observe(state, action, observation, noise)
    torch.testing.assert_close(drawn[:, :4], mean[:, :4] + std * noise)
    assert (std > 0.1).all()


def test_normaliser_hides_the_units() -> None:
    torch.manual_seed(1)
    model, other = tiny(dtype=torch.float64), tiny(dtype=torch.float64)
    other.load_state_dict(model.state_dict())
    data = torch.randn(50, 5, dtype=torch.float64)
    scale = torch.tensor([1.0, 10.0, 100.0, 1000.0, 5.0], dtype=torch.float64)
    shift = torch.tensor([0.0, 3.0, -50.0, 9.0, 1.0], dtype=torch.float64)
    model.fit_normalizer(data)
    other.fit_normalizer((data * scale + shift).reshape(5, 10, 5))
    state, action = pair(model, dtype=torch.float64)
    torch.testing.assert_close(
        other.observe(state, action, data[0] * scale + shift),
        model.observe(state, action, data[0]),
    )
    torch.testing.assert_close(other.decode(state), model.decode(state) * scale + shift)


def test_normaliser_does_not_blow_up_constant_components() -> None:
    model = tiny()
    data = torch.randn(50, 5)
    data[:, 2] = 7.0 + 1e-6 * torch.randn(50)
    model.fit_normalizer(data)
    scaled = model.observations.scale(data)
    assert (scaled[:, 2].abs() < 1e-4).all()
    assert scaled[:, 0].std(correction=0).item() == pytest.approx(1, abs=1e-5)


@pytest.fixture(scope="module")
def image_model() -> RSSM:
    """Make an image model of the smallest depth."""
    return RSSM(
        (3, 64, 64),
        2,
        belief_size=6,
        state_size=4,
        hidden_size=7,
        embedding_size=32,
        image_depth=1,
    )


def test_images(image_model: RSSM) -> None:
    state, action = pair(image_model, 2, 3)
    image = torch.randint(256, (2, 3, 3, 64, 64), dtype=torch.uint8)
    posterior = image_model.observe(state, action, image)
    as_float = image_model.observe(state, action, image.float() / 255)
    torch.testing.assert_close(posterior, as_float)
    decoded = image_model.decode(posterior)
    assert decoded.shape == image.shape
    scaled = image_model.observations.scale(image)
    assert scaled.min() >= -0.5
    assert scaled.max() <= 0.5
    torch.testing.assert_close(
        image_model.observations.unscale(scaled), image.float() / 255
    )


def test_images_have_gradients(image_model: RSSM) -> None:
    """What collocation of images needs."""
    state, action = pair(image_model)
    image = torch.rand(3, 64, 64, requires_grad=True)
    image_model.observe(state, action, image).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


def test_borders_name_the_argument(image_model: RSSM) -> None:
    model = tiny()
    state, action = pair(model, 3)
    with pytest.raises(ShapeError, match=r"action: expected \[…, 2\], got \[3, 3\]"):
        model.step(state, torch.zeros(3, 3))
    with pytest.raises(ShapeError, match=r"state: expected \[…, 10\]"):
        model.linearize(state[:, :9], action)
    with pytest.raises(ShapeError, match="leading dimensions"):
        model.step(state, action[:1])
    with pytest.raises(ShapeError, match="noise"):
        model.sample_step(state, action, torch.zeros(3, 5))
    with pytest.raises(ShapeError, match="noise"):
        model.observe(state, action, torch.zeros(3, 5), torch.zeros(3, 3))
    with pytest.raises(ShapeError, match="observation"):
        model.observe(state, action, torch.zeros(3, 6))
    with pytest.raises(TensorTypeError, match=r"observation.*uint8"):
        model.observe(state, action, torch.zeros(3, 5, dtype=torch.uint8))
    with pytest.raises(ShapeError, match=r"observation.*3, 64, 64"):
        image_model.observe(*pair(image_model), torch.zeros(64, 64, 3))
    # The suite's checks of annotations come first where they are on.
    with pytest.raises(TypeError, match="observation"):
        model.observe(state, action, torch.zeros(3, 5).numpy())
    with pytest.raises(TypeError, match="action"):
        model.step(state, action.numpy())
    with pytest.raises(TensorTypeError, match=r"observation.*int64"):
        image_model.observe(
            *pair(image_model), torch.zeros(3, 64, 64, dtype=torch.int64)
        )
    with pytest.raises(ArgumentError, match="fit_normalizer"):
        image_model.fit_normalizer(torch.zeros(4, 3, 64, 64))


@pytest.mark.parametrize("shape", [(5,), (3, 64, 64)])
@pytest.mark.parametrize(
    ("batch", "given"), [((3,), (1,)), ((3,), ()), ((2, 3), (3,)), ((), (1,))]
)
def test_nothing_is_broadcast_over_a_batch(
    shape: tuple[int, ...],
    batch: tuple[int, ...],
    given: tuple[int, ...],
    image_model: RSSM,
) -> None:
    """One observation is not the observation of three environments."""
    model = tiny() if shape == (5,) else image_model
    state, action = pair(model, *batch)
    right = {
        "action": action,
        "observation": torch.zeros(*batch, *shape),
        "noise": torch.zeros(*batch, model.state_size),
    }
    model.observe(state, **right)
    for name, value in right.items():
        wrong = torch.zeros(*given, *value.shape[len(batch) :])
        with pytest.raises(ShapeError, match=f"{name}: expected .* leading dimensions"):
            model.observe(state, **{**right, name: wrong})
    with pytest.raises(ShapeError, match=r"noise: expected .* leading dimensions"):
        model.sample_step(state, action, torch.zeros(*given, model.state_size))


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5)])
def test_a_normaliser_needs_a_row(shape: tuple[int, ...]) -> None:
    model = tiny()
    with pytest.raises(ShapeError, match="observations: expected at least one row"):
        model.fit_normalizer(torch.zeros(shape))
    assert model.observations.mean.isfinite().all()
    # One row tells where the data are, and nothing of how far they reach.
    model.fit_normalizer(torch.full((5,), 3.0))
    assert (model.observations.scale(torch.full((5,), 4.0)) == 1).all()


def test_readouts_name_what_is_no_state(image_model: RSSM) -> None:
    for model in (tiny(), image_model):
        for readout in (model.reward, model.decode):
            with pytest.raises(ShapeError, match=r"state: expected \[…, 10\]"):
                readout(torch.zeros(3, 9))
        with pytest.raises(ShapeError, match="observation: expected"):
            model.encode_observation(torch.zeros(3, 4))


def test_a_bad_observation_is_found_where_it_enters() -> None:
    model = tiny()
    state, action = pair(model, 3)
    observation = torch.zeros(3, 5)
    observation[1, 2] = torch.nan
    with pytest.raises(NonFiniteError, match="observation: expected finite"):
        model.observe(state, action, observation)
    after = model.observe(state, action, observation, validate=False)
    assert after.isfinite().all(dim=-1).tolist() == [True, False, True]
    with pytest.raises(NonFiniteError, match="observation"):
        model.fit_normalizer(observation)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("free_nats_on", "batch"),
        ("initialization", "zeros"),
        ("belief_size", -1),
        ("state_size", 0),
        ("min_std", 0.0),
    ],
)
def test_construction_names_the_argument(argument: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=argument):
        RSSM((5,), 2, **{argument: value})


def test_construction_refuses_other_observations() -> None:
    with pytest.raises(ArgumentError, match="observation_shape"):
        RSSM((3, 32, 32), 2)
    with pytest.raises(UnknownNameError, match="activation"):
        RSSM((5,), 2, activation="gelu")


def test_glorot_initialisation() -> None:
    model = RSSM((18,), 4)
    recurrent = model.transition.cell.weight_hh
    torch.testing.assert_close(
        recurrent.T @ recurrent, torch.eye(200), rtol=0, atol=1e-5
    )
    head = model.transition.posterior_head
    bound = (6 / (200 + 1024 + 200)) ** 0.5
    for weight in (head.from_feature.weight, head.from_observation.weight):
        assert 0.98 * bound < weight.abs().max().item() <= bound
    for name, parameter in model.named_parameters():
        if "bias" in name:
            assert (parameter == 0).all(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_save_and_load(tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny(dtype=dtype)
    model.fit_normalizer(5 + torch.randn(20, 5, dtype=dtype))
    path = tmp_path / "model.pt"
    model.save(path)
    again = RSSM.load(path)
    state, action = pair(model, dtype=dtype)
    observation = torch.randn(5, dtype=dtype)
    seen = model.observe(state, action, observation)
    assert torch.equal(again.observe(state, action, observation), seen)
    assert torch.equal(again.decode(seen), model.decode(seen))
    assert again.config == model.config


def test_sizes_of_numpy_are_saved_as_plain_numbers(tmp_path: Path) -> None:
    size, weight = np.int64(8), np.float32(0.5)
    model = RSSM(
        (np.int64(3),), np.int64(2), hidden_size=size, image_bits=size, kl_scale=weight
    )
    model.save(tmp_path / "model")
    again = RSSM.load(tmp_path / "model")
    assert again.config == model.config
    kinds = {type(value) for value in model.config.values()}
    assert kinds == {tuple, int, float, str}


def test_load_refuses_other_files(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ArgumentError, match="path"):
        RSSM.load(tmp_path / "other.pt")


def test_a_pickled_model_still_plans() -> None:
    model = tiny()
    again = pickle.loads(pickle.dumps(model))
    state, action = pair(model)
    assert torch.equal(again.step(state, action), model.step(state, action))


def test_capabilities_are_found() -> None:
    model = tiny()
    assert isinstance(model, Linearizable)
    assert isinstance(model, Predictable)
