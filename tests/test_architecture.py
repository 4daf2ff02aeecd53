"""The walls between the rooms of diffplan (who may import whom), and their size."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffplan._checks import missing

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "diffplan").rglob("*.py"))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES]

# Underscores are left out: `diffplan._files` is the room "files".
CORE = (
    *("border", "capabilities", "checked_model", "constraints", "one_line"),
    *("gradients", "plan", "problem", "segments", "user_functions"),
)
MATHS = (*CORE, "functional")
BASES = ("models.base", "objectives", "planners.base", "planners.request")

# For each room, what it may import of diffplan beside itself, errors and checks of
# arguments. Planners and models are siblings that never see each other; agents and
# trainers receive both.
ROOMS: dict[str, tuple[str, ...]] = {
    "errors": (),
    "checks": (),
    "kinds": ("shapes",),
    "shapes": (),
    "files": (),
    "outside": (),
    "one_line": (),
    "gradients": ("functional",),
    "plan": ("one_line",),
    "user_functions": (),
    "segments": (),
    "constraints": ("functional", "problem_data", "segments", "user_functions"),
    "capabilities": (),
    "border": ("constraints", "segments"),
    "checked_model": (
        *("capabilities", "functional", "one_line", "segments"),
        *("problem_data", "user_functions"),
    ),
    "problem_data": (),
    "problem": (
        *("constraints", "functional"),
        *("border", "capabilities", "checked_model", "problem_data"),
        "user_functions",
    ),
    "stochastic": (
        *("constraints", "functional"),
        *("capabilities", "checked_model", "problem", "segments", "user_functions"),
    ),
    "functional": ("shapes",),
    "solvers": MATHS,
    "objectives": (*MATHS, "problem_data"),
    "planners": (*MATHS, "solvers", "objectives"),
    "models": (*MATHS, "objectives", "files", "problem_data"),
    "agents": (*MATHS, *BASES),
    "envs": ("outside",),
    "training": (*MATHS, *BASES, "agents", "envs", "files", "outside"),
    "adapters": (*MATHS, *BASES, "agents", "envs"),
    "testing": (*MATHS, *BASES),
    # "": what `import diffplan` gives its users
    "runs": (
        *("", *MATHS, *BASES, "planners", "models"),
        *("agents", "envs", "files", "training", "colours"),
    ),
    "colours": (),
    "cli": (
        *("", "agents", "envs", "outside", "runs", "training"),
        *("colours", "files"),
    ),
    "main": ("cli",),
}

NEEDED = ("torch", "jaxtyping", "safetensors", "filelock")
"""Core dependencies; torch brings the last one."""

# For each package that is not a core dependency, the only places that may import it.
OPTIONAL: dict[str, tuple[str, ...]] = {
    "theseus": ("solvers._theseus_import",),
    "cvxpy": ("constraints.polytope",),
    "cvxpylayers": ("constraints.polytope",),
    "numpy": ("envs", "training", "adapters", "_runs"),
    "gymnasium": ("envs", "adapters.gymnasium", "training.minari", "_runs"),
    "minari": ("training.minari",),
    "mujoco": ("envs",),
    "dm_control": ("envs.dm_control",),
    "dm_env": ("envs.dm_control",),
    "metaworld": ("envs",),
    "matplotlib": ("_runs.figures",),
    "scipy": ("_runs.estimates",),
    "optuna": ("_runs.tuning",),
    "wandb": ("training.logging",),
    "trackio": ("training.logging",),
    "tensorboard": ("training.logging",),
    "torch.utils.tensorboard": ("training.logging",),
    "imageio": ("training.video", "_runs.figures"),
    "imageio_ffmpeg": ("training.video",),
    "rich": ("training.logging",),
    "triton": ("envs._rendering",),
    "torchrl": ("adapters.torchrl",),
    "tensordict": ("adapters.torchrl",),
}


each_file = pytest.mark.parametrize(
    ("path", "module"), list(zip(FILES, MODULES, strict=True)), ids=MODULES
)


@each_file
def test_imports_stay_inside_the_walls(path: Path, module: str) -> None:
    here = module.removeprefix("diffplan.")
    room = here.split(".")[0]
    wrong = [
        f"line {line}: {name}"
        for line, name in imports(path)
        if not allowed(name, here, room)
    ]
    assert not wrong, f"{module} may not import: {wrong}"


SMALL = [
    path
    for folder in ("diffplan", "reproductions", "benchmarks", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


@pytest.mark.parametrize(
    "path", SMALL, ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_files_and_functions_stay_small(path: Path) -> None:
    """How far a function branches, the linter counts."""
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, f"{path}: split this file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[bool(ast.get_docstring(node)) :]
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 60, f"{path}: split {node.name}"


def test_nothing_of_the_library_knows_the_reproductions() -> None:
    papers = ROOT / "reproductions"
    for path in FILES:
        assert not any(within(name, "reproductions") for _, name in imports(path)), path
    for path in papers.rglob("*.py"):
        own = path.relative_to(papers).parts[0]
        for _, name in imports(path):
            if within(name, "reproductions") and "." in name:
                assert name.split(".")[1] in (own, "common"), f"{path}: {name}"


def test_families_of_planners_do_not_know_each_other() -> None:
    """What they share lies beside them; a wrapper takes any planner by its base."""
    folder = ROOT / "diffplan" / "planners"
    families = {
        path.name for path in folder.iterdir() if (path / "__init__.py").exists()
    }
    assert families == {
        *("collocation", "gradient", "sampling", "second_order", "wrappers")
    }
    for path in folder.rglob("*.py"):
        if path == folder / "__init__.py":
            continue
        own = path.relative_to(folder).parts[0].removesuffix(".py")
        for line, name in imports(path):
            room = name.removeprefix("diffplan.planners.").split(".")[0]
            apart = room == own or room not in families
            assert apart, f"{path}:{line}: {name}"


def test_planners_are_called_and_not_solved() -> None:
    """Outside of the planners, `planner(problem, state)` is the only way in."""
    # Mathematics and solvers know no planner: what they solve are equations.
    own = [ROOT / "diffplan" / room for room in ("planners", "functional", "solvers")]
    paths = [path for path in FILES if not any(map(path.is_relative_to, own))]
    for folder in ("reproductions", "examples", "benchmarks"):
        paths += (ROOT / folder).rglob("*.py")
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                by_pass = node.func.attr == "solve" and bool(node.args or node.keywords)
                assert not by_pass, f"{path}:{node.lineno}: {ast.unparse(node)}"


def test_import_diffplan_loads_no_optional_package() -> None:
    # numpy is left out: torch loads it by itself where it is installed.
    unwanted = sorted(name for name in OPTIONAL if name != "numpy" and "." not in name)
    unwanted += ["torch._dynamo"]  # the compiler, which takes as long as all the rest
    code = f"import sys, diffplan; print([m for m in {unwanted} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rooms_that_need_more_are_imported_when_they_are_asked_for() -> None:
    code = """
