"""The sources of a target on one prompt: active features, errors, the input and biases, at given patterns and norms."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tensornet_interp.attention import AttentionLayer
from tensornet_interp.graphs.arrivals import Reader, Setting
from tensornet_interp.graphs.averaged import pre_activation
from tensornet_interp.graphs.places import Place, Places, Trace, place_name, share_explained
from tensornet_interp.graphs.pruning import Atom, Sources


@dataclass(frozen=True, eq=False)
class Given:
    """A prompt, with the codes of all dictionaries and what they leave over."""

    setting: Setting
    trace: Trace
    codes: dict[Place, Tensor]  # (position, feature)
    errors: dict[Place, Tensor]  # (position, in), of the vectors that the features write
    explained: dict[str, float]

    @classmethod
    def of(cls, places: Places, x: Tensor) -> "Given":
        """Run the prompt x (position, in) once, and encode it at all places."""
        trace = Trace.of(places.network, x)
        scales = tuple(None if part.norm is None else part.norm.scale for part in trace.frozen)
        patterns = tuple(
            part.map.mask.expand(part.map.heads, -1, -1) if isinstance(part.map, AttentionLayer) else None
            for part in trace.frozen
        )
        codes, errors, explained = dict[Place, Tensor](), dict[Place, Tensor](), dict[str, float]()
        for place, dictionary in places.dictionaries.items():
            codes[place] = dictionary.encode(trace.vectors(place))
            target = trace.vectors(place if dictionary.point_out is None else (place[0], "out"))
            errors[place] = target - dictionary.decode(codes[place])
            left = (
                errors[place] if dictionary.skip is None else errors[place] - trace.vectors(place) @ dictionary.skip.T
            )
            spread = (target - target.mean(0)).square().sum()
            explained[place_name(place)] = float(share_explained(left.square().sum(), spread, target.square().sum()))
        return cls(Setting(places, scales, patterns), trace, codes, errors, explained)

    def start(self, position: int) -> Tensor:
        """Return the weights of the reader's own position."""
        weights = torch.zeros_like(self.trace.streams[0][:, 0])
        weights[position] = 1
        return weights

    def activation(self, place: Place, feature: int, position: int) -> float:
        """Return the activation of a feature at a position."""
        return float(self.codes[place][position, feature])

    def end(self, atom: Atom, position: int) -> tuple[int, int]:
        """Return the position of the node of an atom, and the offset from its target."""
        return atom.position, atom.position - position

    def sources(self, reader: Reader, position: int, hops: int, sources: Sources) -> dict[str, Tensor]:
        """Add the active features that reach a reader at a position, and return the rows of what is no feature."""
        others = {"bias": reader.constant}
        dictionaries, features = self.setting.places.dictionaries, []
        for arrival in reader.arrivals(self.setting, self.start(position), hops):
            if arrival.kind == "bias":
                others["bias"] = others["bias"] + arrival.covector
                continue
            part, side = arrival.place
            if arrival.kind != "feature":
                vectors = self.trace.streams[0] if arrival.kind == "input" else self.trace.written(part)
                name = f"{arrival.kind} {part} {side}"
            else:
                vectors, name = self.errors[arrival.place], f"error {part} {side}"
                bias = dictionaries[arrival.place].decoder_bias
                if bias is not None:
                    others["bias"] = others["bias"] + arrival.weights.sum() * (arrival.covector @ bias)
                features.append(arrival)
            others[name] = others.get(name, 0.0) + arrival.covector @ (arrival.weights @ vectors)
        constant = torch.stack(list(others.values())).sum(0)
        for arrival in features:
            codes = self.codes[arrival.place]
            at, feature = ((codes != 0) & (arrival.weights != 0)[:, None]).nonzero(as_tuple=True)
            rows = dictionaries[arrival.place].decoder[:, feature].T @ arrival.covector.T
            amounts = codes[at, feature]
            rows = rows * arrival.weights[at, None]
            sources.add(arrival.place, arrival.path, rows, feature, at, amounts, amounts.abs(), constant)
            sources.active += len(rows)
        return others

    def value(self, reader: Reader, place: Place, feature: int, position: int) -> float:
        """Return the pre-activation of a feature of a dictionary, or the output along a direction, as computed."""
        return float(pre_activation(self.setting.places, self.trace, reader, place, feature)[position])
