"""Dynamics whose equations are known: linear systems and the classic toy plants.

They are for tests, examples and experiments without a learned model. Each is a
dynamics (`system(state, action) → next_state`, any leading dimensions) and knows its
exact Jacobian. Physical constants are tensors: an `nn.Parameter` is learned, anything
else is a buffer.
"""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from diffplan._checks import require_count, require_positive
from diffplan._kinds import OrInfinite
from diffplan.models._linear import AnalyticDynamics, Linearization

_Pair = tuple[Tensor, Tensor]
_Levers = tuple[Tensor, Tensor, Tensor]
_Direction = tuple[Tensor, Tensor, Tensor]


class PointMass(AnalyticDynamics):
    """A mass in `dimensions` directions, pushed by a force: the double integrator.

    State [position (D), velocity (D)], action force (D), in SI units:
    p' = p + dt v, v' = v + dt (u - damping v) / mass.

    Args:
        dimensions: D.
        time_step: dt, seconds.
        mass: Kilograms.
        damping: Viscous friction, kg/s.
    """

    is_affine: ClassVar[bool] = True
    mass: Tensor
    damping: Tensor

    def __init__(
        self,
        dimensions: int = 2,
        *,
        time_step: float = 0.1,
        mass: Tensor | float = 1.0,
        damping: Tensor | float = 0.0,
    ) -> None:
        super().__init__()
        dimensions = require_count("dimensions", dimensions)
        self.time_step = require_positive("time_step", time_step)
        self.action_dim, self.state_dim = dimensions, 2 * dimensions
        self._hold(mass=mass, damping=damping)

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        """Explicit Euler step."""
        self._check(state, action)
        position, velocity = state.tensor_split(2, dim=-1)
        acceleration = (action - self.damping * velocity) / self.mass
        return torch.cat(
            [
                position + self.time_step * velocity,
                velocity + self.time_step * acceleration,
            ],
            dim=-1,
        )

    def linearize(self, state: Tensor, action: Tensor) -> Linearization:
        """Constant matrices, seen through the leading dimensions."""
        following = self.step(state, action)
        eye = torch.eye(self.action_dim, dtype=state.dtype, device=state.device)
        zero = torch.zeros_like(eye)
        kept = 1 - self.time_step * self.damping / self.mass
        top = torch.cat([eye, self.time_step * eye], dim=-1)
        bottom = torch.cat([zero, kept.to(state) * eye], dim=-1)
        by_state = torch.cat([top, bottom], dim=-2)
        gain = (self.time_step / self.mass).to(state)
        by_action = torch.cat([zero, gain * eye], dim=-2)
        batch = following.shape[:-1]
        return (
            following,
            by_state.expand(*batch, -1, -1),
            by_action.expand(*batch, -1, -1),
        )


class Pendulum(AnalyticDynamics):
    """A rod on a hinge, driven by a torque; angle zero is upright.

    State [angle (rad, not wrapped), angular velocity (rad/s)], action torque (N m).
    A uniform rod of length l and mass m:
    ω' = ω + dt (3g/(2l) sin θ + 3 u/(m l²)), θ' = θ + dt ω' (semi-implicit Euler).
    These are the equations of Gymnasium's Pendulum without its limits on torque and
    velocity; an action space limits the torque.

    Args:
        time_step: dt, seconds.
        gravity: m/s².
        mass: Kilograms.
        length: Metres.
    """

    gravity: Tensor
    mass: Tensor
    length: Tensor
    state_dim = 2
    action_dim = 1

    def __init__(
        self,
        *,
        time_step: float = 0.05,
        gravity: Tensor | float = 10.0,
        mass: Tensor | float = 1.0,
        length: Tensor | float = 1.0,
    ) -> None:
        super().__init__()
        self.time_step = require_positive("time_step", time_step)
        self._hold(gravity=gravity, mass=mass, length=length)

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        """One semi-implicit Euler step."""
        self._check(state, action)
        fall, gain = self._gains(state)
        angle, velocity = state.unbind(-1)
        push = gain * action[..., 0]
        return _state(self._after(angle, velocity, push, fall))

    def rollout(self, state: Tensor, actions: Tensor) -> Tensor:
        """States `[…, T+1, S]`; what does not change is computed once."""
        self._check(state, actions)
        fall, gain = self._gains(state)
        angle, velocity = state.unbind(-1)
        told = [angle, velocity]
        for push in (gain * actions[..., 0]).unbind(-1):
            angle, velocity = self._after(angle, velocity, push, fall)
            told += angle, velocity
        together = torch.stack(told).unflatten(0, (-1, self.state_dim))
        return together.movedim((0, 1), (-2, -1))  # as `_state`

    def _gains(self, like: Tensor) -> _Pair:
        """What a step adds to the velocity: for each of sin θ, and of the torque."""
        gravity, mass, length = self._as(like, "gravity", "mass", "length")
        dt = self.time_step
        return dt * 1.5 * gravity / length, 3 * dt / (mass * length**2)

    def _after(
        self, angle: Tensor, velocity: Tensor, push: Tensor, fall: Tensor
    ) -> _Pair:
        velocity = velocity + push + fall * angle.sin()
        return torch.add(angle, velocity, alpha=self.time_step), velocity

    def linearize(self, state: Tensor, action: Tensor) -> Linearization:
        """Only sin θ is not linear."""
        following = self.step(state, action)
        dt = self.time_step
        fall, per_torque = self._gains(state)
        by_angle = fall * state[..., 0].cos()
        one = torch.ones_like(by_angle)
        by_state = _matrix([[1 + dt * by_angle, dt * one], [by_angle, one]])
        gain = per_torque * one
        return following, by_state, _matrix([[dt * gain], [gain]])


