"""Training of language models: it learns what can be learnt, goes on bit by bit, and stops where it must."""

import json
import math
import os

import pytest
import torch

from models.language import LanguageConfig, generate, held_out_loss, token_losses, train_language
from models.transformer import TransformerConfig, build_transformer
from tensornet_interp.weights import WeightFiles, pack

SMALL = TransformerConfig(vocabulary=11, d_model=8, d_hidden=12, n_layers=2, n_heads=2, context=6)
SHORT = LanguageConfig(steps=7, batch_size=4, warmup=2, lr=1e-2)


def random_tokens(count, seed=0, vocabulary=11):
    return torch.randint(vocabulary, (count,), generator=torch.Generator().manual_seed(seed))


def model_of(seed=0, **changes):
    return build_transformer(TransformerConfig(**vars(SMALL) | changes), seed)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def without_seconds(history):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history.records]


@pytest.mark.parametrize("gate", ["none", "silu"])
def test_a_text_that_repeats_is_learnt(gate):
    tokens = torch.tensor([0, 3, 1, 4, 2, 5, 9]).repeat(60)  # every token decides the next
    model = model_of(gate=gate)
    before = held_out_loss(model, tokens)
    history = train_language(model, tokens, LanguageConfig(steps=150, batch_size=8, lr=1e-2), progress=False)
    assert before > math.log(11) / 2
    assert held_out_loss(model, tokens) < 0.1  # every token is given nine parts in ten
    assert history.records[-1]["step"] == 150
    assert generate(model, tokens[:2], 12, temperature=0).tolist() == tokens[:14].tolist()


def test_random_tokens_cannot_be_learnt_below_their_entropy():
    model, tokens = model_of(), random_tokens(7000)
    train_language(model, tokens, LanguageConfig(steps=100, batch_size=16, lr=3e-3), progress=False)
    # 3,000 fresh tokens: the mean log loss of a uniform guess is log 11 exactly; what was fitted only adds to it
    assert math.log(11) - 0.01 < held_out_loss(model, random_tokens(3000, seed=1)) < math.log(11) + 0.15


class Stop(Exception):
    """A run that is cut off."""


