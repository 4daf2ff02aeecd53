"""The documentation tells the truth: its code runs, and no module is missing."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "diffplan").rglob("*.py"))
    if path.name != "__init__.py"
]
# Files that only load with an optional package are not imported here.
IMPORTABLE = [
    name
    for name in MODULES
    if not re.search(r"\.(envs|adapters)\.|theseus|sweep", name)
]


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if CODE.search(page.read_text(encoding="utf-8"))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_code_on_the_page_runs(page: Path) -> None:
    # One page is one program: later blocks use the names of earlier ones.
    names: dict[str, object] = {"__name__": "page"}
    for code in CODE.findall(page.read_text(encoding="utf-8")):
        exec(compile(code, page.name, "exec"), names)


class Finder(doctest.DocTestFinder):
    """Also finds functions that the type-check hook has wrapped."""

    def _from_module(self, module: object, object: object) -> bool:
        return getattr(object, "__module__", None) == module.__name__


@pytest.mark.parametrize("name", IMPORTABLE)
def test_examples_in_docstrings_are_right(name: str) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for example in Finder().find(module, name):
        runner.run(example)
    assert runner.failures == 0


def test_every_module_is_in_the_reference() -> None:
    reference = (ROOT / "docs" / "reference").glob("*.md")
    listed = set(re.findall(r"automodule:: (\S+)", "".join(map(_read, reference))))
    public = {name for name in MODULES if "._" not in name and name != "diffplan.cli"}
    assert public - listed == set()


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
