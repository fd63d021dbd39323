"""Figures 8 and 9 on small files of the published layout; the files that are needed; what is said without them."""

import math
import shutil

import numpy as np
import published
import pytest
import torch
from helpers import normal, read_rows

from examples import published_models
from examples.parts.published_job import KNOWN, PublishedJob, needed
from models.text import END, save_tokenizer, train_tokenizer
from models.transformer import Transformer, TransformerConfig
from tensornet_interp.features import Dictionary
from tensornet_interp.weights import save_dictionary

STORY = "once upon a time there was a bad cat who did not like the good dog but the dog was never sad"
WORDS = STORY.split()
FEATURES = 20


def stories(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        " ".join(WORDS[i] for i in torch.randint(0, len(WORDS), (40,), generator=generator).tolist()) + "."
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model of three layers, its tokenizer, two autoencoders of layer 1, and a text."""
    home = tmp_path_factory.mktemp("hub")
    tokenizer = train_tokenizer(stories(20, seed=0), 400)
    tensors = published.make_tensors(vocab=tokenizer.get_vocab_size(), dtype=torch.float32)
    published.write(home / "model", tensors)
    save_tokenizer(tokenizer, home / "tokenizer" / "tokenizer.json")
    for seed, point in enumerate(("mlp-in", "mlp-out")):
        encoder = normal(48, 12, seed=seed, dtype=torch.float32)
        decoder = torch.nn.functional.normalize(encoder, dim=1).T.contiguous()
        save_dictionary(Dictionary(encoder, decoder, k=5, name=f"1-{point}-x4-k5"), home / "saes")
    (home / "stories.txt").write_text(f"\n{END}\n".join(stories(60, seed=1)), encoding="utf-8")
    return home


def run(home, out, *more):
    """Run on the folders of `home`; options in `more` come last, so they count."""
    files = ["--model", str(home / "model"), "--dictionaries", str(home / "saes"), "--layer", "1", "--k", "5"]
    files += ["--tokenizer", str(home / "tokenizer" / "tokenizer.json"), "--text", str(home / "stories.txt")]
    published_models.main([*files, "--tokens", "1280", "--features", str(FEATURES), "--out", str(out), *more])


@pytest.fixture(scope="module")
def done(home, tmp_path_factory):
    out = tmp_path_factory.mktemp("published") / "out"
    run(home, out, "--pages")
    return out


def mlp_inputs(home, tensors, rows, layer):
    """The inputs of an MLP, from the raw tensors: (window * position, d)."""
    found = []
    for tokens in rows:
        x = tensors["transformer.wte.weight"][tokens].double()
        for i in range(layer + 1):
            qkv, o = (tensors[f"transformer.h.{i}.attn.{name}.weight"].double() for name in ("qkv", "o"))
            x = x + published.attention(published.rms(x), qkv, o) / math.sqrt(6)
            h = published.rms(x)
            x = x + published.raw_mlp({name: value.double() for name, value in tensors.items()}, i, h)
        found.append(h)
    return torch.cat(found)


def job_of(home, out):
    files = ["--model", str(home / "model"), "--dictionaries", str(home / "saes"), "--layer", "1", "--k", "5"]
    files += ["--tokenizer", str(home / "tokenizer" / "tokenizer.json"), "--text", str(home / "stories.txt")]
    return PublishedJob(
        published_models.read_options([*files, "--tokens", "1280", "--features", str(FEATURES), "--out", str(out)]), out
    )


def test_the_correlations_are_those_of_the_raw_tensors(home, done):
    job = job_of(home, done)
    tensors = published.make_tensors(vocab=job.model.config.vocabulary, dtype=torch.float32)
    x = mlp_inputs(home, tensors, job.held_rows, 1)
    truth = published.raw_mlp({name: value.double() for name, value in tensors.items()}, 1, x)
    encoder = normal(48, 12, seed=1, dtype=torch.float32).double()
    left, right = tensors["transformer.h.1.mlp.w.weight"].double().chunk(2)
    down = tensors["transformer.h.1.mlp.p.weight"].double()
    rows = [row for row in read_rows(done / "correlation.csv") if row["k"] == "2"]
    assert len(rows) == FEATURES
    for row in rows:
        direction = encoder[int(row["feature"])]
        matrix = torch.einsum("o,or,ri,rj->ij", direction, down, left, right)
        values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
        leading = values.abs().argsort(descending=True)[:2]
        both = torch.stack([(x @ vectors[:, leading]).square() @ values[leading], truth @ direction])
        # both sides come from float32 vectors, of which sums over 1,280 tokens are taken
        assert float(row["correlation"]) == pytest.approx(float(torch.corrcoef(both)[0, 1]), abs=1e-4)


def test_both_figures_are_reported_and_drawn(done):
    plane = read_rows(done / "plane.csv")
    pair = list(dict.fromkeys(row["feature"] for row in plane))
    assert len(pair) == 2
    assert {row["vector"] for row in plane} == {"bad - good", f"{END} not"}
    shares = [float(row[name]) for row in plane for name in ("captured", "along", "agree", "captured_place")]
    assert all(0 <= share <= 1 for share in shares)
    names = [f"{kind}-{feature}" for kind in ("interactions", "plane", "words", "activation") for feature in pair]
    for name in [*names, "correlations", "correlation_by_rank"]:
        assert (done / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    pages = {"index.html", *(f"feature-{feature}.html" for feature in pair)}
    assert {path.name for path in (done / "pages").iterdir()} == pages


def test_the_pair_is_the_most_opposed_one_of_named_features(done):
    (first, second) = dict.fromkeys(int(row["feature"]) for row in read_rows(done / "plane.csv"))
    firing = [int(row["feature"]) for row in read_rows(done / "features.csv") if row["point"] == "mlp-out"]
    columns = torch.nn.functional.normalize(normal(48, 12, seed=1, dtype=torch.float32).double(), dim=1)[firing]
    cosines = columns @ columns.T
    found = float(cosines[firing.index(first), firing.index(second)])
    assert found == pytest.approx(float(cosines.min()), abs=1e-6)


def test_models_are_compared_in_one_figure(done):
    shutil.copytree(done, done.parent / "other")
    published_models.main(["--compare", str(done), str(done.parent / "other")])
    assert (done / "comparison.png").is_file()


def test_models_of_one_name_are_not_compared(done):
    shutil.copytree(done, done.parent / "second" / done.name)
    with pytest.raises(ValueError, match=r"--compare: folders must have different names, got \['out', 'out'\]"):
        published_models.main(["--compare", str(done), str(done.parent / "second" / done.name)])


@pytest.mark.parametrize("changed", ["encoder", "bias"])
def test_other_files_do_not_reuse_results(home, done, tmp_path, changed):
    shutil.copytree(done, tmp_path / "out")
    shutil.copytree(home / "saes", tmp_path / "saes")
    encoder = normal(48, 12, seed=7 if changed == "encoder" else 1, dtype=torch.float32)
    decoder = torch.nn.functional.normalize(encoder, dim=1).T.contiguous()
    bias = torch.ones(12) if changed == "bias" else None
    moved = Dictionary(encoder, decoder, decoder_bias=bias, k=5, name="1-mlp-out-x4-k5")
    save_dictionary(moved, tmp_path / "saes")
    with pytest.raises(ValueError, match="results of other settings"):
        run(home, tmp_path / "out", "--dictionaries", str(tmp_path / "saes"))


def test_the_same_tokens_with_other_words_do_not_reuse_results(home, tmp_path):
    """Names of features and the words in their planes come from the tokenizer."""
    numbers = torch.arange(320, dtype=torch.int32).remainder(50).numpy().astype("<u2")
    np.save(tmp_path / "tokens.npy", numbers)
    save_tokenizer(train_tokenizer([story.replace("bad", "mad") for story in stories(20, seed=0)], 400), tmp_path / "t")
    run(home, tmp_path / "out", "--text", str(tmp_path / "tokens.npy"))
    with pytest.raises(ValueError, match=r"results of other settings, \(there, now\): \{'tokenizer'"):
        run(home, tmp_path / "out", "--text", str(tmp_path / "tokens.npy"), "--tokenizer", str(tmp_path / "t"))


@pytest.mark.parametrize(("pair", "low"), [(["48", "2"], "from 0 to 47, got 48"), (["-1", "2"], "got -1")])
def test_features_that_are_none_are_refused(home, tmp_path, pair, low):
    with pytest.raises(ValueError, match=f"--pair must be .*{low}"):
        run(home, tmp_path / "out", "--pair", *pair)
    assert not list((tmp_path / "out").iterdir())


def test_tokens_of_another_model_leave_nothing_behind(home, tmp_path):
    np.save(tmp_path / "tokens.npy", torch.arange(1000, dtype=torch.int32).numpy().astype("<u2"))
    with pytest.raises(ValueError, match="the tokenizer belongs to another model"):
        run(home, tmp_path / "out", "--text", str(tmp_path / "tokens.npy"))
    assert not list((tmp_path / "out").iterdir())


def test_a_text_of_other_bytes_is_named(home, tmp_path):
    (tmp_path / "text").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"--text: .*text is neither UTF-8 nor an \.npy file"):
        run(home, tmp_path / "out", "--text", str(tmp_path / "text"))


def test_a_file_that_its_folder_lacks_is_not_on_disk(home):
    options = published_models.read_options(["--dry-run", "--model", str(home / "saes"), "--dictionaries", "some/saes"])
    said = [str(file) for file in needed(options)]
    assert [line.rsplit(", ", 1)[1] for line in said] == [
        *["missing there"] * 2,
        *["to be fetched"] * 2,
        "missing there",
    ]


def from_hub(home, fetched):
    """A download function over the folders of `home`, as the client has it."""
    errors = pytest.importorskip("huggingface_hub.errors", reason="huggingface_hub is not installed: the extra hub")

    def download(repo, file, *, subfolder=None, revision=None, local_files_only=False):
        path = home / repo.split("/")[1] / (subfolder or "") / file
        if not path.is_file():
            raise errors.EntryNotFoundError.__new__(errors.EntryNotFoundError)
        fetched.add(path.relative_to(home).as_posix())
        return str(path)

    return download


def test_from_the_hub_come_the_same_tables(home, done, tmp_path, monkeypatch):
    client, fetched = pytest.importorskip("huggingface_hub"), set()
    monkeypatch.setattr(client, "hf_hub_download", from_hub(home, fetched))
    text = ["--text", str(home / "stories.txt"), "--tokens", "1280", "--features", str(FEATURES)]
    places = ["--model", "some/model", "--dictionaries", "some/saes", "--layer", "1", "--k", "5"]
    published_models.main([*places, *text, "--out", str(tmp_path / "out")])
    for name in ("correlation.csv", "plane.csv", "features.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (done / name).read_bytes()
    places = [f"saes/1-{point}-x4-k5/model.safetensors" for point in ("mlp-in", "mlp-out")]
    assert fetched == {"model/config.json", "model/model.safetensors", "tokenizer/tokenizer.json", *places}


def test_a_dry_run_names_the_files_and_fetches_nothing(monkeypatch, capsys, tmp_path):
    client = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: the extra hub")
    monkeypatch.setattr(client, "hf_hub_download", lambda *_, **__: pytest.fail("a download"))
    published_models.main(["--dry-run", "--which", "fineweb-16", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    known = KNOWN["fineweb-16"]
    assert f"{known.model}: model.safetensors, {4 * known.parameters / 1e6:,.1f} MB, to be fetched" in printed
    for point in ("mlp-in", "mlp-out"):  # two matrices of 1024 by 4096, and a bias, of 4 bytes each
        assert f"{known.dictionaries}: 12-{point}-x4-k30/model.safetensors, 33.6 MB, to be fetched" in printed
    assert not (tmp_path / "out").exists()


def test_files_on_disk_have_their_true_size(home):
    options = job_of(home, home / "unused").options
    sizes = {file.file: file for file in needed(options)}
    assert sizes["model.safetensors"].size == (home / "model" / "model.safetensors").stat().st_size
    assert all(file.here for file in sizes.values())


@pytest.mark.parametrize("which", KNOWN)
def test_the_number_of_parameters_is_that_of_the_layout(which):
    known = KNOWN[which]
    sizes = TransformerConfig(known.vocabulary, known.d_model, known.d_hidden, known.layers, 8)
    model = Transformer(sizes, device="meta")
    assert known.parameters == sum(part.numel() for part in model.parameters())


@pytest.mark.parametrize(("which", "millions"), [("fineweb-12", 162), ("fineweb-16", 335)])
def test_the_sizes_give_the_number_of_parameters_that_the_paper_says(which, millions):
    assert KNOWN[which].parameters / 1e6 == pytest.approx(millions, rel=0.01)


def test_without_a_network_it_says_what_it_would_have_fetched(home, monkeypatch, tmp_path):
    client = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: the extra hub")
    error = pytest.importorskip("huggingface_hub.errors").LocalEntryNotFoundError

    def unreachable(*_, **__):
        raise error.__new__(error)

    monkeypatch.setattr(client, "hf_hub_download", unreachable)
    with pytest.raises(ConnectionError) as raised:
        published_models.main(["--text", str(home / "stories.txt"), "--out", str(tmp_path / "out")])
    message = str(raised.value)
    known = KNOWN["tinystories"]
    for part in (f"{known.model}: model.safetensors", f"{known.dictionaries}: 4-mlp-out-x4-k30/model.safetensors"):
        assert part in message
    assert "pass --model FOLDER --dictionaries FOLDER --tokenizer FILE" in message


def test_a_folder_without_its_files_is_named(home, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"1-mlp-in-x4-k6 is missing[\s\S]*pass --model FOLDER"):
        run(home, tmp_path / "out", "--k", "6")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--text is needed"),
        (["--text", "nowhere.txt"], "--text: nowhere.txt is missing"),
        (["--which", "gpt"], "invalid choice"),
        (["--dry-run", "--pair", "3", "3"], "two different features are needed, got 3 twice"),
    ],
)
def test_wrong_options_end_before_anything_is_opened(options, message, capsys):
    with pytest.raises(SystemExit):
        published_models.main(options)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--layer", "-1"), ("--tokens", "0"), ("--features", "0")])
def test_numbers_below_their_range_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} must be at least"):
        published_models.main(["--dry-run", option, value])
