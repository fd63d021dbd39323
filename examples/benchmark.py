"""How long does it take, and how much memory, beside what people do by hand?

One run on one layer: a. time to a cosine against the dense cosine fit; b. against TensorLy; c. a layer too large to be
made dense; d. the bond step of ODT; e. a stack as one contraction; f. similarity of checkpoints. Prints tables, writes
out/benchmark/SECTION.csv.

Every row is timed in a process of its own; the rows of a table take turns, a warm-up first, and the minimum counts; a
row above 20 s is run once. Times mean something only with nothing else running: beside one other process two threads
are up to 100 times slower. Default: scikit-learn's digits; the figures of examples/README.md are of
`--dataset mnist --data-root DIR`, or of a stored classifier, `--model DIR`.
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
    """Run the chosen sections."""
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
        print("something else is running: these times are not to be quoted")
    try:
        model = options.model or _trained(options, out)
        dataset = str(load_info(model)["extra"].get("dataset", options.dataset))
        about |= {"model": dataset}
        print(f"the layer: of the classifier of {dataset} in {model}")
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


NOTES = """Every row in a process of its own, a warm-up first, then in turn; the minimum counts; above 20 s one run.
flops: of matrix products only, counted by torch apart from the timing; factorizations are not in it.
peak MiB: the most that the process held during the first call, less what it held before (imports and inputs);
process: all of it. ratio: seconds over those of the first row; > where a row was stopped before it got there."""


def _trained(options: argparse.Namespace, out: Path) -> str:
    """The folder of a classifier trained for this run, as `digits.py` trains it."""
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
    parser.add_argument("--download", action="store_true", help="download the data set where it is absent")
    parser.add_argument("--epochs", type=int, help="of the training, default: 40 for digits, 20 otherwise")
    parser.add_argument("--model", help="folder of a stored classifier, instead of training one")
    parser.add_argument("--only", help="sections, as a,b,d; default: all")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of a row after its warm-up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: shows that it runs, times mean nothing")
    parser.add_argument("--out", default="out/benchmark", help="folder of the tables")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
