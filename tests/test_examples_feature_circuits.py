"""The circuits of a tiny random model: every stage runs, is kept, and comes back; negations are told from others."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers import read_rows

from examples import feature_circuits
from examples.parts.circuit_statistics import bimodality, spectra
from examples.parts.circuit_tables import correlation_summary, is_negation
from models.published import save_transformer
from models.tables import write_table
from models.text import encode_to_file, save_tokenizer, train_tokenizer
from models.transformer import TransformerConfig, build_transformer
from tensornet_interp.features import Strongest
from tensornet_interp.weights import load_dictionary

STORY = "once upon a time there was a cat who did not like the big red dog but the dog was good and never sad"
WORDS = STORY.split()


def stories(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        " ".join(WORDS[i] for i in torch.randint(0, len(WORDS), (30,), generator=generator).tolist()) + "."
        for _ in range(count)
    ]


def random_model(folder, layers, count):
    """A random model with its tokenizer, and two files of tokens of `count` stories above it."""
    tokenizer = train_tokenizer(stories(20, seed=0), 400)
    save_tokenizer(tokenizer, folder / "none-0" / "tokenizer.json")
    for name, seed in (("train", 0), ("held_out", 1)):
        encode_to_file(tokenizer, stories(count, seed), folder / f"{name}.npy")
    config = TransformerConfig(tokenizer.get_vocab_size(), 8, 12, layers, 2, 16)
    save_transformer(build_transformer(config, seed=0), folder / "none-0")
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("language"), layers=2, count=40)


@pytest.fixture(scope="module")
def done(kept):
    run(kept)
    return kept / "out"


def run(kept, *more, out="out"):
    options = ["--model", str(kept / "none-0"), "--steps", "16", "--batch-size", "32", "--buffer", "64", "--k", "3"]
    feature_circuits.main([*options, "--lr", "0.01", "--circuits", "1", "--out", str(kept / out), *more])


def test_every_stage_leaves_its_table_and_figures(done):
    quality = read_rows(done / "quality.csv")
    assert [(row["point"], row["steps"]) for row in quality] == [
        (point, str(steps)) for point in ("mlp-in", "mlp-out") for steps in (2, 4, 8, 16)
    ]
    assert all(float(row["nmse"]) > 0 for row in quality)
    ranking = read_rows(done / "ranking.csv")
    shares = [float(row["share"]) for row in ranking]
    assert shares == sorted(shares, reverse=True)
    circuits = read_rows(done / "circuits.csv")
    first = list(dict.fromkeys(row["feature"] for row in circuits))
    assert first[0] == ranking[0]["feature"]
    assert {row["verdict"] for row in circuits} <= {"confirmed", "refuted", "untested"}
    names = ["training_length", "correlation_by_length", "correlation_by_rank"]
    for name in [*names, *(f"{kind}-{feature}" for kind in ("interactions", "plane") for feature in first)]:
        assert (done / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (done / "contexts.html").read_text().startswith("<!doctype html>")
    assert len(read_rows(done / "directions.csv")) == 6
    ks = {row["k"] for row in read_rows(done / "summary.csv")}
    assert ks == {"1", "2", "4", "8"}  # of 8 there are


def test_opposed_features_have_their_plane_and_the_tensor_comes_back(done):
    plane = read_rows(done / "plane.csv")
    drawn = {row["feature"] for row in plane}
    assert 2 <= len(drawn) <= 3
    for name in [*(f"{kind}-{f}" for kind in ("words", "activation") for f in drawn), "correlations"]:
        assert (done / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    rows = {int(row["features"]): row for row in read_rows(done / "reassembly.csv")}
    assert list(rows) == [4, 8, 32]  # of 8 outputs and 32 features
    assert float(rows[4]["error"]) > 0.1 > 1e-4 > float(rows[32]["error"])


def test_every_feature_that_fires_has_its_statistics(done):
    rows = read_rows(done / "statistics.csv")
    tokens = {round(int(row["active"]) / float(row["frequency"])) for row in rows}
    assert len(tokens) == 1  # the number of held-out tokens
    for row in rows:
        assert float(row["mean_activation"]) <= float(row["largest_activation"])
        assert row["opposite"] != row["feature"]
        outside = max(float(row["most_positive"]), -float(row["most_negative"])) > float(row["edge"])
        assert outside == (int(row["outside"]) > 0)
    assert (done / "statistics.png").is_file()


def test_a_planted_eigenvalue_is_outside_of_random_matrices_and_the_others_are_not():
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(60, 60, generator=draw, dtype=torch.float64)
    noise = (noise + noise.T) / 2
    own, random = spectra(noise, draw)
    assert int((own.abs() > random.abs().max()).sum()) == 0
    planted = torch.nn.functional.normalize(torch.randn(60, generator=draw, dtype=torch.float64), dim=0)
    own, random = spectra(noise + 40 * torch.outer(planted, planted), draw)
    assert int((own.abs() > random.abs().max()).sum()) == 1
    # the same moments, from 20 * 60 * 61 / 2 drawn entries: (2 / 36600)^(1/2) = 0.7 %, five times
    assert float(random.var()) == pytest.approx(float(own.var()), rel=0.04)


def test_two_points_are_as_bimodal_as_can_be():
    assert bimodality([0.0, 1.0] * 10) == pytest.approx(1)
    assert bimodality(torch.randn(20_000, generator=torch.Generator().manual_seed(0)).tolist()) == pytest.approx(
        1 / 3, abs=0.02
    )


def test_autoencoders_are_in_the_published_layout(done):
    found = load_dictionary(done / "autoencoders" / "steps-16" / "1-mlp-out-x4-k3")
    assert (found.features, found.width, found.k) == (32, 8, 3)


def test_what_is_there_is_not_made_again_and_drawn_again(kept, done, capsys):
    times = {path: path.stat().st_mtime_ns for path in [*done.glob("*.csv"), *done.rglob("*.safetensors")]}
    (done / "training_length.png").unlink()
    run(kept, "--replot", "--pages", "2")
    printed = capsys.readouterr().out
    assert "circuits, removed on held-out text" in printed
    assert (done / "training_length.png").is_file()
    pair = {row["feature"] for row in read_rows(done / "plane.csv")[:4]}
    best = {row["feature"] for row in read_rows(done / "ranking.csv")[:2]} | pair
    names = {"index.html", *(f"feature-{feature}.html" for feature in best)}
    assert {path.name for path in (done / "pages").iterdir()} == names
    again = {path: path.stat().st_mtime_ns for path in times}
    changed = {path.name for path in times if times[path] != again[path]}
    assert changed <= {"summary.csv"}


def test_other_settings_are_refused_and_both_are_shown(kept, done):
    with pytest.raises(ValueError, match=r"other settings.*'seed': 0.*'seed': 1"):
        run(kept, "--seed", "1")
    assert json.loads((done / "settings.json").read_text())["autoencoders"]["seed"] == 0


@pytest.mark.parametrize("name", ["train", "held_out"])
def test_another_text_in_a_file_of_the_same_name_is_refused(kept, done, name):
    file = kept / f"{name}.npy"
    before = file.read_bytes()
    try:
        np.save(file, np.load(file)[:-1])
        with pytest.raises(ValueError, match=rf"other settings.*{{'{name}':"):
            run(kept)
    finally:
        file.write_bytes(before)


def test_two_models_stand_in_one_table_with_their_means(kept, done, capsys):
    shutil.copytree(done, kept / "other")
    feature_circuits.main(["--out", str(done), "--compare", str(kept / "other")])
    printed = capsys.readouterr().out.split("the tensor from the eigenpairs of features: means over models")[1]
    error = float(read_rows(done / "reassembly.csv")[0]["error"])
    assert f" {error:.4f} ({error:.4f} to {error:.4f})" in printed  # a model and its copy
    assert {row["model"].split(",")[0] for row in read_rows(done / "comparison.csv")} == {"out", "other"}
    assert (done / "comparison.png").is_file()


def test_a_comparison_says_which_settings_differ_and_names_no_other_feature_as_negation(kept, done, capsys):
    folders = [kept / "without" / name for name in ("first", "second")]
    for number, folder in enumerate(folders):
        shutil.copytree(done, folder)
        settings = json.loads((folder / "settings.json").read_text())
        (folder / "settings.json").write_text(json.dumps(settings | {"held_out_tokens": 100 + number}))
        rows = [row | {"negation": "False"} for row in read_rows(folder / "ranking.csv")]
        write_table(folder / "ranking.csv", rows)
    feature_circuits.main(["--out", str(folders[0]), "--compare", str(folders[1])])
    printed = capsys.readouterr().out
    assert "the models differ in held_out_tokens, and the means are over all of them: [100, 101]" in printed
    assert "differ in layer" not in printed
    planes = printed.split("vectors in the planes of features: means over models")[1].split("\n\n")[0]
    assert "opposed pair" in planes
    assert "negation" not in planes
    with pytest.raises(ValueError, match="folders must have different names"):
        feature_circuits.main(["--out", str(folders[0]), "--compare", str(folders[0])])


def test_replot_of_nothing_says_so(kept):
    with pytest.raises(FileNotFoundError, match="run without --replot first"):
        run(kept, "--replot", out="nothing")


@pytest.mark.parametrize("options", [[], ["--compare", "somewhere"]])
def test_missing_options_are_named(options, capsys):
    with pytest.raises(SystemExit):
        feature_circuits.main(options)
    assert "--model is needed" in capsys.readouterr().err or options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("he did not go", True),  # at the peak's left
        ("she didn 't want", False),
        ("they didn't go", True),
        ("never", True),
        ("not he she it went", False),  # four tokens before
        ("a knot in nothings", False),
    ],
)
def test_a_negation_stands_at_the_peak_or_shortly_before(text, expected):
    words = text.split()
    tokens = torch.arange(len(words))[None]
    peak = Strongest(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64), torch.tensor([[len(words) - 1]]))
    assert is_negation(peak, tokens, 0, lambda token: f" {words[token]}") is expected


def test_half_of_the_contexts_are_enough_and_silent_ones_do_not_count():
    tokens = torch.tensor([[0], [1], [1]])
    window = torch.tensor([[0], [1], [2]])
    where = torch.zeros(3, 1, dtype=torch.int64)

    def found(*values):
        return is_negation(Strongest(torch.tensor(values)[:, None], window, where), tokens, 0, ["no", "so"].__getitem__)

    assert found(3.0, 2.0, 0.0)
    assert not found(3.0, 2.0, 1.0)
    assert not found(0.0, 0.0, 0.0)


def test_the_summary_counts_features_with_enough_active_tokens():
    row = {"steps": 5, "trained": 50, "k": 2}
    values = [(0.8, 20), (0.6, 30), (0.9, 9), (float("nan"), 40)]
    (found,) = correlation_summary([row | {"active_correlation": v, "active": n} for v, n in values], fewest=10)
    assert found["features"] == 2
    assert found["mean_correlation"] == pytest.approx(0.7)
    assert found["share_above"] == 0.5
