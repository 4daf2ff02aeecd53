"""Write the pages of the reference from the `__all__` of the library's modules.

A name is public when an `__all__` lists it. It is described once, in the deepest module
that lists it: `dp.CEM` under `diffplan.planners.sampling`. What no `__all__` lists has
an underscore, or lives in a module that has one, and is in no page.
"""

import ast
import importlib
import inspect
from pathlib import Path

ROOT = Path(__file__).parents[1]


def listed_names() -> dict[str, list[str]]:
    """Return the `__all__` of every module outside of underscored ones, by its name."""
    found = {}
    for path in sorted((ROOT / "diffplan").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if any(part.startswith("_") for part in parts):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == (
                "__all__"
            ):
                found[".".join(parts)] = ast.literal_eval(node.value)
    return found


def homes() -> dict[str, list[str]]:
    """Return by module the names that are described there, and nowhere else."""
    listed = listed_names()
    found = {}
    protocols = listed["diffplan.capabilities"]  # described there, whoever lists them
    for module, names in listed.items():
        if not module.endswith(".capabilities"):
            names = [name for name in names if name not in protocols]
        inside = [name for name in listed if name.startswith(module + ".")]
        deeper = {name for other in inside for name in listed[other]}
        modules = {name.removeprefix(module + ".").split(".")[0] for name in inside}
        own = [name for name in names if name not in deeper | modules]
        if own:
            found[module] = own
    return found


def write_pages(folder: Path) -> None:
    """Write one page per package, with a section for each of its modules."""
    pages: dict[str, list[str]] = {}
    for module, names in homes().items():
        page = module.split(".")[1] if module.count(".") else "diffplan"
        if not (ROOT / "diffplan" / page).is_dir():
            page = "diffplan"  # modules beside the packages, such as diffplan.errors
        pages.setdefault(page, []).append(_section(module, names))
    folder.mkdir(exist_ok=True)
    for page, sections in pages.items():
        title = page if page == "diffplan" else f"diffplan.{page}"
        text = "\n".join([f"# {title}\n", *sections])
        (folder / f"{page}.md").write_text(text, encoding="utf-8")


def _section(module: str, names: list[str]) -> str:
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    told = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    directives = [f".. currentmodule:: {module}"]
    try:
        found = importlib.import_module(module)
    except ImportError:  # an adapter without its package: Sphinx gets a stand-in
        found = None
    for name in names:
        value = getattr(found, name, None)
        kind = "class" if found is None or inspect.isclass(value) else "data"
        kind = "function" if inspect.isroutine(value) else kind
        directives.append(f".. auto{kind}:: {name}")
    listed = "\n\n".join(directives)
    first = told.split("\n\n")[0]
    return f"## `{module}`\n\n{first}\n\n```{{eval-rst}}\n{listed}\n```\n"
