"""What a registry shows of the README, where links relative to the repository are dead.

The release workflow says in `DIFFPLAN_REPOSITORY` where the repository is: links become
absolute there, and the package gets its project URLs. Without it, links become text.
"""

import os
import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


def for_registry(text: str, repository: str) -> str:
    """Return a page of Markdown with links that work anywhere.

    Args:
        text: With links relative to the root of the repository.
        repository: Its address on GitHub; empty if it has none.
    """

    def absolute(match: re.Match[str]) -> str:
        image, label, path = match.groups()
        if not repository:
            return "" if image else label
        kind = "raw" if image else "blob"
        return f"{image}[{label}]({repository}/{kind}/HEAD/{path})"

    return _LINK.sub(absolute, text)


class RegistryPage(MetadataHookInterface):
    """Fills in `readme` and `urls`."""

    def update(self, metadata: dict[str, object]) -> None:
        """Set both, see above."""
        repository = os.environ.get("DIFFPLAN_REPOSITORY", "").rstrip("/")
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        page = for_registry(text, repository)
        metadata["readme"] = {"content-type": "text/markdown", "text": page}
        metadata["urls"] = {}
        if repository:
            metadata["urls"] = {
                "Source": repository,
                "Documentation": f"{repository}/blob/HEAD/docs/index.md",
                "Changelog": f"{repository}/blob/HEAD/CHANGELOG.md",
                "Issues": f"{repository}/issues",
            }