class _Forces(NamedTuple):
    """What moves a cartpole.

    Attributes:
        push: Of force and pole on the whole, m/s².
        turn: Angular acceleration of the pole.
        acceleration: Of the cart.
        inertia: What the pole resists with, metres.
        across: The lever's share across the track, metres.
    """

    push: Tensor
    turn: Tensor
    acceleration: Tensor
    inertia: Tensor
    across: Tensor


class Cartpole(AnalyticDynamics):
    """A pole hinged on a cart that a force pushes; angle zero is upright.

    State [x, x', cos θ, sin θ, θ'] in SI units, action force in newtons, clamped to
    ±`force_limit`. The equations of Barto, Sutton and Anderson (1983), explicit Euler
    with the old velocities, as in the differentiable cross-entropy method's
    experiments (Amos and Yarats 2020, arXiv:1909.12830, appendix C). A state whose
    (cos θ, sin θ) is not on the unit circle turns as its angle atan2(sin, cos) does;
    (0, 0), which has no angle, counts as upright, whatever happens nearby: derivatives
    by cos θ and sin θ of the angle are zero there.

    Args:
        time_step: dt, seconds.
        gravity: m/s².
        cart_mass: Kilograms.
        pole_mass: Kilograms.
        half_length: Distance from the hinge to the pole's centre, metres.
        force_limit: Newtons.
    """

    gravity: Tensor
    cart_mass: Tensor
    pole_mass: Tensor
    half_length: Tensor
    state_dim = 5
    action_dim = 1

    def __init__(
        self,
        *,
        time_step: float = 0.05,
        gravity: Tensor | float = 9.8,
        cart_mass: Tensor | float = 1.0,
        pole_mass: Tensor | float = 0.1,
        half_length: Tensor | float = 0.5,
        force_limit: OrInfinite = 100.0,
    ) -> None:
        super().__init__()
        self.time_step = require_positive("time_step", time_step)
        self.force_limit = require_positive("force_limit", force_limit)
        self._hold(gravity=gravity, cart_mass=cart_mass)
        self._hold(pole_mass=pole_mass, half_length=half_length)

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        """One explicit Euler step."""
        self._check(state, action)
        cos, sin, spin = state[..., 2:].unbind(-1)
        push, levers = self._push(action), self._levers(action)
        forces = self._forces(cos, sin, spin, push, levers)
        return self._after(state, _direction(cos, sin), forces)

    def rollout(self, state: Tensor, actions: Tensor) -> Tensor:
        """States `[…, T+1, S]`; only the pole is followed from step to step."""
        self._check(state, actions)
        place, speed, cos, sin, spin = state.unbind(-1)
        angle, dt = _angle(_direction(cos, sin)), self.time_step
        levers = self._levers(actions)
        pole, cart, still = [cos, sin, spin], [], torch.zeros_like(speed)
        for push in self._push(actions).unbind(-1):
            forces = self._forces(cos, sin, spin, push, levers)
            cart.append(forces.acceleration)
            angle = torch.add(angle, spin, alpha=dt)
            spin = torch.add(spin, forces.turn, alpha=dt)
            cos, sin = angle.cos(), angle.sin()
            pole += cos, sin, spin
        speeds = torch.stack((still, *cart)).cumsum(0)
        speeds = torch.add(speed, speeds, alpha=dt)
        places = torch.cat((still.unsqueeze(0), speeds[:-1])).cumsum(0)
        places = torch.add(place, places, alpha=dt)
        turning = torch.stack(pole).unflatten(0, (-1, 3))
        together = torch.cat((torch.stack((places, speeds), 1), turning), 1)
        return together.movedim((0, 1), (-2, -1))  # as `_state`

    def _push(self, action: Tensor) -> Tensor:
        """Acceleration of the whole by the force alone, m/s²."""
        force = action[..., 0].clamp(-self.force_limit, self.force_limit)
        cart, pole = self._as(action, "cart_mass", "pole_mass")
        return force / (cart + pole)

    def _levers(self, like: Tensor) -> _Levers:
        """The pole's lever by its share of the mass, its inertia upright; gravity."""
        names = ("cart_mass", "pole_mass", "half_length", "gravity")
        cart, pole, half, gravity = self._as(like, *names)
        return pole / (cart + pole) * half, 4 / 3 * half, gravity

    def _forces(
        self, cos: Tensor, sin: Tensor, spin: Tensor, push: Tensor, levers: _Levers
    ) -> _Forces:
        lever, upright, gravity = levers
        across = lever * cos
        push = torch.addcmul(push, lever * spin, spin * sin)
        inertia = torch.addcmul(upright, across, cos, value=-1)
        turn = torch.addcmul(gravity * sin, cos, push, value=-1) / inertia
        acceleration = torch.addcmul(push, turn, across, value=-1)
        return _Forces(push, turn, acceleration, inertia, across)

    def _after(self, state: Tensor, direction: _Direction, forces: _Forces) -> Tensor:
        """State after a step."""
        place, speed, _, _, spin = state.unbind(-1)
        dt = self.time_step
        angle = torch.add(_angle(direction), spin, alpha=dt)
        after = (
            torch.add(place, speed, alpha=dt),
            torch.add(speed, forces.acceleration, alpha=dt),
            angle.cos(),
            angle.sin(),
            torch.add(spin, forces.turn, alpha=dt),
        )
        return _state(after)

    def linearize(self, state: Tensor, action: Tensor) -> Linearization:
        """Derivatives of push, turn and acceleration, in that order."""
        self._check(state, action)
        cos, sin, spin = state[..., 2:].unbind(-1)
        dt, push, levers = self.time_step, self._push(action), self._levers(action)
        forces = self._forces(cos, sin, spin, push, levers)
        unit_cos, unit_sin, scale = direction = _direction(cos, sin)
        following = self._after(state, direction, forces)
        d_turn, d_acceleration = self._derivatives(state, action, forces, levers)
        one, zero = torch.ones_like(cos), torch.zeros_like(cos)
        # d atan2(sin, cos) = (cos d sin - sin d cos) / (sin² + cos²)
        per_length = scale / (unit_cos**2 + unit_sin**2)
        d_angle = [-unit_sin * per_length, unit_cos * per_length, dt * one]
        d_cos = [-following[..., 3] * d for d in d_angle]
        d_sin = [following[..., 2] * d for d in d_angle]
        by_state = _matrix(
            [
                [one, dt * one, zero, zero, zero],
                [zero, one, *(dt * d for d in d_acceleration[:3])],
                [zero, zero, *d_cos],
                [zero, zero, *d_sin],
                [zero, zero, dt * d_turn[0], dt * d_turn[1], one + dt * d_turn[2]],
            ]
        )
        by_force = [[zero], [dt * d_acceleration[3]], [zero], [zero], [dt * d_turn[3]]]
        return following, by_state, _matrix(by_force)

    def _derivatives(
        self, state: Tensor, action: Tensor, forces: _Forces, levers: _Levers
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Derivatives of angular and cart acceleration by cos, sin, spin, action."""
        cos, sin, spin = state[..., 2:].unbind(-1)
        lever, _, gravity = levers
        cart, pole = self._as(action, "cart_mass", "pole_mass")
        inside = (action[..., 0].abs() <= self.force_limit).to(state.dtype)
        d_push = [
            torch.zeros_like(cos),
            lever * spin**2,
            2 * lever * spin * sin,
            inside / (cart + pole),
        ]
        d_turn = [-cos * d / forces.inertia for d in d_push]
        by_inertia = 2 * forces.turn * forces.across
        d_turn[0] = d_turn[0] - (forces.push - by_inertia) / forces.inertia
        d_turn[1] = d_turn[1] + gravity / forces.inertia
        d_acceleration = [
            d_p - forces.across * d_t for d_p, d_t in zip(d_push, d_turn, strict=True)
        ]
        d_acceleration[0] = d_acceleration[0] - lever * forces.turn
        return d_turn, d_acceleration


def _state(parts: tuple[Tensor, ...]) -> Tensor:
    """State `[…, S]` from S parts `[…]`, each of which stays together in memory.

    Parts that lie next to each other are copied, and read, whole; numbers of one state
    next to each other cost planners with many candidates a quarter of their time.
    """
    return torch.stack(parts).movedim(0, -1)


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    """Matrix `[…, R, C]` from R rows of C entries `[…]`."""
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _angle(direction: _Direction) -> Tensor:
    unit_cos, unit_sin, _ = direction
    return torch.atan2(unit_sin, unit_cos)


def _direction(cos: Tensor, sin: Tensor) -> _Direction:
    """Return (cos, sin) of about unit length, and what they were multiplied with.

    Angles and their derivatives do not depend on the length, whose square may leave the
    range of numbers. Zero has no direction: (1, 0), constants, and a factor of zero.
    """
    length = torch.maximum(cos.detach().abs(), sin.detach().abs())
    known = length >= torch.finfo(length.dtype).tiny
    scale = torch.where(known, 1 / torch.where(known, length, 1.0), 0.0)
    return (
        torch.where(known, cos * scale, 1.0),
        torch.where(known, sin * scale, 0.0),
        scale,
    )
