"""The style of all figures: sheets that notebooks show, texts that fit, numbers with equally many decimals."""

import functools
import io
import math
import re
from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

TITLE, LABEL, SMALL = 10, 8, 6.5  # points
POSITIVE, NEGATIVE = "tab:red", "tab:blue"
_MARGIN = 0.15  # inches
_SLACK = 1.05  # rendered text is up to this much wider than its outlines


class Sheet(Figure):
    """A sheet is a figure with a title and a note that wrap to its width; notebooks show it without a plotting backend.

    width: the width of the figure in inches, at least 3.6. height: the height in inches between title and note. The
    figure is higher by the lines of title and note, also if the title is set later.
    """

    def __init__(self, width: float, height: float, title: str = "", note: str = "", layout: Any = None) -> None:
        width = max(width, 3.6)
        note = wrap(plain(note), width - 2 * _MARGIN, SMALL)
        self._above = _MARGIN
        self._title: Text | None = None
        self._panels: list[tuple[Axes, float, float, float, float]] = []
        below = (line_height(SMALL) * (1 + note.count("\n")) if note else 0.0) + _MARGIN
        super().__init__(figsize=(width, height + self._above + below), layout=layout)
        self._note = self.supxlabel(note, fontsize=SMALL, color="0.35") if note else None
        if title:
            self.suptitle(plain(title))
        else:
            self._arrange()

    def suptitle(self, t: str, **options: Any) -> Text:
        """Set the title, wrapped to the width of the figure; the figure grows by the lines of the title."""
        width, height = self.get_size_inches()
        text = wrap(t, width - 2 * _MARGIN, options.get("fontsize", TITLE))
        made = self._title = super().suptitle(text, **{"fontsize": TITLE, **options})
        above = (line_height(TITLE) * (1 + text.count("\n")) if text else 0.0) + _MARGIN
        self.set_size_inches(width, height - self._above + above)
        self._above = above
        self._arrange()
        return made

    def panel(self, left: float, top: float, width: float, height: float) -> Axes:
        """Return new axes; all four numbers are in inches, and `top` is the distance from the title."""
        axes = self.add_axes((0, 0, 1, 1))
        self._panels.append((axes, left, top, width, height))
        self._place(*self._panels[-1])
        return axes

    def _place(self, axes: Axes, left: float, top: float, width: float, height: float) -> None:
        full_width, full_height = self.get_size_inches()
        bottom = full_height - self._above - top - height
        axes.set_position((left / full_width, bottom / full_height, width / full_width, height / full_height))

    def _arrange(self) -> None:
        """Place title, note and panels, unless the figure has a layout engine, which places them."""
        if self.get_layout_engine() is not None:
            return
        height = self.get_size_inches()[1]
        if self._title is not None:
            self._title.set(y=1 - 0.6 * _MARGIN / height, va="top")
        if self._note is not None:
            self._note.set(y=0.5 * _MARGIN / height, va="bottom")
        for placed in self._panels:
            self._place(*placed)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


def line_height(size: float) -> float:
    """Return the height in inches of a line of text."""
    return 1.25 * size / 72


@functools.lru_cache(maxsize=10_000)
def measure(text: str, size: float) -> float:
    """Return the width in inches of the widest line of a text."""
    font = FontProperties(size=size)
    lines = text.replace(r"\$", "$").split("\n")
    return _SLACK * max(text_to_path.get_text_width_height_descent(line, font, False)[0] for line in lines) / 72


def plain(text: str) -> str:
    """Return a text with escaped dollar signs, because matplotlib would read them as mathematics."""
    return text.replace("$", r"\$")


def visible(name: str) -> str:
    """Return the name of an input or output, such as a token, with visible line breaks, tabs and outer spaces."""
    name = name.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    inner = name.strip(" ")
    before = len(name) - len(name.lstrip(" ")) if inner else len(name)
    return "␣" * before + inner + "␣" * (len(name) - before - len(inner))


def readable(name: str) -> str:
    """Return a `visible` name for matplotlib."""
    return plain(visible(name))


