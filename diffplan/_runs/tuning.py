"""Settings of planners, searched for with Optuna on the frozen model of a run.

Every planner may ask the model equally often in one plan. An evaluation is a state and
an action at which `step` or `linearize` is asked, whether or not a gradient is taken
there; iterations follow from the other settings: as many as the budget pays for, by
what one costs at first, and fewer where plans turn out to be dearer on average.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffplan._checks import missing
from diffplan._runs.evaluation import Score, score
from diffplan._runs.folder import LoadedRun
from diffplan._runs.stopwatch import planner_watch
from diffplan.errors import ArgumentError, DiffplanError
from diffplan.models.base import WorldModel
from diffplan.training.seeding import derive_seed

_FEWEST_SAMPLES = 16
_SAMPLES: dict[str, tuple[float, float]] = {
    "num_samples": (_FEWEST_SAMPLES, 1024),
    "elites": (0.05, 0.5),
    "noise_exponent": (0.0, 3.0),
}
_DESCENT = {"num_starts": (1, 32), "step_size": (1e-3, 1.0)}
_COLLOCATION = {"dynamics_tolerance": (1e-4, 1e-1)}
_SPACES: dict[str, dict[str, tuple[float, float]]] = {
    "cem": _SAMPLES,
    "dcem": {**_SAMPLES, "temperature": (1e-2, 10.0)},
    "first_order_latco": {**_COLLOCATION, "step_size": (1e-3, 1.0)},
    "gaussian_latco": _COLLOCATION,
    "grad_mpc": _DESCENT,
    "ilqr": {"tolerance": (1e-6, 1e-2)},
    "latco": {**_COLLOCATION, "damping": (1e-5, 1e-1)},
    "mppi": {**_SAMPLES, "temperature": (1e-2, 10.0)},
    "shooting_gd": _DESCENT,
    "shooting_gn": {"num_starts": (1, 8)},
}
"""What is searched beside the horizon: whole numbers where the limits are."""

_FAILURES = (DiffplanError, ArithmeticError)
"""End a trial, not the search."""

_HORIZON = (3, 30)
_LINEAR = ("elites", "noise_exponent")


@dataclass(frozen=True)
class Tuning:
    """How planners are tuned.

    Attributes:
        budget: Evaluations of the model in a plan.
        trials: Settings that are tried of each planner.
        episodes: That each is tried in, on the same starts.
        held_out: Episodes on other starts, which judge the best settings.
    """

    budget: int
    trials: int
    episodes: int
    held_out: int


@dataclass(frozen=True)
class Tuned:
    """The best settings of a planner.

    Attributes:
        words: That set them, for `diffplan evaluate`.
        trials: That gave a result.
        tuned_return: Mean over the episodes that they were chosen by, hence too high.
        evaluations: Of the model in a plan, counted on the held-out episodes.
        held_out: What they get from other starts.
    """

    words: tuple[str, ...]
    trials: int
    tuned_return: float
    evaluations: float
    held_out: Score


class Counter:
    """Counts the evaluations of a model from now on.

    Args:
        model: Its class becomes one that counts, for agents that are made afterwards.
    """

    def __init__(self, model: WorldModel) -> None:
        self.count = 0
        counter, kind = self, type(model)

        class Counted(kind):  # type: ignore[misc, valid-type]
            def step(self, state: Any, action: Any) -> Any:
                counter.count += action[..., 0].numel()
                return super().step(state, action)

            def linearize(self, state: Any, action: Any) -> Any:
                counter.count += action[..., 0].numel()
                return super().linearize(state, action)

        model.__class__ = Counted


def tune(
    loaded: LoadedRun,
    planner: str,
    tuning: Tuning,
    counter: Counter,
    tell: Callable[[str], None],
) -> Tuned | None:
    """Return the best settings of a planner; None if no trial gave a result.

    Trials are kept in the run's folder: the same call goes on from them.

    Args:
        loaded: The run.
        planner: Its name.
        tuning: The budget, and how often.
        counter: Of the run's model.
        tell: Is given a line after each trial, for there may be hours of them.

    Raises:
        MissingDependencyError: Optuna is not installed.
    """
    study = _study(loaded, planner, tuning)
    done = [each for each in study.trials if each.state.is_finished()]

    def told(study: Any, trial: Any) -> None:
        failure, words = (trial.user_attrs.get(name) for name in ("failure", "words"))
        result = failure or f"return {trial.value:.4g} by {' '.join(words)}"
        number = sum(each.state.is_finished() for each in study.trials)
        tell(f"{planner}, trial {number} of {tuning.trials}: {result}")

    study.optimize(
        partial(_tried, loaded=loaded, planner=planner, tuning=tuning, counter=counter),
        n_trials=max(tuning.trials - len(done), 0),
        catch=_FAILURES,
        callbacks=[told],
    )
    known = [each for each in study.trials if each.value is not None]
    if not known:
        return None
    best = study.best_trial
    words = tuple(best.user_attrs["words"])
    tell(f"{planner}: the best of {len(known)} plays {tuning.held_out} other starts")
    held_out, asked = _counted(loaded, words, tuning.held_out, "held out", counter)
    return Tuned(words, len(known), best.value, asked, held_out)


def _study(loaded: LoadedRun, planner: str, tuning: Tuning) -> Any:
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise missing("tuning needs optuna", "tune") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # failures are told here
    path = loaded.directory / "tune.log"
    name = f"{planner}, {tuning.budget} evaluations, {tuning.episodes} episodes, "
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(
        storage=storage,
        study_name=f"{name}{loaded.rounds} rounds",
        direction="maximize",
        load_if_exists=True,
    )
    # A sampler that goes on must not repeat what it drew before.
    seed = derive_seed(loaded.seed, "tuning", planner, len(study.trials), bits=32)
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    return study


def _tried(
    trial: Any, *, loaded: LoadedRun, planner: str, tuning: Tuning, counter: Counter
) -> float:
    """Return the mean return of the settings that a trial suggests."""
    try:
        words = _suggested(trial, planner, loaded.settings.execute, tuning.budget)
        tried, words = _within_budget(loaded, words, tuning, counter)
        trial.set_user_attr("words", words)
    except _FAILURES as error:
        trial.set_user_attr("failure", str(error))
        raise
    return tried.evaluation.mean_return


def _suggested(trial: Any, planner: str, shortest: int, budget: int) -> list[str]:
    """Return words for what a trial suggests, of which the budget pays iterations."""
    least, most = max(_HORIZON[0], shortest), budget // (2 * _FEWEST_SAMPLES)
    longest = max(least, min(_HORIZON[1], most))
    horizon = trial.suggest_int("horizon", least, longest)
    values: dict[str, float] = {}
    for name, (low, high) in _SPACES[planner].items():
        logarithmic = name not in _LINEAR
        if isinstance(low, int):
            high = min(high, max(low, budget // (2 * horizon)))
            values[name] = trial.suggest_int(name, low, high, log=logarithmic)
        else:
            values[name] = trial.suggest_float(name, low, high, log=logarithmic)
    if "elites" in values:
        share = values.pop("elites")
        values["num_elites"] = max(2, round(share * values["num_samples"]))
    settings = [f"planner.{name}={value}" for name, value in values.items()]
    return [f"planner={planner}", f"horizon={horizon}", *settings]


def _within_budget(
    loaded: LoadedRun, words: Sequence[str], tuning: Tuning, counter: Counter
) -> tuple[Score, list[str]]:
    """Play with as many iterations as the budget pays for; return them in the words."""
    iterations = _affordable(loaded, words, tuning.budget, counter)
    while True:
        whole = [*words, f"planner.iterations={iterations}"]
        tried, asked = _counted(loaded, whole, tuning.episodes, "tuning", counter)
        if asked <= tuning.budget:
            return tried, whole
        if iterations == 1:
            raise ArgumentError(
                f"budget: expected {math.ceil(asked)} for one iteration, got "
                f"{tuning.budget}"
            )
        # As where a line search needs more rollouts than it did at first.
        iterations = max(1, int(iterations * tuning.budget / asked))


def _counted(
    loaded: LoadedRun, words: Sequence[str], episodes: int, use: str, counter: Counter
) -> tuple[Score, float]:
    """Play episodes; return also how often a plan asked the model, on average."""
    playing = loaded.with_settings(words)
    watch, before = planner_watch().watch(playing.agent.planner), counter.count
    found = score(playing, episodes, use)
    return found, (counter.count - before) / watch.calls


def _affordable(
    loaded: LoadedRun, words: Sequence[str], budget: int, counter: Counter
) -> int:
    """Return how many iterations the budget pays for, by what one and two cost.

    Of some states the dearest counts; where no second one was made, as a planner stops
    that has converged, the first.
    """
    costs = [
        [_cost(loaded, words, number, state, counter) for number in (1, 2)]
        for state in _states(loaded.model)
    ]
    one, more = max(c[0] for c in costs), max(c[1] - c[0] for c in costs)
    if one > budget:
        raise ArgumentError(f"budget: expected {one} for one iteration, got {budget}")
    return 1 + (budget - one) // (more or one)


def _states(model: WorldModel) -> list[Tensor]:
    """Return states `[1, S]` to try a planner from."""
    start = model.initial_state((1,))
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn((3, *start.shape), generator=draw).to(start)
    return [start, *(start + noise)]


@torch.no_grad()
def _cost(
    loaded: LoadedRun,
    words: Sequence[str],
    iterations: int,
    state: Tensor,
    counter: Counter,
) -> int:
    agent = loaded.with_settings([*words, f"planner.iterations={iterations}"]).agent
    before = counter.count
    agent.planner(agent.problem, state)
    return counter.count - before


def row(planner: str, tuned: Tuned) -> Mapping[str, Any]:
    """Return a row of the table."""
    held_out = tuned.held_out.mean()
    return {
        "planner": planner,
        "trials": tuned.trials,
        "evaluations per plan": round(tuned.evaluations),
        "tuned return": tuned.tuned_return,
        "held-out return": held_out.value,
        "low": held_out.low,
        "high": held_out.high,
        "settings": " ".join(tuned.words),
    }
