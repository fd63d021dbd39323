"""Render a page: one HTML file with the sections, the figures as data, and the script that draws them."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensornet_interp.disk import replace_file
from tensornet_interp.optional import optional
from tensornet_interp.pages.figures import bokeh
from tensornet_interp.pages.parts import Figure, Section
from tensornet_interp.report import package_version

_FOLDER = Path(__file__).parent


def check_extra() -> None:
    """Raise ImportError, saying how to install them, if Jinja2 or Bokeh is missing."""
    _jinja(), _script()


def write_page(file: Path, title: str, sections: Sequence[Section], links: Sequence[tuple[str, str]] = ()) -> None:
    """Write a page in one step; if the process is killed, there is no incomplete page.

    links: the text and the file of links above the title. A page without figures does not have the script of Bokeh.
    """
    for section in sections:
        section.tables = [table for table in section.tables if table.rows]
    options = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    page = _jinja().Environment(autoescape=True, undefined=_jinja().StrictUndefined, **options)
    figures = [figure for section in sections for figure in _figures(section)]
    tables = [table for section in sections for table in section.tables]
    content = {
        "figures": [bokeh("embed").json_item(figure.model) for figure in figures],
        "tables": [
            {"columns": table.columns, "rows": table.rows} | ({"links": table.links} if table.links else {})
            for table in tables
        ],
    }
    text = page.from_string(_read("page.html.jinja2")).render(
        title=title,
        links=links,
        written_by=f"tensornet_interp {package_version()}",
        sections=sections,
        style=_read("page.css"),
        library=_script() if figures else "",
        script=_read("page.js"),
        content=json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"),
    )
    with replace_file(file) as opened:
        opened.write(text.encode(errors="replace"))  # half of a surrogate pair, as in a broken token, is no UTF-8


def _figures(section: Section) -> list[Figure]:
    """Return the figures of a section in the order in which the template shows them."""
    return [*section.figures, *(figure for group in section.groups for figure in group.figures)]


def _jinja() -> Any:
    return optional("jinja2", "for a report as a page", extra="report")


@functools.cache
def _script() -> str:
    """Return the script of Bokeh without the parts that no figure of a page needs."""
    (script,) = bokeh("resources").Resources(mode="inline", components=["bokeh"], log_level="error").js_raw[:1]
    return str(script).replace("</script", "<\\/script")


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
