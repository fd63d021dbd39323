"""What does a stack of bilinear layers compute, how did training make it, and how much of it is needed?

The script trains three-layer classifiers with biases and residuals from several seeds, and keeps checkpoints as tensor
networks. It measures the similarity of checkpoints across training and seeds, and what training changed. It cuts the
bonds between layers, takes one prediction apart through all layers, and replaces layers by decompositions.
Default: scikit-learn's bundled digits, 15 s of CPU time. `--dataset mnist --data-root DIR`: 2 to 3 minutes.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from models import (
    BilinearClassifier,
    ClassifierConfig,
    Dataset,
    TrainingConfig,
    build_classifier,
    load_dataset,
    save_model,
    train,
    write_table,
)
from tensornet_interp import BilinearNetwork, Moments, SpectralResult, decompose, difference, norm, odt, similarity
from tensornet_interp.checks import check_int
from tensornet_interp.circuits import circuit, expansion
from tensornet_interp.decompositions import CP, Eigen, Tucker
from tensornet_interp.fidelity import fidelity, network_fidelity
from tensornet_interp.inner_products import Gaussian, Tree
from tensornet_interp.plots import (
    bond_curves,
    bond_spectra,
    draw_circuit,
    draw_network,
    eigenvectors,
    similarity_matrix,
)

REMOVED = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # shares of the dimensions of every bond between layers
WIDTHS, BEAM = (2, 4, 8, 16, 32), 4096  # of circuits: components kept per parent, and in all per level
FIT = 20  # iterations of fitted decompositions: not converged, but enough to see the cost of a rank
RANK_ON = 256  # training images that rank the components of a circuit
# settings by size of the data set
PRESETS = {
    "digits": {"width": 32, "lr": 5e-3, "batch_size": 128, "epochs": 40},
    "mnist": {"width": 128, "lr": 1e-3, "batch_size": 512, "epochs": 8},
    "fashion_mnist": {"width": 128, "lr": 1e-3, "batch_size": 512, "epochs": 8},
}

Run = tuple[int, int]  # seed and epoch of a checkpoint


def main(argv: list[str] | None = None) -> None:
    """Train the classifiers, analyse them, print tables and draw figures."""
    options = _options(argv)
    out = Path(options.out or f"out/deep_{options.dataset}")
    out.mkdir(parents=True, exist_ok=True)
    data = load_dataset(options.dataset, options.data_root, device=options.device, download=options.download)
    check_int("--example-class", options.example_class, 0, len(data.class_names) - 1)
    moments = Moments.of(data.train_x)
    networks = trained(options, data, out)
    epochs = sorted({epoch for _, epoch in networks})
    network = networks[options.seeds[0], epochs[-1]]
    draw(out, "network", draw_network(network, title="Three lifted layers as one tensor network"))
    compare(networks, moments, data.test_x, out)
    early = epochs[min(1, len(epochs) - 2)]
    changed(networks[options.seeds[0], early], network, f"from epoch {early} to {epochs[-1]}", data, out)
    cut_bonds(network, data, moments, out)
    take_apart(network, data, options.example_class, out)
    replace_layers(network, data, out)
    print(f"\nfigures, tables and checkpoints: {out}")


def trained(options: argparse.Namespace, data: Dataset, out: Path) -> dict[Run, BilinearNetwork]:
    """Train a classifier from every seed, and return the kept checkpoints as networks from pixels to logits."""
    preset = PRESETS[options.dataset]
    width = int(preset["width"]) if options.width is None else options.width
    epochs = int(preset["epochs"]) if options.epochs is None else options.epochs
    config = ClassifierConfig(
        inputs=data.train_x.shape[1],
        width=width,
        hidden=width,
        classes=len(data.class_names),
        n_layers=3,
        down=True,
        bias=True,
        residual=1.0,
    )
    keep = sorted({0, 1, epochs // 8, epochs // 3, epochs})
    networks: dict[Run, BilinearNetwork] = {}
    print(f"{data.name}: {len(data.train_x)} training images, {len(data.test_x)} test images; {config}")
    for seed in options.seeds:
        model = build_classifier(config, seed, device=options.device)
        training = TrainingConfig(
            epochs=epochs, lr=preset["lr"], batch_size=int(preset["batch_size"]), weight_decay=0.5, seed=seed
        )

        def checkpoint(epoch: int, model: nn.Module, seed: int = seed, training: TrainingConfig = training) -> None:
            if epoch in keep and isinstance(model, BilinearClassifier):
                extra = {"dataset": data.name, "training": vars(training), "epoch": epoch}
                save_model(model, out / "checkpoints" / f"seed_{seed}_epoch_{epoch}", extra=extra)
                networks[seed, epoch] = model.network(basis="input")

        checkpoint(0, model)
        history = train(model, data, training, callback=checkpoint)
        history.to_csv(out / f"history_seed_{seed}.csv")
        seconds = sum(float(record["seconds"]) for record in history.records)
        reached = float(history.records[-1]["test_accuracy"])
        print(f"seed {seed}: test accuracy {reached:.4f} after {epochs} epochs, {seconds:.0f} s")
    return networks


def compare(networks: Mapping[Run, BilinearNetwork], moments: Moments, x: Tensor, out: Path) -> None:
    """Compare all checkpoints: the tensors as trees, and the functions on inputs like the training data."""
    runs = list(networks)
    last = max(epoch for _, epoch in runs)
    print("\nsimilarity (uncentred cosine) of checkpoints, means over distinct pairs; epoch 0 is before training")
    for kind in (Tree(), Gaussian(moments)):
        found = similarity(list(networks.values()), kind=kind)
        matrix = found.to_tensor().cpu()
        names = [f"{seed} at {epoch}" for seed, epoch in runs]
        rows = zip(names, matrix.tolist(), strict=True)
        write_table(
            out / f"similarity_{kind.name}.csv", [{"": name} | dict(zip(names, row, strict=True)) for name, row in rows]
        )
        note = "" if kind == Tree() else ", moments of the training data"
        title = f"Similarity of checkpoints, {kind.name} ({found.method}{note})\nseed and epoch"
        draw(out, f"similarity_{kind.name}", similarity_matrix(matrix, names, title))
        print(f"{f'{kind.name} ({found.method})':<20} {'with the last epoch':>20} {'between seeds':>20}")
        for epoch in sorted({epoch for _, epoch in runs}):
            at = [i for i, run in enumerate(runs) if run[1] == epoch]
            to_last = [matrix[i, runs.index((runs[i][0], last))] for i in at if epoch != last]
            between = [matrix[i, j] for i, j in combinations(at, 2)]
            print(f"  epoch {epoch:<12} {_mean(to_last):>20} {_mean(between):>20}")
    final = [run for run in runs if run[1] == last][:2]
    if len(final) == 2:  # the approximation has no error bound: check one pair in two other ways
        f, g = (networks[run] for run in final)
        sampled = similarity(f, g, kind=Gaussian(moments, method="sampled"))
        of_f, of_g = f(x).double(), g(x).double()
        cosine = float((of_f * of_g).sum() / (of_f.norm() * of_g.norm()))
        drawn = f"{float(sampled):.4f} +- {float(sampled.standard_error or 0):.4f}"
        print(f"seeds {final[0][0]} and {final[1][0]}: gaussian by sampling {drawn}, on test images {cosine:.4f}")


def changed(before: BilinearNetwork, after: BilinearNetwork, span: str, data: Dataset, out: Path) -> None:
    """Measure what training changed in each layer since an early checkpoint; decompose the change of the first one."""
    print(f"\nwhat changed {span}; accuracy and KL: the last network with one layer of the early one")
    for i, (old, new) in enumerate(zip(before.layers, after.layers, strict=True)):
        share = float(norm(difference(old, new)) / norm(new.drop_constant()))
        undone = fidelity(after.replace(i, old), after, data.test_x, data.test_y)
        print(f"  layer {i}: relative change {share:.3f}, accuracy {undone.accuracy:.4f}, KL {undone.kl:.4f}")
    layer = difference(before.layers[0], after.layers[0])
    change: SpectralResult = decompose(layer, "output_svd", blocks=min(6, layer.shape[0]))
    total = float(norm(layer))
    print("  the change of layer 0 by output direction: singular value, share of the squared norm, eigenvalues")
    for block, eigenvalues in enumerate(change.eigenvalues):
        value = float(eigenvalues.norm())
        leading = " ".join(f"{eigenvalue:+.3f}" for eigenvalue in eigenvalues[:4].tolist())
        print(f"    {block}: {value:.3f}  {(value / total) ** 2:>4.0%}  {leading}")
    figure = eigenvectors(change, data.shape, [f"direction {block}" for block in range(len(change.eigenvalues))])
    figure.suptitle(f"What training changed in layer 0 {span}: eigenvectors in pixels")
    draw(out, "change", figure)


def cut_bonds(network: BilinearNetwork, data: Dataset, moments: Moments, out: Path) -> None:
    """Measure accuracy and cross-entropy after cutting bonds, with and without the moments of the training data."""
    found = {"isotropic": odt(network), "training data": odt(network, moments)}
    draw(out, "bond_spectra", bond_spectra(found))
    whole = fidelity(network, network, data.test_x, data.test_y)
    accuracy, loss = whole.reference_accuracy or 0.0, whole.reference_cross_entropy or 0.0
    print(f"\nbonds between layers cut; whole network: accuracy {accuracy:.4f}, cross-entropy {loss:.4f}")
    heads = f"{'removed':>8} {'kept':>9} {'bound':>9} {'measured':>9} {'accuracy':>9} {'cross-entropy':>14}"
    print(f"{'metric':<14} {heads}  (bound, measured: relative error of the tree)")
    records: list[dict[str, float | str]] = []
    for metric, result in found.items():
        for share in REMOVED:
            ranks = {bond.index: max(1, round((1 - share) * bond.size)) for bond in result.bonds[1:-1]}
            cut = result.truncate(ranks)
            kept = fidelity(cut.network, network, data.test_x, data.test_y)
            records.append(
                {
                    "metric": metric,
                    "removed": share,
                    "kept": " ".join(str(rank) for rank in cut.ranks.values()),
                    "bound": cut.bound,
                    "measured": cut.measured,
                    "accuracy": kept.accuracy or 0.0,
                    "cross_entropy": kept.cross_entropy or 0.0,
                    "kl": kept.kl or 0.0,
                }
            )
            row = records[-1]
            print(
                f"{metric:<14} {share:>8.0%} {row['kept']:>9} {cut.bound:>9.2e} {cut.measured:>9.2e}"
                f" {row['accuracy']:>9.4f} {row['cross_entropy']:>14.4f}"
            )
    write_table(out / "bonds.csv", records)
    draw(out, "bonds", bond_curves(records, accuracy=accuracy, loss=loss))
    for row in records:
        if row["removed"] == 0.7:
            lost = 100 * (accuracy - float(row["accuracy"]))
            verdict = "within" if lost <= 0.5 else "not within"
            print(f"70 % removed, {row['metric']}: {lost:+.2f} points of accuracy lost, {verdict} the limit of 0.5")


def take_apart(network: BilinearNetwork, data: Dataset, example: int, out: Path) -> None:
    """Take one decision (first minus second class) apart, by degree and by component through all layers."""
    index = int((data.test_y == example).nonzero()[0])
    x = data.test_x[index]
    exact = network.to(dtype=torch.float64)
    logits = exact(x.double())
    first, second = logits.topk(2).indices.tolist()
    direction = torch.zeros_like(logits)
    direction[first], direction[second] = 1, -1
    names = data.class_names
    name = f"{names[first]} minus {names[second]}"
    value = float(direction @ logits)
    print(f"\ntest image {index}, label {names[example]}: logit {name} = {value:+.4f}, by degree in the pixels")
    degrees = (direction @ expansion(exact, x.double())).tolist()
    print("  " + "  ".join(f"{degree}: {value:+.4f}" for degree, value in enumerate(degrees)))
    write_table(out / "degrees.csv", [{"degree": degree, "logit": value} for degree, value in enumerate(degrees)])

    ranked_on, direction = data.train_x[:RANK_ON], direction.to(x.dtype)
    print(f"circuits of n components per parent, at most {BEAM} per level, ranked on {RANK_ON} training images")
    rows = []
    for width in [w for w in WIDTHS if w <= network.layers[1].shape[1]]:
        tree = circuit(network, direction, widths=width, beam=BEAM, x=ranked_on)
        sizes = " + ".join(str(len(level)) for level in tree.levels)
        errors = [tree.relative_error(images) for images in (ranked_on, data.test_x)]
        rows.append({"width": width, "training_error": errors[0], "test_error": errors[1], "logit": float(tree(x))})
        print(
            f"  {width:>3}: {sizes:<18} relative error {errors[0]:.4f} on them, {errors[1]:.4f} on test images;"
            f" this image {float(tree(x)):+.4f}"
        )
    write_table(out / "circuit.csv", rows)
    small = circuit(network, direction, widths=(2, 2, 3), x=ranked_on, name=name)
    print(small)
    top, added = small.levels[0], small.contributions(x)[0].tolist()
    parts = zip(top.eigenvalues.tolist(), added, strict=True)
    print("contributions of the top components on this image: " + ", ".join(f"{v:+.3f} (λ {e:+.3g})" for e, v in parts))
    (out / "circuit.txt").write_text(f"{small}\n", encoding="utf-8")
    draw(out, "circuit", draw_circuit(small, data.shape, count=3))


def replace_layers(network: BilinearNetwork, data: Dataset, out: Path) -> None:
    """Replace layers by smaller and smaller decompositions, and measure the cost of each alone and of all together."""
    size = network.layers[1].shape[1]
    tables = []
    for share in (0.75, 0.5, 0.25):
        k = max(4, round(share * size))
        kinds = (f"Tucker of ranks {k}, {k}", f"{k // 4} eigenpairs per output", f"CP of rank {k}")
        methods = (Tucker(ranks=(k, k), max_iterations=FIT), Eigen(rank=k // 4), CP(rank=k, max_iterations=FIT))
        found = network_fidelity(decompose(network, dict(enumerate(methods))), network, data.test_x, data.test_y)
        tables.append(f"layers replaced: {', '.join(f'{i} by {kind}' for i, kind in enumerate(kinds))}\n{found}\n")
        print(f"\n{tables[-1]}", end="")
        (out / "replaced.txt").write_text("\n".join(tables), encoding="utf-8")


def draw(out: Path, name: str, figure: Figure) -> None:
    """Write a figure to `out`."""
    figure.savefig(out / f"{name}.png", dpi=120)


def _mean(values: Sequence[Tensor]) -> str:
    """Return the mean over pairs and the number of pairs, as text."""
    return f"{float(torch.stack(list(values)).mean()):.4f} ({len(values)} pairs)" if values else "-"


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(PRESETS), default="digits")
    parser.add_argument("--data-root", help="folder that holds MNIST/raw or FashionMNIST/raw")
    parser.add_argument("--download", action="store_true", help="download the data set if it is missing")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, help="default: 40 for digits, 8 otherwise")
    parser.add_argument("--width", type=int, help="embedding and hidden size; default: 32 for digits, else 128")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44], help="the first is analysed in detail")
    parser.add_argument("--example-class", type=int, default=5, help="class of the prediction that is taken apart")
    parser.add_argument("--out", help="folder of the results; default: out/deep_DATASET")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