@pytest.mark.parametrize("stop", [1, 3, 5, 6])
def test_a_run_that_was_cut_off_ends_bit_by_bit_as_it_would_have(tmp_path, stop):
    tokens, held_out = random_tokens(100), random_tokens(40, seed=1)
    whole = model_of()
    expected = train_language(whole, tokens, SHORT, held_out=held_out, every=2, progress=False)
    seen = []

    def cut(step, model):
        if step == stop:
            raise Stop

    with pytest.raises(Stop):
        train_language(model_of(), tokens, SHORT, tmp_path, held_out=held_out, every=2, callback=cut, progress=False)
    resumed = model_of()
    history = train_language(
        resumed,
        tokens,
        SHORT,
        tmp_path,
        held_out=held_out,
        every=2,
        callback=lambda step, model: seen.append(step),
        progress=False,
    )
    assert seen == list(range((stop - 1) // 2 * 2, 7))
    assert same(resumed, whole)
    assert without_seconds(history) == without_seconds(expected)
    assert [record["step"] for record in history.records] == [2, 4, 6, 7]


def test_a_finished_run_is_read_back(tmp_path):
    first, second = model_of(), model_of()
    expected = train_language(first, random_tokens(100), SHORT, tmp_path, progress=False)
    calls = []
    history = train_language(
        second, random_tokens(100), SHORT, tmp_path, callback=lambda *_: calls.append(0), progress=False
    )
    assert same(first, second)
    assert history.records == expected.records
    assert calls == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": LanguageConfig(**vars(SHORT) | {"lr": 2e-2})}, r"lr there 0\.01, asked for 0\.02"),
        ({"model": model_of(gate="relu")}, "gate there 'none', asked for 'relu'"),
        ({"model": model_of(seed=1)}, "initial weights there '[0-9a-f]+', asked for '[0-9a-f]+'"),
        ({"tokens": random_tokens(100, seed=5)}, "text there"),
        ({"extra": {"beta": "linear"}}, "beta there None, asked for 'linear'"),
    ],
)
def test_a_folder_of_other_settings_is_refused_and_both_are_shown(tmp_path, change, said):
    tokens = random_tokens(100)
    train_language(model_of(), tokens, SHORT, tmp_path, progress=False)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    arguments = {"model": model_of(), "tokens": tokens, "config": SHORT, "folder": tmp_path} | change
    with pytest.raises(ValueError, match=said):
        train_language(**arguments, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept


def edit_state(change):
    """Change tensors and metadata of a state, and store it with checksums that fit."""

    def edit(path):
        files = WeightFiles(path)
        tensors, info = {name: files.read(name) for name in files.names}, json.loads(files.metadata["training"])
        change(tensors, info)
        path.write_bytes(pack(tensors, {"training": json.dumps(info)}))

    return edit


def spoil(name, value):
    return edit_state(lambda tensors, _: tensors[name].view(-1)[:1].fill_(value))


def put(**changes):
    return edit_state(lambda tensors, _: tensors.update({k.replace("__", "."): v for k, v in changes.items()}))


def info(**changes):
    return edit_state(lambda _, info: info.update(changes))


STATES = {  # what a resume did not look at
    "shape": (put(model__head__weight=torch.zeros(1, 8)), r"shape \(1, 8\), the model's is \(11, 8\)"),
    "shape of a moment": (put(exp_avg__head__weight=torch.zeros(1, 1)), r"'exp_avg.head.weight' has shape \(1, 1\)"),
    "dtype": (put(model__head__weight=torch.zeros(11, 8).double()), "is torch.float64, the model's is torch.float32"),
    "NaN": (spoil("model.head.weight", math.nan), "model.head.weight in .* has 1 entries that are NaN"),
    "infinite moment": (spoil("exp_avg.head.weight", math.inf), "exp_avg.head.weight in .* has 1 entries"),
    "negative square": (spoil("exp_avg_sq.head.weight", -1.0), "'exp_avg_sq.head.weight' has negative entries"),
    "missing": (edit_state(lambda tensors, _: tensors.pop("model.head.weight")), r"missing tensors \['model.head.wei"),
    "extra": (put(model__foot=torch.zeros(1)), r"extra tensors \['model.foot'\]"),
    "step beyond the end": (info(step=10**9), "step must be from 0 to 7, got 1000000000"),
    "negative step": (info(step=-1), "step must be from 0 to 7, got -1"),
    "step no number": (info(step="4"), "step must be a whole number, got '4'"),
    "step of other records": (info(step=3), r"records of steps \[4, 6, 7\] in a state after 3 steps"),
    "records": (info(records=3), "records must be a list"),
    "seconds": (info(seconds=-1.0), "seconds must be at least 0"),
    "no settings": (info(settings=None), "there are no settings in its metadata"),
    "deep": (lambda path: path.write_bytes(pack({}, {"training": "[" * 10**5})), "is not valid JSON"),
    "flipped bit": (
        lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 64])),
        "is corrupt: the checksum of .* does not match",
    ),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "corrupt or truncated"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "is not a regular file"),
}


@pytest.mark.parametrize("case", STATES)
def test_a_state_that_is_not_one_of_this_training_is_refused(tmp_path, case):
    edit, said = STATES[case]
    tokens = random_tokens(100)
    train_language(model_of(), tokens, SHORT, tmp_path, every=2, progress=False)
    edit(tmp_path / "training.safetensors")
    model = model_of()
    with pytest.raises(ValueError, match=said):
        train_language(model, tokens, SHORT, tmp_path, every=2, progress=False)
    assert same(model, model_of())  # as it was


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_resume_is_bit_by_bit_whatever_the_default_dtype(tmp_path, dtype):
    """Steps beyond 256, which bfloat16 cannot count."""
    tokens, config = random_tokens(100), LanguageConfig(steps=264, batch_size=1, warmup=2, lr=1e-2)
    whole, first, resumed = model_of(), model_of(), model_of()

    def cut(step, model):
        if step == 262:
            raise Stop

    torch.set_default_dtype(dtype)
    try:
        train_language(whole, tokens, config, every=259, progress=False)
        with pytest.raises(Stop):
            train_language(first, tokens, config, tmp_path, every=259, callback=cut, progress=False)
        train_language(resumed, tokens, config, tmp_path, every=259, progress=False)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(resumed, whole)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path):
    tokens = random_tokens(100)

    def spoil(step, model):
        if step == 5:
            with torch.no_grad():
                model.head.weight.fill_(float("nan"))

    with pytest.raises(FloatingPointError, match=r"nan.* at step 5 of 7; .*state after 4 steps is in") as caught:
        train_language(model_of(), tokens, SHORT, tmp_path, every=2, callback=spoil, progress=False)
    assert str(tmp_path) in str(caught.value)
    resumed, whole = model_of(), model_of()
    train_language(resumed, tokens, SHORT, tmp_path, every=2, progress=False)
    train_language(whole, tokens, SHORT, every=2, progress=False)
    assert same(resumed, whole)


