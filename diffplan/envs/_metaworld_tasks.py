"""Where LatCo's seven Meta-World tasks start, and when they count as solved.

The definitions are those of Sparse MetaWorld (Rybkin et al., "Model-Based Reinforcement
Learning via Latent-Space Collocation", ICML 2021), a fork of Meta-World v2; they are
stated here for the simulations of Meta-World v3, whose own thresholds differ. Nothing
in this file imports a simulator: `sim` is a Meta-World environment.

"Finger centre" is the mean of the two finger-tip sites (`sim.tcp_center`), 4.5 cm below
the hand body. Lengths in metres, x right, y away from the robot, z up.
"""

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffplan._checks import require_known
from diffplan.envs._rendering import FreeCamera

GENERAL_VIEW = FreeCamera(
    azimuth=25.0, elevation=-15.0, distance=2.6, lookat=(1.1, 1.1, -0.1)
)
HAMMER_VIEW = FreeCamera(
    azimuth=40.0, elevation=-40.0, distance=0.8, lookat=(0.2, 0.65, -0.1)
)
"""LatCo's cameras. Its code asks for elevation -165 (-140) and mirrors the image, which
gives exactly these upright views."""

_Vector = tuple[float, float, float]
_HAND_LOW: _Vector = (-0.5, 0.4, 0.05)
_HAND_HIGH: _Vector = (0.5, 1.0, 0.5)


@dataclass(frozen=True)
class Start:
    """One drawn start.

    Attributes:
        hand: Where the hand is dragged to, [3].
        vector: What Meta-World's own reset would have drawn (object and goal).
        joint: Opening of a slide joint, or unused.
        puck: Where the object is put after Meta-World's reset, or None.
    """

    hand: np.ndarray
    vector: np.ndarray
    joint: float = 0.0
    puck: np.ndarray | None = None


class Task(abc.ABC):
    """A start distribution, a success and a distance.

    Attributes:
        v3_name: Name of the simulation in Meta-World v3, also of its scripted expert.
        action_repeat: Simulated steps per decision in LatCo.
        camera: LatCo's view.
        hand_low: Lower corner of the box that the hand is kept in.
        hand_high: Upper corner.
    """

    v3_name: ClassVar[str]
    action_repeat: ClassVar[int] = 1
    camera: ClassVar[FreeCamera] = GENERAL_VIEW
    hand_low: ClassVar[_Vector] = _HAND_LOW
    hand_high: ClassVar[_Vector] = _HAND_HIGH

    @abc.abstractmethod
    def draw(self, rng: np.random.Generator) -> Start:
        """Draw a start."""

    def place(self, sim: Any, start: Start) -> None:
        """Put in place what Meta-World's own reset does not."""
        del sim, start

    @abc.abstractmethod
    def distance(self, sim: Any) -> float:
        """Return how far from solved, metres; never negative."""

    @abc.abstractmethod
    def success(self, sim: Any) -> bool:
        """Return whether the task is solved at this very step."""

    def initial_distance(self, sim: Any) -> float:
        """Return the horizontal axis of LatCo's Fig. 4; `distance` where not shown."""
        return self.distance(sim)


class Reach(Task):
    """Bring the finger centre within 5 cm of (-0.1, 0.8, 0.2). As in LatCo.

    The hand starts uniformly in the whole box, where the arm gets it: in far corners it
    stops up to 14 cm short. The puck lies at (0, 0.6, 0.02) and does not matter.
    """

    v3_name = "reach-v3"
    goal = np.array([-0.1, 0.8, 0.2])

    def draw(self, rng: np.random.Generator) -> Start:
        """Draw the hand uniformly in its box."""
        hand = rng.uniform(self.hand_low, self.hand_high)
        return Start(hand, np.hstack([[0.0, 0.6, 0.02], self.goal]))

    def distance(self, sim: Any) -> float:
        """Return finger centre to goal."""
        return _norm(sim.tcp_center - self.goal)

    def success(self, sim: Any) -> bool:
        """Within 5 cm."""
        return self.distance(sim) <= 0.05

    def initial_distance(self, sim: Any) -> float:
        """Return hand body to (-0.1, 0.8, 0.12), the axis of LatCo's Fig. 4."""
        return _norm(sim.get_endeff_pos() - np.array([-0.1, 0.8, 0.12]))


class ButtonPress(Task):
    """Press a button into the wall: 3 cm or less between button and hole.

    As in LatCo: box at (0, 0.9, 0.115), hand uniform in a small box that it cannot
    leave. The press needed is 6.3 cm, 3 mm beyond the joint's soft limit: it must be
    firm.
    """

    v3_name = "button-press-v3"
    hand_low = (-0.2, 0.4, 0.05)
    hand_high = (0.2, 0.8, 0.3)

    def draw(self, rng: np.random.Generator) -> Start:
        """Draw the hand uniformly in its small box."""
        hand = rng.uniform(self.hand_low, self.hand_high)
        return Start(hand, np.array([0.0, 0.9, 0.115]))

    def distance(self, sim: Any) -> float:
        """Return button to hole along y."""
        button = sim.data.body("button").xpos[1] - 0.193
        return abs(float(sim.data.site("hole").xpos[1] - button))

    def success(self, sim: Any) -> bool:
        """Within 3 cm (Meta-World v3 asks for 2 cm)."""
        return self.distance(sim) <= 0.03

    def initial_distance(self, sim: Any) -> float:
        """Return hand body to (0, 0.78, 0.2), the axis of LatCo's Fig. 4.

        LatCo's figure leaves out episodes that start at hand x < 0.
        """
        return _norm(sim.get_endeff_pos() - np.array([0.0, 0.78, 0.2]))


