"""The sections of the benchmark: their tables, their sizes, and the settings of the methods compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from examples.benchmarks import fits, positions, stacks
from examples.benchmarks.measure import Row, Table
from tensornet_interp.inner_products import Gaussian, Symmetric, Tree


@dataclass(frozen=True)
class Target:
    """A `Target` is a cosine to reach at a rank, with learning rates of the dense cosine fit by their purpose."""

    rank: int
    cosine: float
    rates: Mapping[str, float]


@dataclass(frozen=True)
class Sizes:
    """A `Sizes` holds the settings of all sections."""

    targets: Sequence[Target]
    ranks: tuple[int, int]  # of hosvd and tucker: outputs, inputs
    cap: float = 40.0  # seconds after which TensorLy's parafac is stopped
    steps: int = 200  # of the dense cosine fit
    orientation: int = 5  # iterations of TensorLy's tucker and non_negative_parafac
    iterations: int = 200  # most iterations of our cp if no cosine is given
    large: tuple[int, int, int] = (1024, 4096, 1024)  # inputs, hidden, outputs
    large_rank: int = 64
    bond: int = 257
    depths: Sequence[int] = (2, 3, 4)
    stack: tuple[int, int] = (512, 256)  # width, batch
    checkpoints: tuple[int, int, int] = (128, 10, 50)  # width, outputs, how many
    attention: Sequence[tuple[int, int, int]] = ((16, 2, 4), (128, 4, 8))  # width, heads, positions
    blocks: Sequence[int] = (1, 2, 4, 8)
    transformer: tuple[int, int, int, int] = (64, 4, 16, 64)  # width, heads, positions, batch


SIZES = {
    # the cosines published for 200 steps of the dense fit on the exercise model
    "mnist": Sizes(
        (
            Target(16, 0.9476, {"just reaches it": 0.19, "fewest steps of those tried": 1.0}),
            Target(64, 0.9982, {"just reaches it": 0.5, "fewest steps of those tried": 0.6}),
        ),
        (10, 64),
    ),
    "digits": Sizes((Target(4, 0.75, {"": 0.3}), Target(16, 0.99, {"": 0.3})), (10, 16)),
}
SIZES["fashion_mnist"] = SIZES["mnist"]
SMOKE = Sizes(  # everything runs in a moment, and the times mean nothing
    targets=(Target(2, 0.3, {"": 0.3}),),
    ranks=(3, 4),
    cap=1.0,
    steps=20,
    orientation=2,
    iterations=2,
    large=(6, 7, 5),
    large_rank=3,
    bond=5,
    depths=(2,),
    stack=(5, 3),
    checkpoints=(4, 3, 3),
    attention=((4, 2, 2),),
    blocks=(1,),
    transformer=(8, 2, 4, 2),
)


def cosine_fits(model: str, sizes: Sizes) -> list[Table]:
    """Return the tables of section a: time to a cosine, this package against the dense cosine fit."""
    given = {"folder": model}
    tables = []
    for target in sizes.targets:
        rank, cosine = target.rank, target.cosine
        needed = fits.iterations_to(fits.load_layer(model), rank, cosine)
        options = {"method": "cp", "rank": rank, "max_iterations": needed}
        rows = [Row("cp (ours), warm start counted", fits.load_layer, given, fits.ours, options, fits.cosine_to)]
        first = next(iter(target.rates.values()))
        fits_made = [(which, lr, False) for which, lr in target.rates.items()]
        for which, lr, inputs_first in [*fits_made, ("left * right first", first, True)]:
            rows.append(
                Row(
                    ", ".join(filter(None, [f"dense cosine fit, Muon, lr {lr:g}", which])),
                    fits.load_layer,
                    given,
                    fits.dense_cosine_fit,
                    {"rank": rank, "cosine": cosine, "lr": lr, "steps": sizes.steps, "inputs_first": inputs_first},
                    fits.cosine_to,
                    "max_iterations",
                )
            )
        title = f"a. Time to cosine {cosine} at rank {rank}; ours is float64 inside, the dense fit float32"
        tables.append(Table(title, "cosine to the symmetrized layer", rows))
    return tables


def tensorly(model: str, sizes: Sizes) -> list[Table]:
    """Return the tables of section b: this package against TensorLy on the dense tensor."""
    given = {"folder": model}
    layer = fits.load_layer(model)
    tables = []

    def ours(what: str, **options: object) -> Row:
        return Row(f"{what} (ours)", fits.load_layer, given, fits.ours, options, fits.cosine_to)

    for target in sizes.targets:
        needed = fits.iterations_to(layer, target.rank, target.cosine)
        rows = [ours("cp", method="cp", rank=target.rank, max_iterations=needed)]
        for init in ("svd", "random"):
            options: dict[str, object] = {"rank": target.rank, "cosine": target.cosine, "init": init, "cap": sizes.cap}
            rows.append(
                Row(
                    f"TensorLy parafac, init {init!r}", fits.load_layer, given, fits.tensorly_parafac, options,
                    fits.cosine_to, "max_iterations",
                )
            )  # fmt: skip
        title = f"b. Time to cosine {target.cosine} at rank {target.rank}; TensorLy on float32, {sizes.cap:g} s at most"
        tables.append(Table(title, "cosine to the symmetrized layer", rows))

    (outputs, inputs), rank = sizes.ranks, sizes.targets[0].rank
    full: dict[str, object] = {"rank": (outputs, inputs, inputs), "n_iter_max": sizes.orientation}
    rows = [
        ours("cp", method="cp", rank=rank, max_iterations=sizes.iterations),
        ours("tucker", method="tucker", ranks=sizes.ranks),
        ours("TensorLy tucker", method="tensorly_tucker", **full),
        ours("TensorLy non_negative_parafac", method="tensorly_non_negative_parafac", rank=rank,
             n_iter_max=sizes.orientation),
    ]  # fmt: skip
    rows[2:] = [replace(row, what=row.what.replace("(ours)", "(through our adapter, float64)")) for row in rows[2:]]
    title = f"b. For orientation: cp and non-negative cp of rank {rank}, Tucker of ranks {sizes.ranks}"
    tables.append(Table(title, "cosine to the symmetrized layer", rows, base=None))

    rows = [ours("hosvd", method="hosvd", ranks=sizes.ranks)]
    for dtype in ("float32", "float64"):
        what = f"TensorLy tucker(n_iter_max=0), {dtype}"
        options = {"ranks": sizes.ranks, "dtype": dtype}
        rows.append(Row(what, fits.load_layer, given, fits.tensorly_hosvd, options, fits.same_subspaces))
    title = f"b. Higher-order SVD of ranks {sizes.ranks}, inputs {layer.shape[1]}; ours is float64 inside"
    tables.append(Table(title, "cosine to the symmetrized layer", rows))
    return tables


def large_layer(model: str, sizes: Sizes) -> list[Table]:
    """Return the tables of section c: a layer that is too large to be made dense."""
    inputs, hidden, outputs = sizes.large
    given = {"inputs": inputs, "hidden": hidden, "outputs": outputs}
    rank = sizes.large_rank
    methods: list[dict[str, object]] = [
        {"method": "output_svd", "blocks": rank, "rank": rank},
        {"method": "hosvd", "ranks": (rank, rank)},
        {"method": "cp", "rank": rank, "max_iterations": sizes.iterations},
    ]
    rows = [
        Row(
            ", ".join(str(value) if name == "method" else f"{name}={value}" for name, value in options.items()),
            fits.random_layer, given, fits.ours, options, fits.cosine_to,
        )
        for options in methods
    ]  # fmt: skip
    gib = outputs * inputs**2 * 4 / 2**30
    title = f"c. A random layer of in {inputs}, hidden {hidden}, out {outputs}; dense: {gib:.3g} GiB in float32"
    return [Table(title, "cosine to the symmetrized layer", rows, base=None)]


def bond_steps(model: str, sizes: Sizes) -> list[Table]:
    """Return the tables of section d: the bond step of ODT, on factors and on dense cores."""
    given = {"size": sizes.bond, "depth": 2}
    rows = [
        Row("on the factors (ours)", stacks.bond_layers, given, stacks.factored_bonds, check=stacks.same_spectra),
        Row("on dense cores", stacks.bond_cores, given, stacks.dense_bonds, check=stacks.same_spectra),
    ]
    title = f"d. All bonds of two layers, in = hidden = out = {sizes.bond}, float64: Grams, spectra, encoders"
    return [Table(title, "largest difference of singular values to ours", rows)]


def whole_stacks(model: str, sizes: Sizes) -> list[Table]:
    """Return the tables of section e: a stack as one contraction, against the forward pass."""
    width, batch = sizes.stack
    tables = []
    for depth in sizes.depths:
        given = {"width": width, "depth": depth, "batch": batch}
        rows = [
            Row("network(x)", stacks.attached, given, stacks.forward),
            Row("contract(terms + x)", stacks.attached, given, stacks.contraction, check=stacks.same_outputs),
        ]
        title = f"e. {depth} layers of width {width}, batch {batch}, float32; the search for a path is not timed"
        tables.append(Table(title, "largest deviation from network(x)", rows))
    return tables


def similarities(model: str, sizes: Sizes) -> list[Table]:
    """Return the tables of section f: the similarity of checkpoints."""
    width, outputs, count = sizes.checkpoints
    kinds = {"tree, exact": Tree(), "gaussian, closure": Gaussian(method="closure")}
    # a pair costs about 1e12 flops at width 128
    exact = {"symmetric, exact": Symmetric(method="exact"), "gaussian, exact": Gaussian(method="exact")}
    jobs = [(count, *kind) for kind in kinds.items()] + [(2, *kind) for kind in (kinds | exact).items()]
    rows = [
        Row(
            f"{'one pair' if n == 2 else f'{n} checkpoints, all pairs'}: {name}",
            stacks.checkpoints,
            {"width": width, "outputs": outputs, "count": n},
            stacks.all_pairs,
            {"kind": kind},
            stacks.first_to_last,
        )
        for n, name, kind in jobs
    ]
    title = f"f. Similarity of two-layer networks of width {width}, {outputs} outputs"
    return [Table(title, "similarity of the first and the last", rows, base=None)]


def over_positions(model: str, sizes: Sizes) -> list[Table]:
    """Return the tables of section g: the similarity of attention models with products of scores."""

    def rows(count: int, blocks: int, masks: Sequence[str], size: tuple[int, int, int]) -> list[Row]:
        width, heads, context = size
        given = {"width": width, "heads": heads, "positions": context, "count": count, "blocks": blocks}
        jobs = {"all pairs in one call": positions.together, "pair by pair": positions.one_by_one}
        return [
            Row(
                f"width {width}, {heads} heads, {context} positions, {mask}" + f": {job}" * (count > 2),
                positions.attention_models,
                given | {"mask": mask},
                run,
                check=positions.first_to_last,
            )
            for mask in masks
            for job, run in list(jobs.items())[: 1 if count == 2 else 2]
        ]

    fit = "similarity of the first and the last"
    pairs = [row for size in sizes.attention for row in rows(2, 0, ("causal", "full"), size)]
    small = sizes.attention[0]
    two = rows(2, 2, ("causal",), small)
    return [
        Table("g. Similarity of two one-layer attention models, exact", fit, pairs, base=None),
        Table("g. Five one-layer attention models, exact", fit, rows(5, 0, ("causal",), small)[::-1]),
        Table("g. Two models of two blocks, attention and a bilinear map, closure", fit, two),
    ]


def transformers(model: str, sizes: Sizes) -> list[Table]:
    """Return the tables of section h: a transformer as a network over positions, against its module."""
    width, heads, context, batch = sizes.transformer
    tables = []
    for attention in ("softmax", "bilinear"):
        for blocks in sizes.blocks:
            given = {"width": width, "heads": heads, "positions": context, "blocks": blocks, "batch": batch}
            subject = positions.transformers, given | {"attention": attention}
            rows = [
                Row("module(x)", *subject, positions.by_module, check=positions.same_logits),
                Row("network(x)", *subject, positions.by_network, check=positions.same_logits),
            ]
            size = f"width {width}, {heads} heads, context {context}, batch {batch}, float64"
            tables.append(Table(f"h. {blocks} blocks, {attention} attention: {size}", "largest difference", rows))
    return tables


SECTIONS: dict[str, Callable[[str, Sizes], list[Table]]] = {
    "a": cosine_fits,
    "b": tensorly,
    "c": large_layer,
    "d": bond_steps,
    "e": whole_stacks,
    "f": similarities,
    "g": over_positions,
    "h": transformers,
}
