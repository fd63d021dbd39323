"""Max-activating examples: the places in a text where the features of a dictionary are strongest, as text or HTML."""

import html
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.transformer import Transformer
from models.vectors import vectors_at
from tensornet_interp.checks import check_int
from tensornet_interp.features import Dictionary, Strongest, strongest_windows

Piece = Callable[[int], str]  # token -> its text


class Context(NamedTuple):
    """A `Context` is a stretch of text around the peak of a feature."""

    window: int
    peak: int  # index into `tokens`
    tokens: tuple[int, ...]
    activations: tuple[float, ...]


@torch.no_grad()
def strongest(
    dictionary: Dictionary,
    model: Transformer,
    layer: int,
    point: str,
    windows: Tensor,
    *,
    n: int = 10,
    at_once: int = 16,
) -> Strongest:
    """Return for each feature the n windows with the largest peak of its activation.

    `windows` is (window, position); see `strongest_windows`, which searches `at_once` windows at a time. Raises
    ValueError if n is larger than the number of windows. Cost: the model up to the layer, the encoder, and the search.
    """
    check_int("n", n, 1, len(windows), f"there are {len(windows)} windows")
    chunks = vectors_at(model, windows, layer, point, at_once=at_once)
    return strongest_windows((dictionary.encode(x) for x in chunks), n)


@torch.no_grad()
def contexts(
    dictionary: Dictionary,
    model: Transformer,
    layer: int,
    point: str,
    windows: Tensor,
    found: Strongest,
    features: Sequence[int],
    *,
    before: int = 12,
    after: int = 6,
    at_once: int = 16,
) -> dict[int, list[Context]]:
    """Return for each of `features` the text around its peaks in `found`, strongest first, with the activations.

    `before` and `after` are the numbers of tokens on either side of the peak. There are fewer at the ends of a window.
    Windows in which the feature does not fire are left out.
    Cost: the model up to the layer, on the windows that are shown.
    """
    for feature in features:
        check_int("features", feature, 0, dictionary.features - 1)
    wanted = {feature: found.peaks(feature) for feature in features}
    needed = sorted({window for places in wanted.values() for window, _ in places})
    by_window: dict[int, list[int]] = {}
    for feature, places in wanted.items():
        for window, _ in places:
            by_window.setdefault(window, []).append(feature)
    lines: dict[tuple[int, int], list[float]] = {}  # (window, feature) -> activations of its positions
    if needed:
        rows = windows[torch.tensor(needed, device=windows.device)]
        fresh = iter(needed)
        for x in vectors_at(model, rows, layer, point, at_once=at_once):
            for codes, window in zip(dictionary.encode(x), fresh, strict=False):  # (position, feature)
                for feature in by_window[window]:
                    lines[window, feature] = codes[:, feature].tolist()
    made: dict[int, list[Context]] = {}
    for feature, places in wanted.items():
        made[feature] = []
        for window, position in places:
            first, last = max(0, position - before), position + after + 1
            tokens = tuple(windows[window, first:last].tolist())
            made[feature].append(Context(window, position - first, tokens, tuple(lines[window, feature][first:last])))
    return made


def peak_tokens(found: Strongest, windows: Tensor, feature: int) -> list[int]:
    """Return the tokens on which a feature peaks, strongest first."""
    return [int(windows[window, position]) for window, position in found.peaks(feature)]


def as_text(examples: Sequence[Context], piece: Piece, *, color: bool = False) -> str:
    """Return one line per context: the activation at the peak, then the text with its active tokens in [brackets].

    With `color`, active tokens are shaded for a terminal instead.
    """
    top = max((max(example.activations) for example in examples), default=0.0)
    lines = []
    for example in examples:
        parts = []
        for token, value in zip(example.tokens, example.activations, strict=True):
            text = _line(piece(token))
            if value <= 0:
                parts.append(text)
            elif color:  # black on shades of red of the 256 colours, from pale to full
                shade = (224, 217, 210, 203, 196)[min(4, int(5 * value / top))]
                parts.append(f"\x1b[48;5;{shade}m\x1b[30m{text}\x1b[0m")
            else:
                space = text[: len(text) - len(text.lstrip())]
                parts.append(f"{space}[{text.lstrip()}]")
        lines.append(f"{example.activations[example.peak]:>8.3g}  {''.join(parts)}")
    return "\n".join(lines)


def as_html(title: str, sections: Mapping[str, Sequence[Context]], piece: Piece) -> str:
    """Return one self-contained HTML page with a section per feature and tokens shaded by activation.

    The shade is the activation divided by the largest one of the section. Moving the mouse over a token shows its
    activation. Titles and tokens are escaped.
    """
    body = []
    for name, examples in sections.items():
        top = max((max(example.activations) for example in examples), default=0.0)
        rows = []
        for example in examples:
            marked = []
            for token, value in zip(example.tokens, example.activations, strict=True):
                text = html.escape(_line(piece(token)))
                if value > 0:
                    shade = f"background:rgba(214,39,40,{0.1 + 0.8 * value / top:.2f})"
                    text = f'<span style="{shade}" title="{value:.3g}">{text}</span>'
                marked.append(text)
            number = f"{example.activations[example.peak]:.3g}"
            rows.append(f'<tr><td class="n">{number}</td><td>{"".join(marked)}</td></tr>')
        body.append(f"<h2>{html.escape(name)}</h2>\n<table>\n" + "\n".join(rows) + "\n</table>")
    style = (
        "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
        "td{white-space:pre-wrap;vertical-align:top}td.n{color:#777;text-align:right;padding-right:1em}"
    )
    head = f'<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n<style>{style}</style>'
    parts = [f"<h1>{html.escape(title)}</h1>", *body]
    return "\n".join(
        ["<!doctype html>", '<html lang="en">', "<head>", head, "</head>", "<body>", *parts, "</body>", "</html>", ""]
    )


def _line(text: str) -> str:
    return text.replace("\n", "↵").replace("\r", "").replace("\t", " ").replace("\x1b", "␛")
