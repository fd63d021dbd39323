"""Where the features of a dictionary fire on a text: counts, strongest windows, names, and examples to read."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tensornet_interp.features import Dictionary, Strongest, strongest_windows
from tensornet_interp.pages.parts import Piece

EXAMPLES = 10  # windows of a feature that are shown, and that name it
_BEFORE, _AFTER = 20, 8  # tokens around a peak
_LONGEST = 30  # characters of a name
_ELEMENTS = 2**24  # codes that are held at once
_MARKS = str.maketrans({"\n": "↵", "\r": "␍", "\t": " ", "\x1b": "␛", "\0": "␀"})

Text = Sequence[Sequence[str]]  # window, position


@dataclass(frozen=True, eq=False)
class Activity:
    """An activity holds what the features of a dictionary do on a text."""

    dictionary: Dictionary
    text: Text
    vectors: Callable[[Tensor], Tensor]  # the numbers of windows -> vectors (window, position, d)
    counts: Tensor  # (feature,): the tokens on which it is active
    found: Strongest
    codes: Tensor  # (token, kept feature)

    @classmethod
    def of(
        cls, dictionary: Dictionary, vectors: Callable[[Tensor], Tensor], text: Text, keep: Sequence[int] = ()
    ) -> "Activity":
        """Return the activity on a text; the codes of the features in `keep` are kept for all tokens."""
        counts = torch.zeros(dictionary.features, dtype=torch.int64, device=dictionary.encoder.device)
        kept: list[Tensor] = []

        def chunks() -> Iterator[Tensor]:
            numbers = torch.arange(len(text), device=counts.device)
            for part in numbers.split(max(1, _ELEMENTS // (len(text[0]) * dictionary.features))):
                codes = dictionary.encode(vectors(part))  # (window, position, feature)
                counts.add_((codes > 0).sum((0, 1)))
                kept.append(codes[..., list(keep)].flatten(0, 1))
                yield codes

        found = strongest_windows(chunks(), min(EXAMPLES, len(text)))
        return cls(dictionary, text, vectors, counts, found, torch.cat(kept))

    def names(self) -> list[str]:
        """Return one name per feature: its number, and the token on which its strongest peaks are most often."""
        return [f"{feature} {self._token(feature)}".strip() for feature in range(self.dictionary.features)]

    def _token(self, feature: int) -> str:
        tokens = [self.text[window][position] for window, position in self.found.peaks(feature)]
        name = Counter(tokens).most_common(1)[0][0].translate(_MARKS).strip() if tokens else ""
        return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"

    def examples(self, feature: int, count: int) -> list[tuple[str, list[Piece]]]:
        """Return the text around the strongest peaks of a feature, with the activation at the peak."""
        peaks = self.found.peaks(feature)[:count]
        if not peaks:
            return []
        numbers = torch.tensor([window for window, _ in peaks], device=self.counts.device)
        lines = self.dictionary.encode(self.vectors(numbers))[..., feature].tolist()  # (example, position)
        top = max(line[position] for line, (_, position) in zip(lines, peaks, strict=True))
        shown = []
        for line, (window, position) in zip(lines, peaks, strict=True):
            first, last = max(0, position - _BEFORE), position + _AFTER + 1
            pieces = [
                Piece(token.translate(_MARKS), f"{value:.3g}", round(value / top, 3) if value > 0 else None)
                for token, value in zip(self.text[window][first:last], line[first:last], strict=True)
            ]
            shown.append((f"{line[position]:.3g}", pieces))
        return shown
