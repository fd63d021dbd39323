"""The arguments of `feature_graph`: seeds, texts, and whether the graph fits."""

from collections.abc import Sequence

from torch import Tensor

from tensornet_interp.attention import AttentionLayer, SequenceNetwork
from tensornet_interp.attention.sequence import array_of, part_sizes
from tensornet_interp.checks import check_alike, check_int, check_size, check_tensor
from tensornet_interp.graphs.arrivals import Reader, direction_reader, feature_reader
from tensornet_interp.graphs.averaged import Averaged
from tensornet_interp.graphs.given import Given
from tensornet_interp.graphs.places import Place, Places, check_place_of

Key = tuple[str, int, str, int, int]  # kind, part, place, feature, position
_FEATURES = 8192  # features whose rows are formed at once
_EDGE = 60  # numbers of 8 bytes that an edge takes


def seeds_of(places: Places, seed: object) -> list[tuple[Place, int] | Tensor]:
    """Return the seeds: a place and a feature, -1 for all features of the place, or a direction."""
    listed = list(seed) if isinstance(seed, list) else [seed]
    if not listed:
        raise ValueError("seed is empty: give a feature, such as (3, 'out', 17), a place or an output direction")
    found: list[tuple[Place, int] | Tensor] = []
    for item in listed:
        if isinstance(item, Tensor):
            check_tensor("seed", item, ("out",))
            size = places.network[-1].map.sizes["out"]
            check_size("out", network=size, seed=len(item))
            if not bool(item.any()):
                raise ValueError("seed is empty: the direction is zero")
            found.append(item)
            continue
        if not isinstance(item, tuple) or len(item) not in (2, 3):
            raise TypeError(f"seed must be (part, place, feature), (part, place) or a direction, got {item!r:.60}")
        place = check_place_of("seed", places.network, item[:2])
        if place not in places.dictionaries:
            listing = ", ".join(map(str, places.dictionaries))
            raise ValueError(f"seed is at {place}, which has no dictionary; there are dictionaries at {listing}")
        most = places.dictionaries[place].features - 1
        found.append((place, check_int("the feature of seed", item[2], 0, most) if len(item) == 3 else -1))
    return found


def position_of(given: Given, seeds: Sequence[tuple[Place, int] | Tensor], position: object) -> int:
    """Return the position of the seeds."""
    count = len(given.trace.streams[0])
    if position is not None:
        at = check_int("position", position, -count, count - 1, f"x has {count} positions")
        return at % count
    first = seeds[0]
    if isinstance(first, Tensor) or first[1] < 0:
        return count - 1
    return int(given.codes[first[0]][:, first[1]].abs().argmax())


def active_seeds(
    backing: Given | Averaged, seeds: Sequence[tuple[Place, int] | Tensor], at: int
) -> list[tuple[Key, Reader | None]]:
    """Return the nodes of the seeds; raise ValueError for those that are not active, at the position or in the text."""
    places, found = backing.setting.places, list[tuple[Key, Reader | None]]()
    number = 0
    for seed in seeds:
        if isinstance(seed, Tensor):
            number += 1
            found.append((("direction", -1, "", number - 1, at), direction_reader(places, seed)))
            continue
        (part, side), feature = seed
        if isinstance(backing, Given):
            codes, where = backing.codes[part, side][at], f"at position {at}"
            others = backing.codes[part, side][:, feature].nonzero()[:, 0].tolist() if feature >= 0 else []
            more = f"; it is active at {others}" if others else "; it is active nowhere in x" if feature >= 0 else ""
        else:
            codes, where, more = backing.activity[part, side].count, "anywhere in x", ""
        chosen = codes.nonzero()[:, 0].tolist()
        if feature >= 0:
            chosen = [feature] if feature in chosen else []
        if not chosen:
            what = f"feature {feature}" if feature >= 0 else "any feature"
            raise ValueError(f"seed: {what} of ({part}, {side!r}) is not active {where}{more}")
        found += [(("feature", part, side, item, at), feature_reader(places, (part, side), item)) for item in chosen]
    return list(dict(found).items())


def check_embedded(name: str, x: Tensor, network: SequenceNetwork, *, given: bool) -> None:
    """Raise ValueError if embedded tokens, of a prompt or of a text of samples, are no inputs of the network."""
    check_tensor(name, x, ("position", "in") if given else ("sample", "position", "in"))
    first = network[0]
    check_size("in", network=part_sizes(first)[0], **{name: x.shape[-1]})
    check_alike(network=array_of(first.map), **{name: x})
    most = network.positions
    if most is not None and x.shape[-2] > most:
        raise ValueError(f"{name} has {x.shape[-2]} positions, but a mask of the network has only {most}")


def check_texts(network: SequenceNetwork, x: Tensor, held_out: Tensor | None, position: object, given: bool) -> None:
    """Raise ValueError if the texts do not belong to the mode."""
    check_embedded("x", x, network, given=given)
    if given and held_out is not None:
        raise ValueError('held_out belongs to mode="averaged": the edges of a prompt are exact')
    if given:
        return
    if position is not None:
        raise ValueError('position belongs to mode="given": an averaged graph is of all positions')
    if held_out is None:
        raise ValueError('mode="averaged" needs held_out, a text on which R squared is measured')
    check_embedded("held_out", held_out, network, given=False)


def check_room(
    places: Places,
    x: Tensor,
    given: bool,
    hops: int,
    steps: int,
    candidates: int,
    nodes: int,
    features: int,
    limit: int,
) -> None:
    """Raise ValueError if the arrays would not fit."""
    dictionaries, network = places.dictionaries.values(), places.network
    weights = sum(item.encoder.numel() + item.decoder.numel() for item in dictionaries)
    each = sum(item.features for item in dictionaries)
    codes = 3 * each * (len(x) if given else max(x.shape[1], 1))
    heads = sum(part.map.heads for part in network if isinstance(part.map, AttentionLayer))
    paths = sum((heads * steps) ** hop for hop in range(hops + 1))
    sizes = 4 * paths * (codes if given else each)  # two numbers per source, and as many while they are sorted
    pool = (4 * candidates + _FEATURES) * max(item.width for item in dictionaries)
    kept = min(features, paths * each * (len(x) if given else 1))
    edges = _EDGE * nodes * len(places.dictionaries) * kept**2 // 2
    shares = {"dictionaries": weights, "codes": codes, "sources": sizes, "candidates": pool, "edges": edges}
    if sum(shares.values()) > limit:
        raise ValueError(
            f"the graph needs {sum(shares.values()):.1e} numbers in memory, more than max_elements={limit:.0e} ("
            + ", ".join(f"{name}: {count:.1e}" for name, count in shares.items())
            + "); take a shorter text, fewer hops, offsets, candidates, features or nodes, or increase max_elements"
        )