def test_accumulation_changes_rounding_alone():
    tokens = random_tokens(100)
    whole, parts = model_of().double(), model_of().double()
    train_language(whole, tokens, SHORT, progress=False)
    train_language(parts, tokens, LanguageConfig(**vars(SHORT) | {"accumulation": 2}), progress=False)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        # the logits are rounded to float32 before the loss (6e-8); Adam's first steps divide by the gradient
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    assert not same(whole, model_of().double())


def test_training_stays_on_its_device(device, tmp_path):
    precision = "bfloat16" if device == "cuda" else "float32"
    config = LanguageConfig(steps=40, batch_size=4, lr=1e-2, precision=precision)
    tokens = torch.tensor([0, 3, 1, 4, 2, 5, 9]).repeat(10)
    model = model_of().to(device)
    history = train_language(model, tokens, config, tmp_path, every=20, progress=False)
    assert history.records[-1]["loss"] < history.records[0]["loss"]
    assert {parameter.device.type for parameter in model.parameters()} == {device}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    again = model_of().to(device)
    train_language(again, tokens, config, tmp_path, every=20, progress=False)
    assert same(again, model)


def test_every_window_is_taken_once_an_epoch(monkeypatch):
    tokens = torch.arange(6 * 5 + 1) % 11
    seen = []
    model = model_of()
    model.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0].tolist()))
    train_language(model, tokens, LanguageConfig(epochs=2, batch_size=2, warmup=0), progress=False)
    windows = [tokens[6 * i : 6 * i + 6].tolist() for i in range(5)]
    assert sorted(seen[:5]) == sorted(seen[5:]) == sorted(windows)
    assert seen[:5] != seen[5:]


def test_rates_rise_then_fall():
    config = LanguageConfig(lr=1.0, warmup=4, schedule="linear")
    assert [config.rate(step, 8) for step in range(8)] == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    constant = LanguageConfig(lr=1.0, warmup=0, schedule="constant")
    assert [constant.rate(step, 3) for step in range(3)] == [1.0, 1.0, 1.0]
    cosine = LanguageConfig(lr=1.0, warmup=0, schedule="cosine")
    assert [round(cosine.rate(step, 4), 6) for step in (0, 2)] == [1.0, 0.5]


@pytest.mark.parametrize("count", [2, 6, 7, 8, 25, 31])
def test_every_token_but_the_first_is_scored_once_in_its_window(count):
    model, tokens = model_of(), random_tokens(count)
    losses = token_losses(model, tokens, batch_size=2)
    assert losses.shape == (count - 1,)
    with torch.no_grad():
        for place in range(1, count):
            start = (place - 1) // 6 * 6
            expected = -model(tokens[None, start:place])[0, -1].log_softmax(-1)[tokens[place]]
            torch.testing.assert_close(losses[place - 1], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(held_out_loss(model, tokens), float(losses.double().mean()))


def test_draws_follow_the_model():
    model, prompt = model_of(), random_tokens(3)
    with torch.no_grad():
        logits = model(prompt[None])[0, -1]
    many = generate(model, prompt.expand(8000, -1), 1, temperature=0.5, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(many[:, -1], minlength=11) / 8000
    # five standard deviations of a share of 8,000 draws: 5 sqrt(0.25 / 8000) = 0.028
    torch.testing.assert_close(share, (logits / 0.5).softmax(-1), rtol=0, atol=0.028)
    few = generate(
        model, prompt.expand(500, -1), 1, temperature=5.0, top_k=3, generator=torch.Generator().manual_seed(0)
    )
    assert set(few[:, -1].tolist()) == set(logits.topk(3).indices.tolist())


def test_generation_sees_the_last_context_and_keeps_shape_and_streams():
    model, prompt = model_of(), random_tokens(20)
    state = torch.get_rng_state()
    one = generate(model, prompt, 9, generator=torch.Generator().manual_seed(3))
    two = generate(model, prompt, 9, generator=torch.Generator().manual_seed(3))
    assert torch.equal(one, two)
    assert one.shape == (29,)
    assert torch.equal(one[:20], prompt)
    late = generate(model, prompt[14:], 9, generator=torch.Generator().manual_seed(3))
    assert torch.equal(late[6:], one[20:])
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


def test_texts_on_disk_train_as_texts_in_memory(tmp_path):
    tokens = random_tokens(100)
    memory, disk = model_of(), model_of()
    train_language(memory, tokens, SHORT, progress=False)
    train_language(disk, tokens.to(torch.uint16), SHORT, tmp_path, progress=False)
    assert same(memory, disk)
