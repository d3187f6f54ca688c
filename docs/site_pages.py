"""Hook of mkdocs: pages of the site that lie outside of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]

#: Pages by their names on the site.
PAGES = {
    "index.md": ROOT / "README.md",
    "leaderboard.md": ROOT / "leaderboard.md",
    "benchmarks.md": ROOT / "benchmarks" / "README.md",
}

#: Where links between the two places lead: on the site all pages lie in one folder.
LINKS = {
    "](../leaderboard.md)": "](leaderboard.md)",
    "](../benchmarks/README.md)": "](benchmarks.md)",
    "](benchmarks/README.md)": "](benchmarks.md)",
    "](docs/": "](",
}

#: Files that the site has not: their links lead to the repository.
ELSEWHERE = ("CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    for name, path in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links to where things are on the site."""
    for link, target in LINKS.items():
        markdown = markdown.replace(link, target)
    for name in ELSEWHERE:
        markdown = markdown.replace(f"]({name})", f"]({config.repo_url}blob/main/{name})")
    return markdown
