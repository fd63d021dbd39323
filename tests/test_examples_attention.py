"""What heads do: the rule reads models that were made by hand, and every stage of the script runs and resumes."""

import shutil

import pytest
import torch
from attention_layers import layer_with
from helpers import normal, read_rows

from examples import attention
from examples.parts.attention_figures import token_scores
from examples.parts.attention_job import losses
from examples.parts.attention_rule import Found, Reading, ablated
from models.published import save_transformer
from models.text import encode_to_file, save_tokenizer, train_tokenizer
from models.toy_language import ToySample
from models.transformer import TransformerConfig, build_transformer
from tensornet_interp.attention import AttentionLayer, LinearMap, Part, SequenceNetwork

TOKENS, POSITIONS = 16, 8
# the stream holds the token itself, what a head of layer 0 copies from the token before, and what heads write
TOKEN, BEFORE, WRITTEN = (torch.eye(3 * TOKENS).double().split(TOKENS)[i] for i in range(3))  # (token, in) each
A, B, SOURCE, QUERY, TARGET = range(5)
STRONG = 6.0  # nats


def layer(query, key, write, read, *, kind, mask=None):
    """One head: query^T key is its score, write^T read its circuit; every bilinear head has the score twice."""
    ones = torch.ones(POSITIONS, POSITIONS).double().tril()
    made = AttentionLayer(
        down=write.T[:, None],
        value=read[None],
        mask=(ones if mask is None else mask)[None],
        queries=(query[None],) * (1 if kind == "softmax" else 2),
        keys=(key[None],) * (1 if kind == "softmax" else 2),
        softmax=kind == "softmax",
    )
    return Part(made, 1.0)


def chosen(*pairs, size=1.0):
    """A matrix (token, token) with an entry for every pair."""
    matrix = torch.zeros(TOKENS, TOKENS).double()
    for row, column in pairs:
        matrix[row, column] = size
    return matrix


def model(*layers, bigrams=None):
    """A stack whose head reads the token itself by `bigrams`, and what heads write."""
    own = chosen() if bigrams is None else bigrams
    return Reading(SequenceNetwork([*layers, LinearMap(weight=own @ TOKEN + WRITTEN)]), TOKEN, POSITIONS - 1)


def skip(kind):
    """A head that looks for the source from the query, and then writes the target."""
    looks = chosen((QUERY, SOURCE), size=STRONG if kind == "softmax" else 1.0)
    return layer(looks.T @ TOKEN, TOKEN, chosen((TARGET, SOURCE), size=STRONG / 2).T @ WRITTEN, TOKEN, kind=kind)


def induction(kind):
    """A head that hands on the token before, and one that looks for the present token there and copies."""
    shifted = torch.eye(POSITIONS).double().roll(-1, -1)
    shifted[0] = torch.eye(POSITIONS)[0]
    below = layer(torch.zeros_like(TOKEN), TOKEN, BEFORE, TOKEN, kind="softmax", mask=shifted)
    size = 2 * STRONG if kind == "softmax" else 1.0
    return below, layer(size * TOKEN, BEFORE, STRONG * WRITTEN, TOKEN, kind=kind)


