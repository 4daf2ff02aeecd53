"""Every routine of the project, each one command: `nox -s <session>`.

The sessions share one virtual environment per Python version, `.nox/shared-<version>`,
because installing torch and the simulators takes longer than most of what they do. It
is filled on first use and again whenever `pyproject.toml`, `constraints.txt` or this
file changes; deleting `.nox` starts over. What follows `--` reaches the program behind
a session: `nox -s tests -- tests/planners -k cem`.
"""

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).parent
SUPPORTED = ("3.12", "3.11")
# The simulators end at 3.12; the rest runs wherever torch does.
CORE = ("3.11", "3.12", "3.13", "3.14")
CORE_TOOLS = "pytest pytest-timeout pytest-xdist beartype hypothesis gymnasium scipy"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
THESEUS = ("theseus-ai", "torchlie", "torchkin")
THESEUS_NEEDS = (
    *("numpy", "scipy", "numba", "lxml"),
    *("omegaconf", "urdf_parser_py", "pybind11"),
)
PYTHON = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
DEFAULT_TESTS = "not slow and not gpu"
NOTHING_COLLECTED = 5  # pytest's exit status
WITHOUT_CHECKS = {"DIFFPLAN_TYPECHECK": "0"}
PLAINEST_KERNELS = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "MKL_CBWR": "COMPATIBLE",  # also where MKL does not know the processor
}
NUMERIC_TESTS = (
    *("tests/functional", "tests/solvers", "tests/planners", "tests/models"),
    *("tests/objectives", "tests/test_constraints.py", "tests/test_stochastic.py"),
    *("tests/test_plan.py", "tests/test_one_line.py", "tests/test_problem.py"),
)
WHEEL_CHECK = """
import torch, diffplan as dp
box = dp.Box([-1.0], [1.0])
problem = dp.PlanningProblem(torch.add, dp.objectives.GoalDistance(torch.zeros(1)), box)
print(dp.__file__, dp.CEM(horizon=3)(problem, torch.ones(1)).action)
print([dp.models.load(name).state_dim for name in dp.models.available()])
"""

nox.needs_version = ">=2025.2"
nox.options.sessions = ["lint", "types", "tests", "docs"]
nox.options.reuse_existing_virtualenvs = True


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run the default tests; pass pytest's arguments after `--`."""
    run_tests(session, shared_environment(session))


@nox.session(venv_backend="none", default=False)
@nox.parametrize("threads", ["1", "2"])
def tests_portable(session: nox.Session, threads: str) -> None:
    """Run the numeric tests with the plainest kernels, on one thread and on two.

    What they demand must hold on every processor: another one takes other kernels,
    which sum in another order. The shape checks are on. CI runs most default tests so.
    """
    python = shared_environment(session)
    named = any(argument.startswith("tests") for argument in session.posargs)
    chosen = (*(() if named else NUMERIC_TESTS), *session.posargs)
    status = pytest(
        session,
        python,
        *("-n", "2", "-m", f"{DEFAULT_TESTS} and not compiled", *chosen),
        # Threads that wait give way: there may be more of them than cores.
        env={
            **PLAINEST_KERNELS,
            "OMP_NUM_THREADS": threads,
            "OMP_WAIT_POLICY": "PASSIVE",
        },
    )
    judge(session, status)


@nox.session(python=list(SUPPORTED), default=False)
def tests_all(session: nox.Session) -> None:
    """Run the default tests on every supported Python that is installed."""
    python = own_python(session)
    fill(session, python, Path(session.virtualenv.location))
    run_tests(session, python)


@nox.session(python=list(CORE), default=False)
def tests_core(session: nox.Session) -> None:
    """Run the tests of the core, which needs no simulator, on each installed Python."""
    python = own_python(session)
    install_torch(session, python)
    # Without constraints.txt: what it pins may be older than a Python is.
    session.install("--quiet", "-e", ".", *CORE_TOOLS.split())
    chosen = session.posargs or NUMERIC_TESTS
    selection = ("-n", "2", "-m", f"{DEFAULT_TESTS} and not compiled")
    judge(session, pytest(session, python, *selection, *chosen, env=WITHOUT_CHECKS))