import sys
sys.modules["numpy"] = None  # whoever imports it is told that it is missing
import diffplan as dp
print({"agents", "envs", "training"} <= set(dir(dp)), "diffplan.envs" in sys.modules)
print(dp.agents.Agent.__name__, dp.envs.make.__name__)
try:
    dp.training
except AttributeError as error:
    print(error)
sys.modules["gymnasium"] = None
try:
    dp.runs
except AttributeError as error:
    print(error)
del sys.modules["gymnasium"]
print(hasattr(dp, "nothing"), {"gymnasium", "mujoco"} & set(sys.modules))
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "True False",
        "Agent make",
        str(missing("diffplan.training needs numpy", "suite")),
        str(missing("diffplan.runs needs gymnasium", "suite")),
        "False set()",
    ]


def allowed(name: str, here: str, room: str) -> bool:
    if within(name, "diffplan"):
        inside = name.removeprefix("diffplan").removeprefix(".").removeprefix("_")
        room = room.strip("_")
        if here == "__init__":
            return True
        rooms = (
            "errors",
            *(() if room == "errors" else ("checks", "kinds")),
            *ROOMS[room],
        )
        return any(within(inside, other) for other in (room, *rooms))
    for package, places in OPTIONAL.items():
        if within(name, package):
            return any(within(here, place) for place in places)
    top = name.split(".")[0]
    return top in NEEDED or top in sys.stdlib_module_names


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of what a file imports, for type checkers only too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            # `from diffplan import planners` imports diffplan.planners.
            package = node.module or ""
            bare = package in ("diffplan", "torch.utils")
            names = [f"{package}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, name) for name in (names if bare else [package]))
