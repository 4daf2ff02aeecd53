"""Write a page for each paper: each folder of `reproductions` with a `paper.toml`.

The page has what that file says about the paper, its deviations where its `README.md`
marks them, and the published results.
"""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAPERS = ROOT / "reproductions"
HEAD = """\
# {name}

*{title}*, {authors}, {venue}, [{url}]({url}).

```bash
nox -s reproduce_{folder}                      # the preset for a CPU
nox -s reproduce_{folder} -- preset=smoke      # does everything run?
nox -s reproduce_{folder} -- --help            # presets, stages, axes and settings
```

{about}

What is run and how it is measured stand in `reproductions/{folder}/README.md`.
"""
START, END = "<!-- deviations -->", "<!-- end of deviations -->"
DEVIATIONS = """
## Paper, code, and here

```{{include}} {readme}
:start-after: "{start}"
:end-before: "{end}"
```
"""
RESULTS = """
The rest of this page was written by the reproduction itself.

```{{include}} {results}
:heading-offset: 1
:relative-images:
```
"""
NO_RESULTS = "\nNo results are published yet.\n"


def write_pages(folder: Path, papers: Path = PAPERS) -> None:
    """Write a page for each paper, and remove those of papers that are gone."""
    pages = {each.parent.name: page(each) for each in papers.glob("*/paper.toml")}
    for path in folder.glob("*.md"):
        if path.stem != "index" and path.stem not in pages:
            path.unlink()
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


def page(facts: Path) -> str:
    """Return the page of the paper with this `paper.toml`."""
    place = f"../../reproductions/{facts.parent.name}"
    here, content = facts.parent, tomllib.loads(facts.read_text(encoding="utf-8"))
    readme, results = here / "README.md", here / "results" / "cpu" / "README.md"
    text = HEAD.format(folder=here.name, **content)
    if START in readme.read_text(encoding="utf-8"):
        text += DEVIATIONS.format(readme=f"{place}/README.md", start=START, end=END)
    there = f"{place}/results/cpu/README.md"
    return text + (RESULTS.format(results=there) if results.exists() else NO_RESULTS)