@nox.session(venv_backend="none", default=False)
def tests_slow(session: nox.Session) -> None:
    """Run the tests that take minutes."""
    run_tests(session, shared_environment(session), "slow and not gpu")


@nox.session(venv_backend="none", default=False)
def tests_gpu(session: nox.Session) -> None:
    """Run the tests that need a CUDA device."""
    run_tests(session, shared_environment(session), "gpu")


@nox.session(default=False)
def tests_adapters(session: nox.Session) -> None:
    """Test adapters against their packages, with the examples on their pages.

    `-- --theirs FOLDER` runs the planning tests of stable-worldmodel as well, with
    planners in the place of its solvers; FOLDER is the `tests` of a checkout of 0.1.1.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--theirs", type=Path)
    given, others = parser.parse_known_args(session.posargs)
    python = own_python(session)
    install_torch(session, python)
    install(session, python, "-e", ".[torchrl,stable-worldmodel,dev]")
    install(session, python, "gymnasium", "moviepy")
    pages = "tests/test_documentation.py"
    status = pytest(
        session,
        python,
        *("-m", "not compiled", "tests/adapters", pages, *others),
        env={"DIFFPLAN_ADAPTERS": "1"},
    )
    judge(session, status)
    if given.theirs is not None:
        script = "tests/adapters/stable_worldmodel_suite.py"
        run(session, python, script, str(given.theirs.resolve()))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting (ruff)."""
    session.install("-c", "constraints.txt", "ruff")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Check the type annotations (mypy)."""
    run(session, shared_environment(session), "-m", "mypy", *session.posargs)


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build; a warning is an error."""
    python = shared_environment(session, "docs")
    build = ("-m", "sphinx", "-q", "-E", "-W", "--keep-going")
    run(session, python, *build, "docs", "docs/_build")


@nox.session(venv_backend="none", default=False)
def bench(session: nox.Session) -> None:
    """Measure all but the GPU and write the page; `-- --quick` leaves results alone."""
    python = shared_environment(session)
    for requirements in sorted((ROOT / "benchmarks" / "peers").glob("*.txt")):
        fill_peer(session, requirements)
    page = ROOT / "benchmarks" / "report.py"
    scripts = {*page.parent.glob("[!_]*.py")} - {page, page.with_name("gpu.py")}
    for script in sorted(scripts):
        run(session, python, str(script), *session.posargs)
    run(session, python, str(page))


@nox.session(venv_backend="none", default=False)
def bench_gpu(session: nox.Session) -> None:
    """Measure what one GPU does in eight minutes; `-- --dry` runs on any machine."""
    python = shared_environment(session)
    environment = {"PYTHONPATH": str(ROOT), **WITHOUT_CHECKS}
    run(session, python, "benchmarks/gpu.py", *session.posargs, env=environment)


def reproduction(paper: str) -> Callable[[nox.Session], None]:
    """Return the session of a paper, a folder of `reproductions`."""

    def reproduce(session: nox.Session) -> None:
        python = shared_environment(session)
        run(session, python, "-m", f"reproductions.{paper}", *session.posargs)

    reproduce.__doc__ = f"Reproduce the paper in reproductions/{paper}; `-- --help`."
    return reproduce


for folder in sorted(each.parent for each in ROOT.glob("reproductions/*/paper.toml")):
    declare = nox.session(
        name=f"reproduce_{folder.name}", venv_backend="none", default=False
    )
    declare(reproduction(folder.name))


