"""How much time and memory does this package need, compared with dense methods?

Sections, all on one layer: a. time to reach a cosine, against the dense cosine fit; b. the same against TensorLy; c. a
layer too large to be made dense; d. the bond step of ODT; e. a stack as one contraction; f. similarity of checkpoints;
g. similarity of attention models; h. a transformer as a network over positions, against its module. The script prints
tables and writes out/benchmark/SECTION.csv.

Every row is timed in its own process. The rows of a table take turns after a warm-up, and the minimum counts; a row
above 20 s runs once. Run nothing else meanwhile: beside one other process, two threads are up to 100 times slower.
The default data set is scikit-learn's digits. The numbers in examples/README.md come from
`--dataset mnist --data-root DIR`; `--model DIR` takes a stored classifier.
"""

import argparse
from pathlib import Path

import torch

from examples.benchmarks.measure import machine, measure, show, write_csv
from examples.benchmarks.sections import SECTIONS, SIZES, SMOKE
from examples.parts.image_job import PRESETS
from models import ClassifierConfig, TrainingConfig, build_classifier, load_dataset, load_info, save_model, train
from tensornet_interp.checks import check_choice, check_int


def main(argv: list[str] | None = None) -> None:
    """Run the chosen sections, print their tables and write them."""
    options = _options(argv)
    check_int("--threads", options.threads, 1)
    check_int("--repeats", options.repeats, 1)
    chosen = options.only.split(",") if options.only else list(SECTIONS)
    for section in chosen:
        check_choice("--only", section, SECTIONS)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    about = machine(options.threads)
    print("; ".join(f"{name.replace('_', ' ')} {value}" for name, value in about.items()))
    if float(str(about["load_average"] or 0)) > 0.5:
        print("something else is running: do not quote these times")
    try:
        model = options.model or _trained(options, out)
        dataset = str(load_info(model)["extra"].get("dataset", options.dataset))
        about |= {"model": dataset}
        print(f"the layer: from the classifier of {dataset} in {model}")
        print(NOTES)
        sizes = SMOKE if options.smoke else SIZES[check_choice("dataset of the model", dataset, SIZES)]
        for section in chosen:
            done = []
            for table in SECTIONS[section](model, sizes):
                records = measure(table, repeats=options.repeats, threads=options.threads)
                print(show(table, records), flush=True)
                done.append((table, records))
                write_csv(out / f"{section}.csv", done, about)
    finally:
        torch.set_num_threads(before)
    print(f"\ntables: {out}")


NOTES = """Every row runs in its own process: a warm-up, then in turn; the minimum counts; a row above 20 s runs once.
flops: matrix products only, counted by torch in another run; factorizations are left out.
peak MiB: the peak of the process during the first call, minus what it held before (imports and inputs);
process: the whole peak. ratio: seconds over those of the first row; >: the row was stopped before it was done."""


def _trained(options: argparse.Namespace, out: Path) -> str:
    """Train a classifier with the settings of `digits.py`, save it, and return its folder."""
    preset = PRESETS[options.dataset]
    data = load_dataset(options.dataset, options.data_root, download=options.download)
    config = ClassifierConfig(inputs=data.train_x.shape[1], width=int(preset["width"]), hidden=int(preset["width"]))
    model = build_classifier(config, 42)
    training = TrainingConfig(
        epochs=int(preset["epochs"]) if options.epochs is None else options.epochs,
        lr=preset["lr"],
        batch_size=int(preset["batch_size"]),
        weight_decay=0.5,
        noise=0.4,
        noise_probability=0.5,
        seed=42,
    )
    train(model, data, training)
    folder = out / f"model_{options.dataset}"
    save_model(model, folder, extra={"dataset": data.name})
    return str(folder)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(PRESETS), default="digits")
    parser.add_argument("--data-root", help="folder that holds MNIST/raw or FashionMNIST/raw")
    parser.add_argument("--download", action="store_true", help="download the data set if it is missing")
    parser.add_argument("--epochs", type=int, help="epochs of the training; default: 40 for digits, 20 otherwise")
    parser.add_argument("--model", help="folder of a stored classifier; default: train one")
    parser.add_argument("--only", help="sections, for example a,b,d; default: all")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each row after its warm-up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: a test that all runs; the times mean nothing")
    parser.add_argument("--out", default="out/benchmark", help="folder of the tables")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
