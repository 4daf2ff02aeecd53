"""What goes wrong in an environment or its worker is one clear error, and ends all.

The faults are those of real simulators: a copy that dies, hangs, raises or answers in
another shape. No call may be given the answer of an earlier one.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from faulty_envs import Faulty, SimulatorBrokeError

from diffplan.envs.vector import VectorEnv
from diffplan.errors import (
    ArgumentError,
    DiffplanError,
    ShapeError,
    TensorTypeError,
    WorkerError,
)

ACTIONS = np.zeros((2, 1))

WRONG_ANSWERS = [
    ("shape", "reset", ShapeError, r"observation of shape \[3\].* got \[1\]"),
    ("shape", "step", ShapeError, r"observation of shape \[3\].* got \[1\]"),
    ("batch", "step", ShapeError, r"got \[1, 3\]"),
    ("float64", "reset", TensorTypeError, "dtype float32.* got float64"),
    ("float64", "step", TensorTypeError, "dtype float32.* got float64"),
    ("list", "step", TensorTypeError, "dtype float32"),
    ("no info", "step", TensorTypeError, r"terminated, truncated, info\), got 4"),
    ("observation alone", "reset", TensorTypeError, r"\(observation, info\), got nda"),
    ("info is None", "reset", TensorTypeError, "info to be dict, got NoneType"),
    ("info is None", "step", TensorTypeError, "info to be dict, got NoneType"),
    ("reward is an array", "step", TensorTypeError, "reward to be .* got ndarray"),
    ("reward is None", "step", TensorTypeError, "reward to be .* got NoneType"),
    ("terminated is a number", "step", TensorTypeError, "terminated .* got float"),
    ("truncated is an array", "step", TensorTypeError, "truncated .* got ndarray"),
]


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


def run(
    envs: VectorEnv,
    seeds: Sequence[int] = (0, 0),
    actions: np.ndarray = ACTIONS,
    mask: np.ndarray | None = None,
) -> None:
    envs.reset(seeds)
    envs.step(actions, mask)


def assert_closed(envs: VectorEnv) -> None:
    """Nothing can be had from them any more, and closing them again is quiet."""
    with pytest.raises(ArgumentError, match="closed"):
        envs.reset([5, 5])
    with pytest.raises(ArgumentError, match="closed"):
        envs.step(ACTIONS)
    envs.close()
    envs.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("fault", "at", "kind", "words"), WRONG_ANSWERS)
def test_wrong_answers_are_refused(
    fault: str, at: str, kind: type[DiffplanError], words: str
) -> None:
    envs = VectorEnv([Faulty, partial(Faulty, fault, at)])
    with pytest.raises(kind, match=words) as caught:
        run(envs)
    assert caught.value.__notes__ == [f"(environment 1, {at})"]
    assert_closed(envs)


def test_an_exception_in_this_process_stays_what_it_is(tmp_path: Path) -> None:
    log = tmp_path / "log"
    envs = VectorEnv(
        [partial(Faulty, log=str(log)), partial(Faulty, "own error", "step", str(log))]
    )
    with pytest.raises(SimulatorBrokeError, match="gearbox") as caught:
        run(envs)
    assert caught.value.__notes__ == ["(environment 1, step)"]
    assert log.read_text() == "closed\n" * 2
    assert_closed(envs)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_factory_that_raises_is_told_at_construction(
    num_workers: int, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    factories = [partial(Faulty, log=str(log)), partial(Faulty, "value error", "build")]
    kind = WorkerError if num_workers else ValueError
    with pytest.raises(kind, match="the motor is on fire") as caught:
        VectorEnv(factories, num_workers=num_workers)
    if num_workers:
        assert "worker 1 (environment 1): ValueError" in str(caught.value)
        assert "in _raise" in str(caught.value)  # the worker's own traceback
        assert isinstance(caught.value.__cause__, ValueError)
    else:
        assert log.read_text() == "closed\n"


def test_an_exception_in_a_worker_brings_type_message_and_traceback() -> None:
    envs = VectorEnv([Faulty, partial(Faulty, "own error", "reset")], num_workers=1)
    with pytest.raises(WorkerError) as caught:
        envs.reset([0, 0])
    message = str(caught.value)
    first = r"worker 0 (environment 0 to 1): SimulatorBrokeError: gearbox broke with"
    assert message.startswith(first)
    assert "Traceback" in message
    assert "(environment 1, reset)" in message
    assert "faulty_envs.py" in message
    with pytest.raises(ArgumentError, match=r"closed: a failure .*WorkerError"):
        envs.reset([0, 0])
    assert_closed(envs)


def test_our_own_errors_leave_a_worker_as_themselves() -> None:
    envs = VectorEnv([Faulty, partial(Faulty, "shape")], num_workers=1)
    observations, _ = envs.reset([3, 4])
    assert observations.tolist() == [[3.0] * 3, [4.0] * 3]
    with pytest.raises(ShapeError, match=r"got \[1\]") as caught:
        envs.step(ACTIONS)
    assert "Traceback" in str(caught.value.__cause__)
    assert_closed(envs)


def test_an_answer_that_cannot_be_pickled_is_told() -> None:
    envs = VectorEnv([partial(Faulty, "info cannot be pickled")] * 2, num_workers=1)
    with pytest.raises(WorkerError, match="pickle"):
        run(envs)
    assert_closed(envs)


def test_a_worker_that_exits_is_named_with_its_code() -> None:
    envs = VectorEnv([Faulty, partial(Faulty, "exit")], num_workers=1)
    with pytest.raises(WorkerError, match=r"worker 0 \(environment 0 to 1\).*code 3"):
        run(envs)
    assert_closed(envs)


def test_a_worker_killed_from_outside_is_named_with_its_signal() -> None:
    envs = VectorEnv([Faulty] * 2, num_workers=2)
    run(envs)
    victim = multiprocessing.active_children()[0]
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    with pytest.raises(WorkerError, match=r"worker \d .*SIGKILL"):
        envs.step(ACTIONS)
    assert_closed(envs)


def test_a_worker_that_ends_while_it_is_built_says_where_to_look() -> None:
    with pytest.raises(WorkerError, match=r"SIGKILL.*__main__"):
        VectorEnv([partial(Faulty, "kill", "build")], num_workers=1)


def test_an_environment_that_never_answers_is_not_waited_for() -> None:
    # At the first call: a busy machine may be late with any answer before it.
    sleeping = partial(Faulty, "sleep", "reset")
    envs = VectorEnv([Faulty, sleeping], num_workers=1, timeout=0.3)
    with pytest.raises(
        WorkerError, match=r"timeout: no answer from worker 0 .* 0\.3 seconds"
    ):
        envs.reset([0, 0])
    assert_closed(envs)


def test_ctrl_c_between_question_and_answer_leaves_no_late_answer() -> None:
    # The signal comes from a worker that has its question and gives no answer.
    envs = VectorEnv([Faulty, partial(Faulty, "interrupt")], num_workers=2)
    envs.reset([0, 0])
    # A shell lets its background jobs ignore the signal, pytest among them.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            envs.step(ACTIONS)
    finally:
        signal.signal(signal.SIGINT, before)
    assert_closed(envs)


def test_ctrl_c_in_this_process_leaves_no_half_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    envs = VectorEnv([Faulty] * 2)
    monkeypatch.setattr(Faulty, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(envs)
    assert_closed(envs)


def test_workers_are_told_to_end_even_where_nobody_closes_them() -> None:
    envs = VectorEnv([Faulty] * 2, num_workers=1)
    child = multiprocessing.active_children()[0]
    del envs
    child.join(timeout=60)
    assert child.exitcode == 0


def test_closing_never_hides_the_error_that_came_before() -> None:
    with (
        pytest.raises(KeyError, match="the clear one"),
        VectorEnv([Faulty, partial(Faulty, "value error", "close")]),
    ):
        raise KeyError("the clear one")
    envs = VectorEnv([partial(Faulty, "value error", "close"), Faulty])
    with pytest.raises(ValueError, match="motor"):  # But alone it is told.
        envs.close()
    assert_closed(envs)


def test_factories_that_cannot_be_pickled_are_refused_before_anything_starts() -> None:
    with pytest.raises(ArgumentError, match=r"factories: .*num_workers=0"):
        VectorEnv([Faulty, lambda: Faulty()], num_workers=1)


class OtherSpaces(Faulty):
    def __init__(self, observation: gymnasium.Space, action: gymnasium.Space) -> None:
        super().__init__()
        self.observation_space, self.action_space = observation, action


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        ((1,), (1,), r"observation_space of environment 1: expected float32 \[3\]"),
        ((3,), (2,), r"action_space of environment 1: expected float32 \[1\]"),
        (None, (1,), r"observation_space of environment 1: expected one array"),
    ],
)
def test_environments_of_different_spaces_do_not_share_a_batch(
    observation: tuple[int] | None, action: tuple[int], words: str
) -> None:
    seen: gymnasium.Space = gymnasium.spaces.Dict({})
    if observation is not None:
        seen = gymnasium.spaces.Box(-np.inf, np.inf, observation, np.float32)
    done = gymnasium.spaces.Box(-1.0, 1.0, action, np.float32)
    with pytest.raises(ShapeError, match=words):
        VectorEnv([Faulty, partial(OtherSpaces, seen, done)])


@pytest.mark.parametrize(
    ("seeds", "actions", "mask", "words"),
    [
        ([-1, 1], ACTIONS, None, "seed: expected a whole"),
        ([0, 1], ACTIONS, np.array([0, 1]), "mask: expected bool"),
        ([0, 1], ACTIONS * np.nan, None, "actions: expected finite"),
        ([0, 1], np.array([["a"], ["b"]]), None, "actions: expected numbers"),
    ],
)
def test_what_is_wrong_beforehand_closes_nothing(
    seeds: list, actions: np.ndarray, mask: np.ndarray | None, words: str
) -> None:
    with VectorEnv([Faulty] * 2) as envs:
        with pytest.raises(ArgumentError, match=words):
            run(envs, seeds, actions, mask)
        run(envs)
