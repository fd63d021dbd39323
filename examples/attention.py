"""What do the heads of a small model do?

A toy language has three planted patterns: bigrams (a3 is followed by b3), skip-trigrams (after the source s2, a query
q1 is followed by t2) and induction (what followed r4 before follows it again). Models of attention alone learn it: one
and two layers, softmax or bilinear. A rule then reads from the weights which token predicts which, and which heads do
it. Three columns per pattern, kind of model and seed:

learned: the loss on the pattern is within 10 % of the best possible one, which is known exactly
found: the list that was read from the weights alone is the planted one (F1 score at least 0.8)
confirmed: without the components that were found (each replaced by its mean), the loss on the pattern rises by 0.3 nats
and by twice as much as without as many others

The numbers of the rule were fixed on seeds 0 to 4; the default reports seeds 5 to 9. Every model is trained once and
kept, so a run can be stopped at any time.

With --model, the script shows what the heads of a language model of text do, and what an MLP sees of them:

    python examples/language_model.py --text TRAIN --held-out HELD_OUT --gates none --equal steps
    python examples/attention.py --model out/language_model/none-0
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from examples.parts.attention_figures import draw
from examples.parts.attention_job import Row, jobs
from examples.parts.attention_text import show_text
from models.tables import read_table, write_table
from models.toy_language import PATTERNS
from models.transformer import ATTENTIONS
from tensornet_interp.checks import check_int

Cells = Mapping[str, float | str]
COLUMNS = ("learned", "found", "confirmed")


def main(argv: list[str] | None = None) -> None:
    """Train the models or read them, print the three columns and draw the figures."""
    options = _options(argv)
    out = Path(options.out or ("out/attention/text" if options.model else "out/attention/toy"))
    out.mkdir(parents=True, exist_ok=True)
    if options.model:
        show_text(options, out)
        return
    made = jobs(options)
    if not options.replot:
        rows: list[Row] = []
        for job in tqdm(made, unit="model", disable=not options.progress):
            rows += job.rows()
            write_table(out / "table.csv", rows)
    table = read_table(out / "table.csv")
    text = f"{by_seed(table)}\n\n{counts(table)}\n"
    print(text)
    (out / "table.txt").write_text(text, encoding="utf-8")
    if not options.replot:
        draw(made, out)
    print(f"table and figures: {out}")


def by_seed(table: Sequence[Cells]) -> str:
    """Return one line per model and pattern with the three columns and the numbers behind them."""
    lines = ["model                seed  pattern       loss   best  learned    F1  found  rise (others)  confirmed  by"]
    for row in table:
        cells = ["yes" if row[column] else "no" for column in COLUMNS]
        rise = f"{row['rise']:+.2f} ({row['control']:+.2f})"
        line = f"{_model(row['kind'], row['layers']):<21}{row['seed']:>4.0f}  {row['pattern']:<12}"
        line += f"{row['loss']:6.3f} {row['best']:6.3f}"
        line += f"{cells[0]:>9}{row['score']:>6.2f}{cells[1]:>7}{rise:>15}{cells[2]:>11}  {row.get('components', '')}"
        lines.append(line)
    return "\n".join(lines)


def counts(table: Sequence[Cells]) -> str:
    """Return the number of seeds with each of the three columns, one line per kind of model and pattern."""
    lines = [f"{'model':<21}{'pattern':<14}" + "".join(f"{column:>11}" for column in COLUMNS) + "  of seeds"]
    for kind, layers in dict.fromkeys((row["kind"], row["layers"]) for row in table):
        for pattern in PATTERNS:
            rows = [row for row in table if (row["kind"], row["layers"], row["pattern"]) == (kind, layers, pattern)]
            cells = "".join(f"{sum(int(row[column]) for row in rows):>11}" for column in COLUMNS)
            lines.append(f"{_model(kind, layers):<21}{pattern:<14}{cells}{len(rows):>10}")
    return "\n".join(lines)


def _model(kind: float | str, layers: float | str) -> str:
    return f"{kind}, {layers:.0f} layer{'s' * (layers != 1)}"


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 6, 7, 8, 9], help="the rule was fixed on 0 to 4")
    parser.add_argument("--kinds", nargs="+", choices=sorted(ATTENTIONS), default=sorted(ATTENTIONS))
    integers = {"width": 48, "heads": 4, "context": 24, "sequences": 16384, "tested": 512}
    for name, value in integers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--steps", type=int, help="steps of every training; default: 600 to 1500, by kind and layers")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2], choices=(1, 2))
    parser.add_argument("--no-progress", dest="progress", action="store_false")
    parser.add_argument("--replot", action="store_true", help="print the table on disk again")
    parser.add_argument("--models", default="out/attention/models", help="folder where trained models are kept")
    parser.add_argument("--out", help="folder of tables and figures; default: out/attention/toy")
    parser.add_argument(
        "--model", help="folder of a language model, see language_model.py; instead of the toy language"
    )
    parser.add_argument("--layer", type=int, help="the layer of --model whose MLP is read back; default: the last")
    parser.add_argument("--held-out", help="text for --model; default: held_out.npy beside the model's folder")
    parser.add_argument("--text-tokens", type=int, default=4096, help="tokens of the text that --model reads")
    options = parser.parse_args(argv)
    for name in (*integers, "text_tokens"):
        check_int(f"--{name.replace('_', '-')}", getattr(options, name), 1)
    if options.context < 5:
        raise ValueError(
            f"--context must be at least 5: a figure shows the source 4 positions before, got {options.context}"
        )
    if options.steps is not None:
        check_int("--steps", options.steps, 1)
    for seed in options.seeds:
        check_int("--seeds", seed, 0)
    return options


if __name__ == "__main__":
    main()