@nox.session(default=False)
def package(session: nox.Session) -> None:
    """Build wheel and sdist, check both, use both in empty environments.

    Outside of the tree, on the oldest and on the newest Python that is found.
    """
    shutil.rmtree(dist := ROOT / "dist", ignore_errors=True)
    session.install("-c", "constraints.txt", "build", "check-wheel-contents", "twine")
    session.run("python", "-m", "build", "--outdir", str(dist), silent=True)
    session.run("twine", "check", "--strict", f"{dist}/*")
    session.run("check-wheel-contents", str(dist))
    found, folder = list(filter(None, map(installed, CORE))), session.create_tmp()
    for base in dict.fromkeys((found[0], found[-1])):
        python = f"{folder}/empty/{PYTHON}"
        create = ("-m", "virtualenv", "--no-periodic-update", "--clear", "--python")
        run(session, sys.executable, *create, base, f"{folder}/empty")
        install_torch(session, python)
        for file in (*dist.glob("*.whl"), *dist.glob("*.tar.gz")):
            install(session, python, str(file))  # with what it depends on
            install(session, python, "--force-reinstall", "--no-deps", str(file))
            run(session, python, "-I", "-c", WHEEL_CHECK)


# Installing


def run(session: nox.Session, *command: str, **options: object) -> None:
    """Run a command that may live outside of the session's own environment."""
    session.run(*command, external=True, **options)


def run_tests(
    session: nox.Session, python: str, selection: str = DEFAULT_TESTS
) -> None:
    """Run the selected tests on two processes; arguments after `--` win.

    Without the shape checks, which take time and which torch.compile cannot see
    through: `tests_portable` has them.
    """
    arguments = ("-n", "2", "-m", selection, *session.posargs)  # the last -m counts
    judge(session, pytest(session, python, *arguments, env=WITHOUT_CHECKS))


def pytest(
    session: nox.Session, python: str, *arguments: str, env: Mapping[str, str]
) -> int:
    """Run pytest and return its exit status, so that another run can follow."""
    settings = "".join(f"{name}={value} " for name, value in env.items())
    session.log(f"{settings}pytest {shlex.join(arguments)}")
    command = (python, "-m", "pytest", *arguments)
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **env}).returncode


def judge(session: nox.Session, *statuses: int) -> None:
    """Fail if a run of pytest failed, or if none of them found a test."""
    if set(statuses) - {0, NOTHING_COLLECTED} or 0 not in statuses:
        session.error(f"pytest ended with {', '.join(map(str, statuses))}")


def own_python(session: nox.Session) -> str:
    """Return the Python of the session's own environment."""
    return str(Path(session.bin) / "python")


