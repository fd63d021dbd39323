"""The Python blocks of the pages that users copy from.

A block needs nothing but the installed package, unless the line before it is `<!-- needs a checkout -->`.
"""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(<!-- needs a checkout -->\n+)?```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


class Snippet(NamedTuple):
    name: str  # the page and the line that the block starts in
    code: str
    needs_checkout: bool


def snippets(text: str, page: str) -> list[Snippet]:
    return [
        Snippet(f"{page}:{text.count(chr(10), 0, block.start(2))}", block[2], block[1] is not None)
        for block in BLOCK.finditer(text)
    ]


SNIPPETS = [
    snippet for page in PAGES for snippet in snippets(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT)))
]
