"""The Python blocks of the pages that users copy from.

A block needs nothing but the installed package, unless the line before it is `<!-- needs a checkout -->` or names a
module of an extra, as `<!-- needs quimb -->`.
"""

import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(?:<!-- needs ([\w ]+) -->\n+)?```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


class Snippet(NamedTuple):
    name: str  # the page and the line that the block starts in
    code: str
    needs: str  # "", "a checkout" or a module

    @property
    def needs_checkout(self) -> bool:
        return self.needs == "a checkout"

    @property
    def runs(self) -> bool:
        """If this environment has the module that it needs."""
        return self.needs in ("", "a checkout") or importlib.util.find_spec(self.needs) is not None


def snippets(text: str, page: str) -> list[Snippet]:
    return [
        Snippet(f"{page}:{text.count(chr(10), 0, block.start(2))}", block[2], block[1] or "")
        for block in BLOCK.finditer(text)
    ]


SNIPPETS = [
    snippet for page in PAGES for snippet in snippets(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT)))
]
