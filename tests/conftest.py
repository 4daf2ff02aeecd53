"""Settings of the whole test suite: shape checks, one thread, fixed seeds, markers."""

import importlib.util
import os
from collections.abc import Iterator

import pytest
import torch

SHAPE_CHECKS = os.environ.get("DIFFPLAN_TYPECHECK", "1") != "0"

if SHAPE_CHECKS:
    # Checks types and shapes of every call into diffplan; must precede its import.
    # torch.compile cannot see through it: tests marked `compiled` run without it.
    import typechecking

    typechecking.install()

if importlib.util.find_spec("mujoco"):
    # MuJoCo reads its OpenGL backend once, while a test file imports it.
    from diffplan.envs._rendering import select_backend

    select_backend()

if "OMP_NUM_THREADS" not in os.environ:
    # Small tensors: threads cost more than they give, above all beside pytest-xdist.
    torch.set_num_threads(1)


# Torch warns of what it does itself while it compiles.
COMPILER_WARNINGS = (
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore:.*should not be instantiated:DeprecationWarning",
    "ignore:.*not a leaf Tensor:UserWarning",
)


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    """Let modules that a test builds have the same initial weights in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def generator() -> torch.Generator:
    """Return a seeded source of noise."""
    return torch.Generator().manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and say what is missing."""
    no_gpu = pytest.mark.skip(reason="no CUDA device")
    no_gl = pytest.mark.skip(reason="no OpenGL library: see README.md")
    checked = pytest.mark.skip(
        reason="needs DIFFPLAN_TYPECHECK=0, as in `nox -s tests`"
    )
    images = os.environ.get("MUJOCO_GL", "disable") != "disable"
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if item.get_closest_marker("compiled"):
            item.add_marker(pytest.mark.filterwarnings(*COMPILER_WARNINGS))
            if SHAPE_CHECKS:
                item.add_marker(checked)
        if item.get_closest_marker("render") and not images:
            item.add_marker(no_gl)


@pytest.fixture(autouse=True)
def fresh_compiler(request: pytest.FixtureRequest) -> None:
    """Forget what other tests compiled: after eight kinds a function is given up."""
    if request.node.get_closest_marker("compiled"):
        torch._dynamo.reset()
