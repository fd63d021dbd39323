"""How is the notebook made? From a script: comments become text, and the code between them becomes cells.

It reads `examples/notebooks/first_hour.py` and writes `examples/notebooks/first_hour.ipynb` without outputs. With
`--out FILE` it writes there, and with `--execute` it runs the cells first, so that the file holds figures and tables.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from tensornet_interp.optional import optional

FOLDER = Path(__file__).parent / "notebooks"
SOURCE = FOLDER / "first_hour.py"


def main(argv: list[str] | None = None) -> None:
    """Write the notebook."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--execute", action="store_true", help="run the cells and keep what they show")
    parser.add_argument("--out", default=str(SOURCE.with_suffix(".ipynb")))
    options = parser.parse_args(argv)
    nbformat = optional("nbformat", "to write notebooks", "notebook")
    book = notebook(SOURCE.read_text(encoding="utf-8"))
    if options.execute:
        book = executed(book)
    nbformat.validate(book)
    Path(options.out).write_text(nbformat.writes(book) + "\n", encoding="utf-8")
    print(f"{options.out}: {len(book.cells)} cells")


def notebook(text: str) -> Any:
    """Return the notebook of a script whose cells begin with `# %%`, those of text with `# %% [markdown]`."""
    v4 = optional("nbformat.v4", "to write notebooks", "notebook")
    cells = []
    for number, part in enumerate(re.split(r"^# %%", text, flags=re.MULTILINE)[1:]):
        kind, _, body = part.partition("\n")
        if kind.strip() == "[markdown]":
            cell = v4.new_markdown_cell(re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE))
        else:
            cell = v4.new_code_cell(body.strip())
        cell["id"] = f"cell-{number}"  # the same for the same script
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def executed(book: Any) -> Any:
    """Return the notebook with the outputs of its cells; they run in the folder of the checkout."""
    client = optional("nbclient", "to run notebooks", "notebook")
    optional("ipykernel", "to run notebooks", "notebook")
    return client.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(FOLDER.parents[1])}}).execute()


if __name__ == "__main__":
    main()
