"""The documentation tells the truth: its code runs, and it describes what is public."""

import ast
import doctest
import importlib
import inspect
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
# `nox -s tests_adapters` has the packages that adapters need, and runs their pages and
# modules; everything else runs without them.
ADAPTERS = "DIFFPLAN_ADAPTERS" in os.environ
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if (page.parent.name == "adapters") == ADAPTERS
]
if ADAPTERS:
    importlib.import_module("import_stable_worldmodel")
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "diffplan").rglob("*.py"))
    if path.name != "__init__.py"
]
# Files that only load with an optional package are not imported here.
OPTIONAL = re.compile(r"\.envs\.|theseus")
IMPORTABLE = [
    name
    for name in MODULES
    if (".adapters." in name) == ADAPTERS and not OPTIONAL.search(name)
]

sys.path.insert(0, str(ROOT / "docs"))
import reference_pages  # noqa: E402


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if CODE.search(page.read_text(encoding="utf-8"))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_code_on_the_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One page is one program, and a module, whose classes can be pickled: later blocks
    # use the names of earlier ones.
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for code in CODE.findall(page.read_text(encoding="utf-8")):
        exec(compile(code, page.name, "exec"), vars(module))


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


def test_what_no_all_lists_is_behind_an_underscore() -> None:
    """A name is in an `__all__`, or has an underscore, or lives in such a module."""
    listed = reference_pages.listed_names()
    stray = []
    for name in MODULES:
        if "._" in name:
            continue
        parents = [name.rsplit(".", level)[0] for level in range(name.count(".") + 1)]
        allowed = {public for parent in parents for public in listed.get(parent, ())}
        tree = ast.parse(_read(ROOT / (name.replace(".", "/") + ".py")))
        for node in tree.body:
            stray += [f"{name}.{made}" for made in made_by(node) if made not in allowed]
    assert not stray


def test_the_reference_describes_what_is_public_and_nothing_else() -> None:
    described = [
        (name, public)
        for name, names in reference_pages.homes().items()
        for public in names
    ]
    listed = {
        public for names in reference_pages.listed_names().values() for public in names
    }
    packages = {path.parent.name for path in ROOT.glob("diffplan/*/__init__.py")}
    assert {public for _, public in described} == listed - packages - {"errors"}
    for name, public in described:
        if not OPTIONAL.search(name) and (".adapters." in name) == ADAPTERS:
            found = getattr(importlib.import_module(name), public)
            kind = inspect.isclass(found) or inspect.isroutine(found)
            told = inspect.getdoc(found) if kind else "a comment beside it"
            assert told, f"{name}.{public} has no docstring"


def test_pages_and_examples_use_what_is_public() -> None:
    # The scripts beside the pages, which draw their pictures, are ours.
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md")]
    scripts = [*ROOT.glob("examples/**/*.py"), *ROOT.glob("docs/tutorials/*.py")]
    private = re.compile(r"(?:from|import) diffplan\S*\._\w|\bdp(?:\.\w+)*\._\w")
    found = {
        str(path.relative_to(ROOT)): private.findall(_read(path))
        for path in (*pages, *scripts)
    }
    assert not {path: names for path, names in found.items() if names}


def made_by(node: ast.stmt) -> list[str]:
    """Names without an underscore that a statement of a module defines."""
    names = []
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        names = [node.name]
    elif isinstance(node, ast.Assign):
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        names = [node.target.id]
    return [name for name in names if not name.startswith("_")]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


OUTSIDE = [*ROOT.glob("*.md"), *ROOT.glob("reproductions/**/*.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", OUTSIDE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_outside_of_the_site_lead_somewhere(page: Path) -> None:
    """Those of the site itself Sphinx checks."""
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link:
            assert re.fullmatch(r"https://[\w.-]+\.\w+(/\S*)?", link), link
        else:
            assert (page.parent / link.partition("#")[0]).exists(), link