def wrap(text: str, width: float, size: float, lines: int = 1000) -> str:
    """Break a text into lines of at most `width` inches, at spaces or within words.

    lines: the largest number of lines; "…" at the end of the last one stands for the rest of the text.
    """
    rows: list[str] = []
    for paragraph in text.split("\n"):
        row = ""
        for piece in re.findall(r"[^\s_/-]+[\s_/-]*|[\s_/-]+", paragraph):
            if row and measure((row + piece).rstrip(), size) > width:
                rows.append(row.rstrip())
                row = ""
            while len(piece) > 1 and measure((row + piece).rstrip(), size) > width:
                cut = next((n for n in range(len(piece) - 1, 1, -1) if measure(piece[:n], size) <= width), 1)
                rows.append(piece[:cut])
                piece = piece[cut:]
            row += piece
        rows.append(row.rstrip())
    if len(rows) > lines:
        last = rows[lines - 1]
        while last and measure(f"{last}…", size) > width:
            last = last[:-1]
        rows = [*rows[: lines - 1], f"{last}…"]
    return "\n".join(rows)


def fitted(names: Iterable[str], width: float, size: float, lines: int) -> tuple[list[str], float, float]:
    """Return one label per name, the width of the widest label and the height of the highest label, in inches.

    width: the largest width of a label in inches. lines: the largest number of lines of a label. Labels of different
    names differ: if two names would be cut to the same label, their numbers are put in front.
    """
    names = [readable(name) for name in names]
    labels = [wrap(name, width, size, lines) for name in names]
    seen: dict[str, set[str]] = {}
    for name, label in zip(names, labels, strict=True):
        seen.setdefault(label, set()).add(name)
    labels = [
        wrap(f"{number}: {name}", width, size, lines) if len(seen[label]) > 1 else label
        for number, (name, label) in enumerate(zip(names, labels, strict=True))
    ]
    height = line_height(size) * (1 + max(label.count("\n") for label in labels))
    return labels, max(measure(label, size) for label in labels), height


def numbers(values: Iterable[float], digits: int = 3) -> list[str]:
    """Return signed numbers with equally many decimals, as texts; the largest number has `digits` digits."""
    values = list(values)
    largest = max((abs(value) for value in values), default=0.0)
    power = math.floor(math.log10(largest)) if largest and math.isfinite(largest) else 0
    if -3 <= power <= 4:
        texts = [f"{value:+.{max(0, digits - 1 - power)}f}" for value in values]
    else:
        texts = [f"{value:+.{digits - 1}e}" for value in values]
    return [text if float(text) else text[1:] for text in texts]  # no sign for zero


def signs(values: Iterable[float]) -> list[str]:
    """Return the colours of bars: red for positive, blue for negative."""
    return [POSITIVE if value > 0 else NEGATIVE for value in values]


def bare(axes: Axes) -> None:
    """Remove the frame and the ticks of the axes."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def legend(axes: Axes, title: str | None = None) -> None:
    """Put a legend into the axes, or below the figure if it would cover much of them."""
    figure = axes.figure
    shown, labels = axes.get_legend_handles_labels()
    if not labels or not isinstance(figure, Figure):
        return
    width, height = figure.get_size_inches()
    room = axes.get_position().width * width, axes.get_position().height * height
    widest = max(measure(plain(label), LABEL) for label in labels) + 0.6
    rows = len(labels) + (title is not None)
    if widest <= 0.5 * room[0] and line_height(LABEL) * rows <= 0.5 * room[1]:
        axes.legend(
            shown, [plain(label) for label in labels], title=title, fontsize=LABEL, title_fontsize=LABEL, loc="best"
        )
        return
    columns = max(1, min(len(labels), int((width - 2 * _MARGIN) / widest)))
    texts = [wrap(plain(label), width - 1.2, LABEL, 3) for label in labels]
    lines = math.ceil(len(texts) / columns) * (1 + max(text.count("\n") for text in texts)) + (title is not None)
    figure.set_size_inches(width, height + line_height(LABEL) * 1.15 * lines + 0.2)
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns}
    figure.legend(shown, texts, title=title, fontsize=LABEL, title_fontsize=LABEL, **place)
