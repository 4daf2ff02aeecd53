"""The README as a registry shows it: no link of it is dead there."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)]*)\)")


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import hatch_build.py, whose base class is there while a package is built."""
    name = "hatchling.metadata.plugin.interface"
    interface = ModuleType(name)
    interface.MetadataHookInterface = object
    monkeypatch.setitem(sys.modules, name, interface)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delitem(sys.modules, "hatch_build", raising=False)
    import hatch_build

    return hatch_build


def test_links_of_the_readme_lead_to_files() -> None:
    for link in LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")):
        if not link.startswith("https://"):
            assert (ROOT / link.split("#")[0]).exists(), link


def test_a_registry_gets_absolute_links_or_text(hook: ModuleType) -> None:
    page = "See [this page](docs/a.md#b), [that](https://c.org) and ![p](d/e.png)."
    assert hook.for_registry(page, "https://f.org/g") == (
        "See [this page](https://f.org/g/blob/HEAD/docs/a.md#b), [that](https://c.org) "
        "and ![p](https://f.org/g/raw/HEAD/d/e.png)."
    )
    assert hook.for_registry(page, "") == "See this page, [that](https://c.org) and ."
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for repository in ("", "https://f.org/g"):
        links = LINK.findall(hook.for_registry(readme, repository))
        assert links
        assert all(link.startswith("https://") for link in links)


def test_the_package_has_addresses_where_the_repository_has_one(
    hook: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = hook.RegistryPage()
    page.root = str(ROOT)
    for repository, count in (("", 0), ("https://f.org/g/", 4)):
        monkeypatch.setenv("DIFFPLAN_REPOSITORY", repository)
        metadata = {}
        page.update(metadata)
        assert len(metadata["urls"]) == count
        assert metadata["readme"]["content-type"] == "text/markdown"
        assert all(
            url.startswith("https://f.org/g") for url in metadata["urls"].values()
        )
    assert metadata["urls"]["Source"] == "https://f.org/g"
