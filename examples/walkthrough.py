"""From data or a checkpoint to what one keeps: names, eigenvectors as bars, a table, a page, a file that opens again.

Three small models, one per option of --data. "wine": a classifier of three wines by 13 measurements. "diabetes": a
regression of the progress of a disease on 10 measurements. "language": the last MLP of a small language model, from a
checkpoint that the script trains and writes; its inputs and outputs are tokens, so only the direct path through the
embedding and this MLP is shown. Every model takes the same way: a layer with names, its decomposition, what is left of
the model after truncation, a figure, a CSV file, a page in HTML, and a file that `load` opens.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_diabetes, load_wine
from torch import Tensor

from models.language import LanguageConfig, train_language
from models.published import save_transformer
from models.text import encode, train_tokenizer
from models.transformer import TransformerConfig, build_transformer
from tensornet_interp import BilinearLayer, decompose, lift, load, save, write_report
from tensornet_interp.fidelity import truncation_curve
from tensornet_interp.plots import eigenvectors, output_directions
from tensornet_interp.tables import write_csv
from tensornet_interp.weights import load_layer, load_tensor

HIDDEN, STEPS = 12, 400


@dataclass(frozen=True)
class Subject:
    """A `Subject` is a layer with names, and the inputs on which it is looked at."""

    layer: BilinearLayer
    inputs: Tensor  # (sample, in)
    labels: Tensor | None = None
    targets: Tensor | None = None


def fit(x: Tensor, loss: Callable[[Tensor], Tensor], outputs: int, name: str, seed: int) -> BilinearLayer:
    """Train down(left(x) * (right(x))) with biases, and return it as a layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        left, right = torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.Linear(x.shape[1], HIDDEN)
        down = torch.nn.Linear(HIDDEN, outputs)
    parameters = [*left.parameters(), *right.parameters(), *down.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(down(left(x) * right(x))).backward()
        optimizer.step()
    layer = BilinearLayer.from_weights(
        left=left.weight, right=right.weight, down=down.weight, name=name, basis="standard scores"
    )
    return lift(layer, left_bias=left.bias, right_bias=right.bias, bias=down.bias).drop_constant()


def wine(out: Path, seed: int) -> Subject:
    """Return a classifier of wines."""
    found = load_wine()
    x, labels = standard(torch.tensor(found.data)), torch.tensor(found.target)
    layer = fit(x, lambda y: torch.nn.functional.cross_entropy(y, labels), 3, "wine", seed)
    names = [name.replace("_", " ") for name in found.feature_names]
    return Subject(layer.with_names(input_names=names, output_names=list(found.target_names)), x, labels)


def diabetes(out: Path, seed: int) -> Subject:
    """Return a regression with one output, in units of the standard deviation of the target."""
    found = load_diabetes()
    x, y = standard(torch.tensor(found.data)), standard(torch.tensor(found.target)[:, None])
    layer = fit(x, lambda z: (z - y).square().mean(), 1, "diabetes", seed)
    names = ["age", "sex", "body mass", "blood pressure", *found.feature_names[4:]]
    return Subject(layer.with_names(input_names=names, output_names=["progress"]), x, targets=y)


def language(out: Path, seed: int) -> Subject:
    """Return the last MLP of a language model between tokens, from a checkpoint written to `out`."""
    stories = sentences(seed)
    tokenizer = train_tokenizer(stories, 320)
    tokens = encode(tokenizer, stories)
    config = TransformerConfig(
        vocabulary=tokenizer.get_vocab_size(), d_model=32, d_hidden=48, n_layers=1, n_heads=2, context=16
    )
    model = build_transformer(config, seed=seed)
    train_language(model, tokens, LanguageConfig(steps=STEPS, batch_size=16, lr=5e-3, seed=seed), progress=False)
    folder = out / "checkpoint"
    save_transformer(model, folder)
    counts = tokens.bincount(minlength=config.vocabulary)
    kept = counts.argsort(descending=True)[: int((counts > 0).sum())]  # the bytes that the text lacks are left out
    names = [str(tokenizer.id_to_token(at)).replace("Ġ", " ") for at in kept.tolist()]
    embedding = load_tensor(folder, "transformer.wte.weight")[kept].T.contiguous()  # (d_model, token)
    unembedding = load_tensor(folder, "lm_head.weight")[kept]  # (token, d_model)
    layer = load_layer(folder, config.n_layers - 1).change_basis(embedding, unembedding, basis="tokens, without norms")
    return Subject(layer.with_names(input_names=names, output_names=names), torch.eye(len(names)))


def sentences(seed: int) -> list[str]:
    """Return short sentences about animals and what they eat."""
    eats = {"cat": "fish", "dog": "meat", "bird": "seeds", "cow": "grass", "mouse": "cheese", "bear": "honey"}
    generator = torch.Generator().manual_seed(seed)
    animals = [list(eats)[i] for i in torch.randint(len(eats), (600,), generator=generator).tolist()]
    places = [("house", "garden", "forest")[i] for i in torch.randint(3, (600,), generator=generator).tolist()]
    return [f"the {a} in the {p} eats {eats[a]}." for a, p in zip(animals, places, strict=True)]


def standard(x: Tensor) -> Tensor:
    """Return columns with mean 0 and standard deviation 1, in float32."""
    return ((x - x.mean(0)) / x.std(0)).float()


SUBJECTS = {"wine": wine, "diabetes": diabetes, "language": language}


def main(arguments: Sequence[str] | None = None) -> None:
    """Take a model all the way, and write what it leaves to a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=SUBJECTS, default="wine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/walkthrough"))
    options = parser.parse_args(arguments)
    out = options.out / options.data
    subject = SUBJECTS[options.data](out, options.seed)
    layer = subject.layer
    print(layer)
    shared = options.data == "language"  # many outputs share few directions
    result = decompose(layer, "output_svd", blocks=4) if shared else decompose(layer, "eigen")
    counts = [k for k in (1, 2, 4, 8) if k < result.rank] + [result.rank]
    print("eigenpairs per block   accuracy   R squared of the model's outputs")
    for row in truncation_curve(result, layer, subject.inputs, subject.labels, counts):
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.3f}"
        print(f"{row['components']:20}   {accuracy:>8}   {row['r_squared']:.4f}")
    draw = output_directions if shared else eigenvectors
    draw(result, count=2).savefig(out_file(out, "eigenvectors.png"), dpi=150)
    write_csv(result, out / "components.csv")
    write_report(
        result,
        out / "report.html",
        reference=layer,
        inputs=subject.inputs,
        labels=subject.labels,
        targets=subject.targets,
        title=f"{options.data}: {type(result).__name__}",
        overwrite=True,
    )
    save({"layer": layer, "result": result}, out / "analysis.safetensors")
    again = load(out / "analysis.safetensors")["result"]
    same = torch.equal(again.eigenvectors, result.eigenvectors) and again.report == result.report
    print(f"the file opens with an equal result: {same}")
    print(f"written to {out}: eigenvectors.png, components.csv, report.html, analysis.safetensors")


def out_file(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder that exists."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


if __name__ == "__main__":
    main()