class WindowClose(Task):
    """Slide a window shut: 5 cm or less between its handle and x = 0.

    As in LatCo: window at (0, 0.785, 0.16), opening uniform in 0 to 0.2 m, hand in a
    box before the handle. The handle sits 1 cm beyond the opening, so that an opening
    up to 4 cm counts: one episode in five is solved at its start.
    """

    v3_name = "window-close-v3"

    def draw(self, rng: np.random.Generator) -> Start:
        """Draw the opening, then the hand near the handle."""
        opening = rng.uniform(0.0, 0.2)
        offset = rng.uniform((-0.15, -0.3, -0.15), (0.15, 0.0, 0.15))
        hand = np.array([opening, 0.685, 0.21]) + offset
        return Start(hand, np.array([0.0, 0.785, 0.16]), joint=opening)

    def place(self, sim: Any, start: Start) -> None:
        """Open the window by the drawn amount instead of fully."""
        sim.data.joint("window_slide").qpos = start.joint

    def distance(self, sim: Any) -> float:
        """Return handle to closed position along x."""
        return abs(float(sim.data.site("handleCloseStart").xpos[0]))

    def success(self, sim: Any) -> bool:
        """Within 5 cm."""
        return self.distance(sim) <= 0.05


class DrawerClose(Task):
    """Push a drawer shut: open by 2 cm or less.

    As in LatCo: drawer at (0, 0.9, 0), opening uniform in 0 to 0.15 m, hand in a box
    before and above the handle. One episode in seven is solved at its start.
    """

    v3_name = "drawer-close-v3"

    def draw(self, rng: np.random.Generator) -> Start:
        """Draw the opening, then the hand near the handle."""
        opening = rng.uniform(0.0, 0.15)
        offset = rng.uniform((-0.15, -0.15, 0.0), (0.15, 0.15, 0.3))
        hand = np.array([0.0, 0.74 - opening, 0.15]) + offset
        return Start(hand, np.array([0.0, 0.9, 0.0]), joint=opening)

    def place(self, sim: Any, start: Start) -> None:
        """Open the drawer by the drawn amount instead of fully."""
        sim.data.joint("goal_slidey").qpos = -start.joint

    def distance(self, sim: Any) -> float:
        """Return the opening."""
        return abs(float(sim.data.joint("goal_slidey").qpos[0]))

    def success(self, sim: Any) -> bool:
        """Open by 2 cm or less (Meta-World v3: 5.5 cm from its marker)."""
        return self.distance(sim) <= 0.02


class Push(Task):
    """Push a puck within 7 cm of (0.1, 0.8), seen from above.

    As in LatCo: puck uniform in x -0.2 to 0.4, y 0.6 to 0.9, hand right over it at
    z = 0.05, fingers open around it. One episode in twelve is solved at its start.
    """

    v3_name = "push-v3"
    goal = np.array([0.1, 0.8, 0.02])

    def draw(self, rng: np.random.Generator) -> Start:
        """Draw the puck; the hand goes over it."""
        x, y = rng.uniform((-0.2, 0.6), (0.4, 0.9))
        # Meta-World's reset never ends for a fixed puck within 15 cm of the goal: give
        # it a far one and put the puck in place afterwards.
        vector = np.hstack([[-0.2, 0.6, 0.02], self.goal])
        hand = np.array([x, y, 0.05])
        return Start(hand, vector, puck=np.array([x, y, 0.02]))

    def place(self, sim: Any, start: Start) -> None:
        """Put the puck between the fingers."""
        sim._set_obj_xyz(start.puck)
        sim.obj_init_pos = start.puck
        # Meta-World's dense reward divides by how far above the puck the fingers
        # started, which is nothing here: pretend 10 cm. Sparse rewards do not care.
        sim.init_tcp = sim.tcp_center + np.array([0.0, 0.0, 0.1])

    def distance(self, sim: Any) -> float:
        """Return puck to goal, horizontally."""
        return _norm((sim.data.body("obj").xpos - self.goal)[:2])

    def success(self, sim: Any) -> bool:
        """Within 7 cm (Meta-World v3: 5 cm in space)."""
        return self.distance(sim) <= 0.07


