"""An environment in one file, without a simulator: a point on a line."""

import numpy as np

from diffplan.envs.base import EnvOptions, SimulatorEnv, box


class LineEnv(SimulatorEnv):
    """Position p moves by 0.1 a; reward -p²; beyond ±1.5 the task ends."""

    time_limit = 12

    def __init__(self, name: str, options: EnvOptions, start: float = 1.0) -> None:
        super().__init__(options, 1, box(-np.ones(1), np.ones(1)))
        self.name, self.start = name, start

    @classmethod
    def default_action_repeat(cls, name: str) -> int:
        return 2 if name == "slow" else 1

    def _begin(self) -> None:
        self.position = self.np_random.uniform(-self.start, self.start, 1)

    def _advance(self, action: np.ndarray) -> tuple[float, bool, bool]:
        self.position = self.position + 0.1 * action
        return -float(self.position[0] ** 2), bool(abs(self.position[0]) > 1.5), False

    def _state(self) -> np.ndarray:
        return self.position
