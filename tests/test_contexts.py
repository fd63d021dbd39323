"""Max-activating examples against brute force, and how they are shown."""

from html.parser import HTMLParser

import pytest
import torch

from models.contexts import Context, as_html, as_text, contexts, peak_tokens, strongest
from models.transformer import TransformerConfig, build_transformer
from models.vectors import vectors_at, windows
from tensornet_interp.features import Dictionary

D, PLACE = 8, (1, "mlp-in")
TEXT = {0: " plain", 1: "<b>", 2: ' "&"', 3: "\n", 4: " $x$"}


@pytest.fixture(scope="module")
def setting():
    model = build_transformer(TransformerConfig(13, D, 6, 2, 2, 7), seed=0)
    rows = windows(torch.randint(0, 13, (7 * 40,), generator=torch.Generator().manual_seed(0)), 7)
    columns = torch.randn(D, 12, generator=torch.Generator().manual_seed(1))
    dictionary = Dictionary(columns.T.contiguous(), columns, k=3)
    codes = torch.cat([dictionary.encode(x) for x in vectors_at(model, rows, *PLACE)])  # (window, position, feature)
    return dictionary, model, rows, codes


@pytest.mark.parametrize(("n", "at_once"), [(1, 1), (5, 3), (40, 16)])
def test_the_strongest_windows_are_those_of_brute_force(setting, n, at_once):
    dictionary, model, rows, codes = setting
    found = strongest(dictionary, model, *PLACE, rows, n=n, at_once=at_once)
    expected = codes.max(1).values.topk(n, dim=0).values
    torch.testing.assert_close(found.values, expected)
    feature = torch.arange(12).expand(n, -1)
    torch.testing.assert_close(codes[found.windows, found.positions, feature], found.values)
    for column in found.windows.T.tolist():
        assert len(set(column)) == n
    assert found.alive().tolist() == [f for f in range(12) if int((codes[..., f].max(1).values > 0).sum()) >= n]


def test_a_context_is_the_text_around_the_peak_with_its_activations(setting):
    dictionary, model, rows, codes = setting
    found = strongest(dictionary, model, *PLACE, rows, n=4)
    made = contexts(dictionary, model, *PLACE, rows, found, [3, 9], before=2, after=1, at_once=3)
    assert list(made) == [3, 9]
    for feature, examples in made.items():
        assert [example.window for example in examples] == found.windows[:, feature].tolist()
        for example, position in zip(examples, found.positions[:, feature].tolist(), strict=True):
            first, last = max(0, position - 2), min(7, position + 2)
            assert example.tokens == tuple(rows[example.window, first:last].tolist())
            expected = codes[example.window, first:last, feature]
            torch.testing.assert_close(torch.tensor(example.activations), expected)
            assert example.tokens[example.peak] == int(rows[example.window, position])
        assert peak_tokens(found, rows, feature) == [example.tokens[example.peak] for example in examples]


def test_windows_without_the_feature_are_left_out(setting):
    dictionary, model, rows, _ = setting
    encoder, bias = dictionary.encoder.clone(), torch.zeros(12)
    encoder[4], bias[4] = 0, -1
    silent = Dictionary(encoder, dictionary.decoder, encoder_bias=bias, k=3)
    found = strongest(silent, model, *PLACE, rows, n=4)
    assert contexts(silent, model, *PLACE, rows, found, [4]) == {4: []}
    assert 4 not in found.alive()
    assert as_text([], str) == ""


EXAMPLES = [Context(0, 1, (0, 1, 2), (0.0, 4.0, 1.0)), Context(3, 0, (4, 3), (2.0, 0.0))]


def test_text_puts_active_tokens_in_brackets_or_shades_them():
    assert as_text(EXAMPLES, TEXT.get).splitlines() == ['       4   plain[<b>] ["&"]', "       2   [$x$]↵"]
    shaded = as_text(EXAMPLES, TEXT.get, color=True)
    assert shaded.count("\x1b[0m") == 3
    assert shaded.index("48;5;196m\x1b[30m<b>") < shaded.index("48;5;217m")  # the strongest is the fullest red


def test_control_characters_of_a_text_do_not_reach_the_terminal():
    assert "\x1b" not in as_text([Context(0, 0, (9,), (1.0,))], lambda _: "\x1b[2J")


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.outside = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.outside += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


def test_html_is_one_escaped_page_that_needs_nothing_else():
    written = as_html("a <script>", {"feature <i>1</i>": EXAMPLES}, TEXT.get)
    page = Page()
    page.feed(written)
    assert {tag for tag, _ in page.tags}.isdisjoint({"b", "i", "script", "link", "img"})
    assert page.outside == []
    text = "".join(page.text)
    for part in ("a <script>", "feature <i>1</i>", "<b>", '"&"', "$x$", "↵"):
        assert part in text
    spans = [attrs for tag, attrs in page.tags if tag == "span"]
    assert [span["title"] for span in spans] == ["4", "1", "2"]
    shades = [float(span["style"].rsplit(",", 1)[1].rstrip(")")) for span in spans]
    assert shades == [0.9, 0.3, 0.5]  # 0.1 + 0.8 activation / 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, m, r: strongest(d, m, *PLACE, r, n=41), "n must be from 1 to 40 .*40 windows"),
        (lambda d, m, r: strongest(d, m, 1, "mlp", r, n=1), "point must be one of mlp-in"),
        (
            lambda d, m, r: contexts(d, m, *PLACE, r, strongest(d, m, *PLACE, r, n=1), [12]),
            "features must be from 0 to 11, got 12",
        ),
    ],
)
def test_bad_input(setting, call, message):
    dictionary, model, rows, _ = setting
    with pytest.raises(ValueError, match=message):
        call(dictionary, model, rows)
