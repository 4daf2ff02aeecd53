"""The Lottery of LatCo: a sure goal, and one that pays more at best, less on average.

Source: Rybkin et al., "Model-Based Reinforcement Learning via Latent-Space Collocation"
(ICML 2021, section 5.5), and the authors' environment, whose pay-offs are others. The
point mass is integrated as MuJoCo would, without MuJoCo.
"""

from typing import Any, NamedTuple

import numpy as np

from diffplan._checks import require_known
from diffplan.envs.base import EnvOptions, SimulatorEnv, box

__all__ = ["GOALS", "HIT_RADIUS", "PAYOFFS", "LotteryEnv", "Payoff"]


class Payoff(NamedTuple):
    """What the goals pay.

    Attributes:
        top: Reward of the top goal.
        win: Reward of the bottom goal, if it wins.
        loss: Reward of the bottom goal, if it loses.
        chance: Probability that it wins.
    """

    top: float
    win: float
    loss: float
    chance: float

    @property
    def bottom(self) -> float:
        """What the bottom goal pays on average."""
        return self.chance * self.win + (1 - self.chance) * self.loss


PAYOFFS = {
    "paper": Payoff(top=1.0, win=20.0, loss=-40.0, chance=0.65),
    "released": Payoff(top=1.0, win=2.0, loss=-10.0, chance=0.8),
}
"""By the name of the task: what the paper prints, and what its code does."""

GOALS = {"top": np.array([0.8, 0.7]), "bottom": np.array([-0.8, 0.7])}
"""Where the goals are, x and y in metres."""

HIT_RADIUS = 0.25
"""How near the point comes to a goal that it hits, metres."""

_STIFFNESS, _DAMPING, _MASS = 100.0, 10.0, 0.524 + 0.004  # with the joints' armature
_TIME_STEP, _SUBSTEPS = 0.01, 5
_RADIUS = 0.05
_HALF_WIDTH = 1.15
"""Of what an image shows, metres."""
_FLOOR, _POINT, _GOAL = (60, 80, 105), (240, 200, 60), (150, 150, 160)
_GREEN, _RED = (40, 200, 60), (220, 40, 40)


class LotteryEnv(SimulatorEnv):
    """A point mass that may visit one of two goals.

    The action is the place that a position servo pulls it to. The first goal within
    whose radius of 0.25 a simulated step ends (a decision has `action_repeat` of them)
    is the choice: it pays once, at that step, and turns green, or red if it lost.
    Nothing counts after that, and nothing ends. Whether the bottom goal wins is drawn
    with the start: it depends on the seed, and neither on when the goal is hit nor on
    how.

    The state vector is `[x, y, velocity x, velocity y, top, bottom]`; the last two are
    0, or at the goal that was hit 1 for green and -1 for red. Images show the
    top goal at the upper right, the bottom goal at the lower right. `info` says
    `choose_top`, `choose_bottom` and `no_choice` so far, each 0 or 1.

    Args:
        name: "paper" or "released", see `PAYOFFS`.
        options: The shared settings. A simulated step is 0.05 s.

    Raises:
        UnknownNameError: there are no such pay-offs.

    References:
        Rybkin et al., ICML 2021, section 5.5.

    Example:
        >>> env = diffplan.envs.make("lottery/paper")
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape
        (6,)
    """

    time_limit = 20
    draws_images = True

    def __init__(self, name: str, options: EnvOptions) -> None:
        self.payoff = PAYOFFS[require_known("task: lottery", name, PAYOFFS)]
        super().__init__(options, 6, box(-np.ones(2), np.ones(2)))

    def _begin(self) -> None:
        low, high = (-0.6, -0.1), (-0.4, 0.1)
        self._place = self.np_random.uniform(low, high)
        self._velocity = np.zeros(2)
        self._wins = bool(self.np_random.random() < self.payoff.chance)
        self._colours = dict.fromkeys(GOALS, 0)
        self._move(np.zeros(2))  # as the authors do before they first look

    def _advance(self, action: np.ndarray) -> tuple[float, bool, bool]:
        self._move(action)
        return self._hit(), False, False

    def _move(self, target: np.ndarray) -> None:
        for _ in range(_SUBSTEPS):
            force = _STIFFNESS * (target - self._place) - _DAMPING * self._velocity
            # MuJoCo's Euler step: damping implicit, the new velocity moves the place.
            self._velocity = self._velocity + _TIME_STEP * force / (
                _MASS + _TIME_STEP * _DAMPING
            )
            moved = self._place + _TIME_STEP * self._velocity
            # A joint's end stops it; MuJoCo's is a little soft.
            self._place = moved.clip(-1.0, 1.0)
            self._velocity = np.where(moved == self._place, self._velocity, 0.0)

    def _hit(self) -> float:
        if any(self._colours.values()):
            return 0.0
        for name, goal in GOALS.items():
            if np.linalg.norm(self._place - goal) <= HIT_RADIUS:
                won = name == "top" or self._wins
                self._colours[name] = 1 if won else -1
                if name == "top":
                    return self.payoff.top
                return self.payoff.win if won else self.payoff.loss
        return 0.0

    def _state(self) -> np.ndarray:
        return np.array([*self._place, *self._velocity, *self._colours.values()], float)

    def _info(self) -> dict[str, Any]:
        chosen = {f"choose_{name}": int(c != 0) for name, c in self._colours.items()}
        return chosen | {"no_choice": int(not any(chosen.values()))}

    def _image(self) -> np.ndarray:
        size = self.options.image_size
        image = np.full((size, size, 3), _FLOOR, dtype=float)
        for name, goal in GOALS.items():
            colour = {0: _GOAL, 1: _GREEN, -1: _RED}[self._colours[name]]
            _disc(image, goal, HIT_RADIUS, colour)
        _disc(image, self._place, _RADIUS, _POINT)
        return image.round().astype(np.uint8)


def _disc(
    image: np.ndarray, place: np.ndarray, radius: float, colour: tuple[int, int, int]
) -> None:
    """Draw a disc whose edge is as soft as a pixel; x points up and y to the right."""
    size = len(image)
    pixel = 2 * _HALF_WIDTH / size
    centres = (np.arange(size) + 0.5) * pixel - _HALF_WIDTH
    distance = np.hypot(-centres[:, None] - place[0], centres[None, :] - place[1])
    cover = ((radius - distance) / pixel + 0.5).clip(0.0, 1.0)[..., None]
    image += cover * (np.array(colour, dtype=float) - image)
