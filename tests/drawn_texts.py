"""Which texts of a drawn figure are cut off by its edge, and which lie over each other."""

from itertools import combinations
from unittest import mock

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

TOUCH = 1.0  # pixels: rounding of the places of letters, at 100 dots per inch


def drawn_texts(figure):
    """(text, box in pixels) of every text that is drawn, also those of ticks."""
    drawn, draw = [], Text.draw

    def record(text, renderer):
        if text.get_visible() and text.get_text().strip():
            drawn.append((text.get_text(), text.get_window_extent(renderer)))
        draw(text, renderer)

    canvas = FigureCanvasAgg(figure)
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # it places the texts
    with mock.patch.object(Text, "draw", record):
        canvas.draw()
    return drawn


def cut_off(figure, texts):
    """Texts that leave the canvas."""
    edge = figure.bbox
    return [
        text
        for text, box in texts
        if box.x0 < edge.x0 - TOUCH or box.y0 < edge.y0 - TOUCH or box.x1 > edge.x1 + TOUCH or box.y1 > edge.y1 + TOUCH
    ]


def overlapping(texts):
    """Pairs of texts that lie over each other."""
    return [
        (one, other)
        for (one, a), (other, b) in combinations(texts, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > TOUCH and min(a.y1, b.y1) - max(a.y0, b.y0) > TOUCH
    ]