def interpreter(session: nox.Session) -> tuple[str, str]:
    """Return a supported Python, first the one that runs nox, and its version."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if running in SUPPORTED:
        return sys.executable, running
    for version in SUPPORTED:
        if path := installed(version):
            return path, version
    return session.error(
        f"the simulators need Python {' or '.join(SUPPORTED)}, and this is {running}. "
        f"Let uv bring one: uvx --python 3.12 nox -s {session.name}"
    )


def installed(version: str) -> str | None:
    """Return the interpreter of a version, if there is one."""
    path = shutil.which(f"python{version}")
    # A version manager's shim can be on the path and still refuse to run.
    works = path and subprocess.run([path, "-V"], capture_output=True).returncode == 0
    return path if works else None


def shared_environment(session: nox.Session, *extras: str) -> str:
    """Return the Python of the environment that the sessions share."""
    base, version = interpreter(session)
    folder = ROOT / ".nox" / f"shared-{version}"
    python = folder / PYTHON
    if not python.exists():
        create = (sys.executable, "-m", "virtualenv", "--no-periodic-update")
        run(session, *create, "--python", base, str(folder), silent=True)
    fill(session, str(python), folder, extras)
    return str(python)


def fill(
    session: nox.Session, python: str, folder: Path, extras: Sequence[str] = ()
) -> None:
    """Install diffplan, simulators, tools and Theseus, unless that is done."""
    wanted = ",".join(("suite", "cvx", "ray", "slurm", "tune", "dev", *extras))
    sources = ("pyproject.toml", "constraints.txt", "noxfile.py")
    content = b"".join((ROOT / name).read_bytes() for name in sources)
    digest = hashlib.sha256(content + str(ROOT).encode()).hexdigest()
    stamp = folder / f"diffplan-{wanted}.stamp"
    if stamp.exists() and stamp.read_text() == digest:
        return
    session.log(f"Installing diffplan[{wanted}] and Theseus: a few minutes, once")
    install_torch(session, python)
    install(session, python, "-e", f".[{wanted}]")
    install_theseus(session, python)
    stamp.write_text(digest)


def fill_peer(session: nox.Session, requirements: Path) -> None:
    """Fill the virtual environment of one peer of the benchmarks, unless that is done.

    Peers pin what diffplan does not, so each lives alone. One that cannot be installed
    stops nothing: the benchmark reports it as missing.
    """
    base, _ = interpreter(session)
    folder = ROOT / ".nox" / "peers" / requirements.stem
    python, stamp = folder / PYTHON, folder / "requirements.stamp"
    if stamp.exists() and stamp.read_text() == requirements.read_text():
        return
    create = (sys.executable, "-m", "virtualenv", "--no-periodic-update")
    run(session, *create, "--clear", "--python", base, str(folder), silent=True)
    install_torch(session, str(python))
    try:
        if requirements.stem == "theseus":
            install(session, str(python), pinned("torch"))
            install_theseus(session, str(python))
        else:
            # Without constraints.txt, whose numpy a peer may not accept.
            pip = (str(python), "-m", "pip", "install", "--quiet")
            run(session, *pip, pinned("torch"), "-r", str(requirements))
    except CommandFailed:
        session.warn(f"{requirements.stem}: not installed, left out of the benchmark")
        return
    stamp.write_text(requirements.read_text())


def pinned(package: str) -> str:
    """Return the requirement of a package as `constraints.txt` has it."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{package}=="))


def install(session: nox.Session, python: str, *what: str, **options: object) -> None:
    """Run pip with the known-good versions."""
    pip = ("-m", "pip", "install", "--quiet", "-c", "constraints.txt")
    run(session, python, *pip, *what, **options)


def install_torch(session: nox.Session, python: str) -> None:
    """Install the CPU build of torch on a Linux machine without an NVIDIA GPU.

    There PyPI's torch is a CUDA build of several gigabytes. The CPU build lives on
    PyTorch's own index. Where that cannot be reached, or has no fitting build, nothing
    is installed here, and the steps that follow take torch from the default index.
    """
    driver = shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists()
    if sys.platform != "linux" or driver:
        return
    index = ("--index-url", TORCH_CPU_INDEX, "--retries", "0", "--timeout", "10")
    command = (python, "-m", "pip", "index", "versions", "torch")
    try:
        # A time limit of our own: pip's counts for each address it tries.
        subprocess.run((*command, *index), timeout=30, check=True, capture_output=True)
    except (subprocess.SubprocessError, OSError):
        session.log(f"{TORCH_CPU_INDEX} gives no torch: taking the default index")
        return
    # --no-deps: that index lacks, or has old copies of, what torch depends on.
    install(
        session, python, "--no-deps", *index, "torch", success_codes=[0, 1], silent=True
    )


def install_theseus(session: nox.Session, python: str) -> None:
    """Install Theseus without the C library that its plain install asks for.

    theseus-ai is a source package that imports torch while it builds. It declares
    scikit-sparse, which compiles only against SuiteSparse's headers and which diffplan
    does not use: the dependencies that it does use are named here instead.
    """
    install(session, python, "setuptools", "wheel")
    plain = {"THESEUS_FORCE_CUDA": "0"}  # else it compiles kernels where a GPU is found
    build = ("--no-deps", "--no-build-isolation")
    install(session, python, *build, *THESEUS, env=plain)
    install(session, python, *THESEUS_NEEDS)