class StickPush(Task):
    """Push a thermos with a stick to within 10 cm of (0.4, 0.6) ("Thermos").

    As in LatCo nothing is random: stick at (-0.1, 0.6, 0.02), thermos at (0.2, 0.6),
    hand at (0, 0.6, 0.2). Success also needs the fingers within 5 cm of the stick and
    the thermos' loop within 15 cm of it. LatCo's fork has that loop 1 cm nearer to the
    robot.
    """

    v3_name = "stick-push-v3"
    action_repeat = 2
    goal = np.array([0.4, 0.6, 0.132])

    def draw(self, rng: np.random.Generator) -> Start:
        """Return the one start there is."""
        del rng
        vector = np.hstack([[-0.1, 0.6, 0.0], self.goal])
        return Start(np.array([0.0, 0.6, 0.2]), vector)

    def distance(self, sim: Any) -> float:
        """Return thermos to goal, horizontally."""
        return _norm((self._thermos(sim) - self.goal)[:2])

    def success(self, sim: Any) -> bool:
        """Thermos at the goal, stick at the thermos, fingers at the stick."""
        stick = sim.data.body("stick").xpos
        held = _norm(stick - sim.tcp_center) <= 0.05
        pushing = _norm(self._thermos(sim) - stick) <= 0.15
        return self.distance(sim) <= 0.1 and held and pushing

    @staticmethod
    def _thermos(sim: Any) -> np.ndarray:
        return sim.data.site("insertion").xpos + np.array([0.0, 0.09, 0.0])


class Hammer(Task):
    """Bring a lifted hammer's head to the nail.

    LatCo's success is a threshold of 300 on Meta-World's old dense reward: the hammer
    in the fingers (within 10 cm), lifted once by 8 cm and not dropped, and head-to-nail
    distance plus remaining nail travel below some 0.19 to 0.26 m, depending on the
    start. The nail need not be driven. Meta-World v3's own success (nail driven by 9
    cm) is in `info["metaworld_success"]`.

    As in LatCo the hand starts 10 cm before and 16 cm above the table where the hammer
    lies. Differs from LatCo: the hammer is v3's, which can rotate, and is uniform in
    v3's range x -0.1 to 0.1, y 0.4 to 0.5 (LatCo: -0.1 to 0.3, 0.3 to 0.7, where v3's
    expert fails half of the time).

    v3 puts the hammer halfway into the table (z = 0), which throws it up; it comes to
    rest at z = 0.028. The episode begins with it at rest, and "lifted" and "dropped"
    are measured from there.
    """

    v3_name = "hammer-v3"
    action_repeat = 2
    camera = HAMMER_VIEW
    lift = 0.09
    threshold = 300.0
    settling = 200
    """Substeps (of 2.5 ms) until the hammer rests; 100 suffice."""

    def __init__(self) -> None:
        self._lifted = False

    def draw(self, rng: np.random.Generator) -> Start:
        """Draw the hammer on the table."""
        x, y = rng.uniform((-0.1, 0.4), (0.1, 0.5))
        return Start(np.array([x, y - 0.1, 0.16]), np.array([x, y, 0.0]))

    def place(self, sim: Any, start: Start) -> None:
        """Let the hammer come to rest and measure its height; nothing is lifted yet."""
        sim.do_simulation([-1.0, 1.0], self.settling)  # The fingers stay open.
        sim.hammerHeight = float(sim.data.body("hammer").xpos[2])
        sim.heightTarget = sim.hammerHeight + self.lift
        # Meta-World's formula, from its start to its height; the rest is along y.
        travel = abs(float(start.vector[1] - sim._target_pos[1]))
        sim.maxHammerDist = self.lift + sim.heightTarget + travel
        self._lifted = False

    def distance(self, sim: Any) -> float:
        """Return head to nail plus remaining nail travel."""
        nail = sim.data.site("nailHead").xpos
        head = sim.data.geom("HammerHead").xpos
        return _norm(nail - head) + abs(float(nail[1] - sim._target_pos[1]))

    def success(self, sim: Any) -> bool:
        """Old dense reward above 300, see the class."""
        hammer = sim.data.body("hammer").xpos
        # The latch: lifted once (1 cm short of the height asked for) stays lifted.
        self._lifted |= bool(hammer[2] >= sim.heightTarget - 0.01)
        reach = _norm(hammer - sim.tcp_center)
        total = self.distance(sim)
        dropped = hammer[2] < sim.hammerHeight + 0.005 and reach > 0.02
        if not self._lifted or dropped or reach >= 0.1:
            return False
        bonus = np.exp(-(total**2) / 0.01) + np.exp(-(total**2) / 0.001)
        hit = 1000.0 * (sim.maxHammerDist - total + bonus)
        dense = 100.0 * sim.heightTarget - reach + max(hit, 0.0)
        return bool(dense > self.threshold)


TASKS: dict[str, type[Task]] = {
    "reach": Reach,
    "button-press": ButtonPress,
    "window-close": WindowClose,
    "drawer-close": DrawerClose,
    "push": Push,
    "stick-push": StickPush,
    "hammer": Hammer,
}
ALIASES: dict[str, str] = {"thermos": "stick-push"}


def _norm(difference: np.ndarray) -> float:
    return float(np.linalg.norm(difference))


def task_named(name: str) -> Any:
    """Return the task class called `name`.

    Raises:
        UnknownNameError: lists close matches.
    """
    known = ALIASES.get(name, name)
    if known not in TASKS:
        require_known("task: metaworld", name, [*TASKS, *ALIASES])
    return TASKS[known]