def test_bigrams_are_read_from_the_direct_path():
    found = model(skip("softmax"), bigrams=chosen((B, A), size=STRONG)).bigrams()
    assert found.claims == {(A, B)}
    assert found.groups == [["direct"]]
    assert found.shares["direct"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("kind", ["softmax", "bilinear"])
def test_skip_trigrams_are_read_from_qk_and_ov(kind):
    reading = model(skip(kind))
    found = reading.skip_trigrams()
    assert found.claims == {(SOURCE, QUERY, TARGET)}
    assert found.groups == [["0.0"]]
    assert found.shares == {"0.0": pytest.approx(1)}
    assert reading.bigrams().claims == set()
    assert reading.induction() == Found(frozenset(), {}, {})


@pytest.mark.parametrize("kind", ["softmax", "bilinear"])
def test_induction_is_read_from_two_heads(kind):
    below, above = induction(kind)
    found = model(below, above).induction()
    assert found.claims == {(a, b) for a in range(TOKENS) for b in range(TOKENS) if a != b}
    assert found.groups == [["1.0"], ["0.0"]]
    assert model(skip("softmax"), above).induction().claims == set()  # no head hands on the token before
    assert model(below, skip("softmax")).induction().claims == set()  # no head looks for it


def test_the_expected_logits_are_those_of_the_network_on_the_mean_token():
    """All tokens but the last are the mean token: then nothing is left out in the first layer."""
    for kind in ("softmax", "bilinear"):
        reading = model(skip(kind), bigrams=chosen((B, A), (A, B), size=2.0))
        x = torch.cat([TOKEN.mean(0).expand(TOKENS, POSITIONS - 1, -1), TOKEN[:, None]], 1)
        logits = reading.network(x)[:, -1]
        expected = torch.stack(list(reading.usual().values())).sum(0)
        torch.testing.assert_close(logits - logits.mean(-1, keepdim=True), expected)


def test_a_score_compares_lists():
    found = Found(frozenset({(0, 1), (2, 3)}), {}, {})
    assert found.score({(0, 1), (2, 3)}) == 1
    assert found.score({(0, 1)}) == pytest.approx(2 / 3)
    assert found.score({(4, 1)}) == 0
    assert Found(frozenset(), {}, {}).score({(4, 1)}) == 0


def test_groups_are_the_large_shares_and_the_others_are_as_many():
    found = Found(frozenset(), {"1.0": 0.2, "1.1": 0.6, "1.2": 0.15, "1.3": 0.05}, {"0.0": 0.2, "0.1": 0.8})
    assert found.groups == [["1.1", "1.0"], ["0.1"]]
    assert found.others == [["1.2", "1.3"], ["0.0"]]


def test_an_ablated_component_is_its_mean():
    network = model(skip("softmax"), bigrams=chosen((B, A), size=2.0)).network
    x = TOKEN[torch.randint(0, TOKENS, (3, POSITIONS), generator=torch.Generator().manual_seed(0))]
    whole, written = network(x), network[0].map(x) @ WRITTEN.T
    mean = written.mean((0, 1))
    torch.testing.assert_close(ablated(network, x, []), whole)
    torch.testing.assert_close(ablated(network, x, ["0.0"]), whole - written + mean)
    own = whole - written
    torch.testing.assert_close(ablated(network, x, ["direct"]), whole - own + own.mean((0, 1)))
    torch.testing.assert_close(ablated(network, x, ["direct", "0.0"]), (own.mean((0, 1)) + mean).expand_as(whole))


def test_losses_are_means_over_the_positions_of_a_pattern():
    probabilities = torch.tensor([[[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]]]).double()
    sample = ToySample(torch.zeros(1, 3).long(), probabilities, torch.tensor([[0, 1, 2]]))
    best = losses(sample, probabilities.log())
    assert best == pytest.approx([0.693147, 0.0, 0.562335], abs=1e-5)
    flat = losses(sample, torch.zeros_like(probabilities))
    assert flat == pytest.approx([0.693147] * 3, abs=1e-5)


def test_the_scores_of_tokens_are_products_of_both_scores():
    made = layer_with(2)
    tokens = normal(6, 7, seed=3)
    expected = [made.qk(1, -1, score).entries(tokens, tokens) for score in (0, 1)]
    torch.testing.assert_close(token_scores(made, 1, -1, tokens).entries(), expected[0] * expected[1])


QUICK = "--steps 2 --seeds 0 --width 16 --heads 2 --context 8 --sequences 64 --tested 16 --no-progress"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    run(folder)
    return folder


def run(folder, *more):
    attention.main([*QUICK.split(), "--models", str(folder / "models"), "--out", str(folder / "out"), *more])


def test_the_table_has_three_columns_per_model_and_pattern(toy, capsys):
    rows = read_rows(toy / "out" / "table.csv")
    assert [(row["kind"], row["layers"], row["pattern"]) for row in rows] == [
        (kind, layers, pattern)
        for kind in ("bilinear", "softmax")
        for layers in ("1", "2")
        for pattern in ("bigram", "skip-trigram", "induction")
    ]
    for row in rows:
        assert {row[name] for name in ("learned", "found", "confirmed")} <= {"0", "1"}
        assert float(row["loss"]) > 1.1 * float(row["best"]) > 0
        assert row["learned"] == "0"
    text = (toy / "out" / "table.txt").read_text()
    assert text.count("softmax, 2 layers") == 3 + 3
    run(toy, "--replot")
    assert capsys.readouterr().out.startswith(text)


def test_figures_are_drawn_for_every_kind(toy):
    drawn = {path.name for path in (toy / "out").glob("*.png")}
    assert {
        f"{kind}_{n}_{name}.png" for kind in ("softmax", "bilinear") for n in (1, 2) for name in ("stack", "offsets")
    } <= drawn
    assert {f"{kind}_2_composition.png" for kind in ("softmax", "bilinear")} <= drawn


def test_a_run_continues_where_it_was_stopped(toy):
    """Models on disk are read; one that is missing is trained again, to the same numbers."""
    before = {path: path.stat().st_mtime_ns for path in (toy / "models").rglob("*.safetensors")}
    assert len(before) == 4
    table = (toy / "out" / "table.csv").read_bytes()
    lost = next(path for path in before if path.parent.name.startswith("bilinear-2"))
    shutil.rmtree(lost.parent)
    run(toy)
    assert (toy / "out" / "table.csv").read_bytes() == table
    after = {path: path.stat().st_mtime_ns for path in (toy / "models").rglob("*.safetensors")}
    assert [path for path in before if before[path] != after[path]] == [lost]
    run(toy, "--kinds", "softmax", "--layers", "1", "--steps", "3")  # other settings: another folder
    assert len(list((toy / "models").rglob("*.safetensors"))) == 5


@pytest.mark.slow
def test_a_softmax_model_of_two_layers_learns_and_the_rule_finds_it(tmp_path):
    attention.main(
        [
            *["--seeds", "0", "--kinds", "softmax", "--layers", "2", "--no-progress", "--models"],
            str(tmp_path),
            "--out",
            str(tmp_path),
        ]
    )
    rows = {row["pattern"]: row for row in read_rows(tmp_path / "table.csv")}
    assert {name: (row["learned"], row["found"]) for name, row in rows.items()} == dict.fromkeys(
        ("bigram", "skip-trigram", "induction"), ("1", "1")
    )


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """A random model with its tokenizer, and a file of tokens above it."""
    folder = tmp_path_factory.mktemp("language")
    words = [
        "once",
        "upon",
        "a",
        "time",
        "there",
        "was",
        "a",
        "cat",
        "who",
        "did",
        "not",
        "like",
        "the",
        "big",
        "red",
        "dog",
    ]
    generator = torch.Generator().manual_seed(0)
    stories = [" ".join(words[i] for i in torch.randint(0, 15, (30,), generator=generator)) for _ in range(30)]
    tokenizer = train_tokenizer(stories, 280)
    save_tokenizer(tokenizer, folder / "none-0" / "tokenizer.json")
    encode_to_file(tokenizer, stories, folder / "held_out.npy")
    config = TransformerConfig(tokenizer.get_vocab_size(), 8, 12, 2, 2, 16)
    save_transformer(build_transformer(config, seed=0), folder / "none-0")
    return folder


def test_heads_of_a_language_model_are_scored_and_its_mlp_is_read_back(language, capsys):
    out = language / "out"
    attention.main(["--model", str(language / "none-0"), "--text-tokens", "256", "--out", str(out), "--no-progress"])
    heads = read_rows(out / "heads.csv")
    assert [row["head"] for row in heads] == ["0.0", "0.1", "1.0", "1.1"]
    for row in heads:
        assert -1 <= float(row["copying"]) <= 1
        assert 0 <= float(row["previous"]) <= 1
        assert 0 <= float(row["prefix"]) <= 1
    rows = read_rows(out / "read_back.csv")
    assert {row["head"] for row in rows} == {"1.0", "1.1"}
    for direction in {row["direction"] for row in rows}:
        mine = [row for row in rows if row["direction"] == direction]
        assert sum(float(row["share"]) for row in mine) == pytest.approx(1)
        assert all(float(row["change"]) > 0 for row in mine)
        assert (out / f"read_back_{direction}.png").read_bytes().startswith(b"\x89PNG")
    assert "largest pairs" in capsys.readouterr().out


def test_a_gated_language_model_is_refused(language):
    config = TransformerConfig(7, 8, 12, 1, 2, 16, gate="silu")
    save_transformer(build_transformer(config, seed=0), language / "silu-0")
    with pytest.raises(ValueError, match="gate"):
        attention.main(["--model", str(language / "silu-0"), "--out", str(language / "gated"), "--no-progress"])


def test_contexts_that_are_too_short_are_refused_before_training():
    with pytest.raises(ValueError, match=r"--context must be at least 5: a figure .*, got 4"):
        attention.main(["--context", "4", "--no-progress"])
