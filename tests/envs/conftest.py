"""All of these tests need the simulators."""

import pytest

pytest.importorskip("mujoco", reason="pip install .[suite]")
pytest.importorskip("gymnasium", reason="pip install .[suite]")
