"""The examples do what their first lines say."""

import pytest

from examples.imitation import imitate, planners


@pytest.mark.parametrize("name", list(planners()))
def test_a_pendulum_is_learnt_from_actions_alone(name: str) -> None:
    errors = imitate(planners()[name])
    assert set(errors) == {"gravity", "mass", "effort"}
    assert max(errors.values()) < 0.05, errors
