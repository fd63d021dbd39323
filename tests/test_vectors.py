"""What the streams and the buffer hand out is what passes in the model, each vector once."""

import pytest
import torch

from models.transformer import POINTS, TransformerConfig, build_transformer
from models.vectors import VectorBuffer, vectors_at, windows

CONFIG = TransformerConfig(vocabulary=11, d_model=8, d_hidden=6, n_layers=3, n_heads=2, context=5)


def small_model():
    return build_transformer(CONFIG, seed=0)


def tokens(count, seed=1, high=11):
    return torch.randint(0, high, (count,), generator=torch.Generator().manual_seed(seed))


def rows_of(batches):
    """As a sorted list, so that two orders can be compared."""
    return sorted(map(tuple, torch.cat(list(batches)).tolist()))


def test_windows_are_the_text_in_order_without_the_rest():
    text = tokens(17)
    cut = windows(text, 5)
    assert cut.shape == (3, 5)
    assert torch.equal(cut.flatten(), text[:15])


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("layer", [0, 2])
def test_vectors_are_what_a_hook_in_the_whole_model_sees(point, layer):
    model, rows, seen = small_model(), windows(tokens(35), 5), []
    with model.hooked({(layer, point): lambda x: seen.append(x.detach())}):
        model(rows)
    found = torch.cat(list(vectors_at(model, rows, layer, point, at_once=3)))
    assert found.shape == (7, 5, 8)
    torch.testing.assert_close(found, seen[0])
    assert not found.requires_grad


def test_a_pass_of_the_buffer_holds_each_vector_once_in_another_order():
    model, rows = small_model(), windows(tokens(200), 5)
    everything = torch.cat([x.flatten(0, 1) for x in vectors_at(model, rows, 1, "mlp-in", at_once=2)])
    batches = list(VectorBuffer(model, rows, 1, "mlp-in", size=40, batch_size=16, seed=3, at_once=2))
    assert [len(batch) for batch in batches[:-1]] == [16] * (len(batches) - 1)
    torch.testing.assert_close(torch.tensor(rows_of(batches)), torch.tensor(rows_of([everything])))
    assert not torch.allclose(torch.cat(batches), everything)


def test_a_batch_mixes_windows():
    model, rows = small_model(), windows(tokens(500), 5)
    place = {tuple(x.tolist()): i for i, w in enumerate(vectors_at(model, rows, 1, "mlp-in", at_once=1)) for x in w[0]}
    first = next(iter(VectorBuffer(model, rows, 1, "mlp-in", size=200, batch_size=20, seed=0, at_once=1)))
    assert len({place[tuple(x.tolist())] for x in first}) > 10


def test_the_seed_decides_and_every_pass_has_its_own_order():
    def run(seed):
        stream = VectorBuffer(model, rows, 0, "resid-mid", size=20, batch_size=10, seed=seed).endless()
        return [next(stream) for _ in range(20)]

    model, rows = small_model(), windows(tokens(100), 5)
    first, again, other = run(0), run(0), run(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(torch.cat(first), torch.cat(other))
    assert rows_of(first[:10]) == rows_of(first[10:])  # two passes
    assert not torch.equal(torch.cat(first[:10]), torch.cat(first[10:]))


def test_the_global_stream_of_random_numbers_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(VectorBuffer(small_model(), windows(tokens(50), 5), 0, "mlp-out", size=20, batch_size=10))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"point": "mlp_in"}, ValueError, "point must be one of mlp-in, mlp-out, .*did you mean 'mlp-in'"),
        ({"layer": 3}, ValueError, "layer must be from 0 to 2, got 3"),
        ({"size": 19}, ValueError, "size must be at least 20 .*19"),
        ({"windows": torch.full((2, 5), 11)}, ValueError, "tokens from 0 to 10.*got 11.*tokenizer"),
        ({"windows": torch.zeros(2, 6, dtype=torch.int64)}, ValueError, "6 positions, the model's context is 5"),
        ({"windows": torch.zeros(2, 5)}, TypeError, "windows must be int64.*float32"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
    ],
)
def test_bad_input_is_an_error_before_the_model_runs(change, kind, message):
    options = {"windows": windows(tokens(50), 5), "layer": 0, "point": "mlp-in", "size": 20, "batch_size": 10} | change
    with pytest.raises(kind, match=message):
        VectorBuffer(small_model(), **options)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (tokens(4), ValueError, "at least one context of 5, got 4"),
        (tokens(20).float(), TypeError, "int64 of shape .tokens,., got torch.float32"),
        ([1, 2, 3], TypeError, "got list"),
    ],
)
def test_a_text_that_is_none_is_an_error(text, kind, message):
    with pytest.raises(kind, match=message):
        windows(text, 5)


def test_a_point_that_does_not_exist_lists_those_that_do():
    with pytest.raises(ValueError, match="mlp-in, mlp-out, resid-mid, resid-post, resid-pre; got 'post'"):
        vectors_at(small_model(), windows(tokens(50), 5), 0, "post")
