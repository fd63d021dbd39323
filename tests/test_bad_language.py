"""Bad input of language models: text, tokens, options, folders."""

import pytest
import torch
from bad_input import cases, check

from models.language import LanguageConfig, generate, held_out_loss, token_losses, train_language
from models.text import encode, load_tokenizer, load_tokens, read_stories, train_tokenizer
from models.transformer import TransformerConfig, build_transformer

MODEL = build_transformer(TransformerConfig(vocabulary=11, d_model=8, d_hidden=12, n_layers=2, n_heads=2, context=6), 0)
TOKENS = torch.arange(40) % 11
CONFIG = LanguageConfig(steps=2, batch_size=2)


def train(tokens=TOKENS, config=CONFIG, **options):
    return train_language(MODEL, tokens, config, progress=False, **options)


TABLE = [
    ("short text", lambda: train(TOKENS[:6]), ValueError, r"at least context \+ 1 = 7, got shape \(6,\): the text is shorter than one window"),
    ("two texts", lambda: train(TOKENS.reshape(2, 20)), ValueError, r"tokens must be one sequence .*\(2, 20\)"),
    ("too many tokens", lambda: train(TOKENS + 1), ValueError, "run from 1 to 11 but the model's vocabulary is 11: the tokenizer does not fit"),
    ("negative tokens", lambda: train(TOKENS - 1), ValueError, "run from -1 to 9"),
    ("no whole tokens", lambda: train(TOKENS.float()), TypeError, r"int64 or uint16, got torch\.float32"),
    ("mixed precision", lambda: train(config=LanguageConfig(precision="bfloat16")), ValueError, "needs a model on a CUDA device, this one is on cpu"),
    ("every 0", lambda: train(every=0), ValueError, "every must be at least 1"),
    ("accumulation", lambda: LanguageConfig(batch_size=6, accumulation=4), ValueError, "multiple of accumulation, got 6 and 4"),
    ("schedule", lambda: LanguageConfig(schedule="step"), ValueError, "schedule must be one of constant, cosine, linear; got 'step'"),
    ("precision", lambda: LanguageConfig(precision="float16"), ValueError, "precision must be one of bfloat16, float32"),
    ("negative rate", lambda: LanguageConfig(lr=-1e-3), ValueError, "lr must be at least 0, got -0.001"),
    ("no steps", lambda: LanguageConfig(steps=0), ValueError, "steps must be at least 1"),
    ("steps in words", lambda: LanguageConfig(steps=1.5), TypeError, "steps must be a whole number"),
    ("one token", lambda: held_out_loss(MODEL, TOKENS[:1]), ValueError, r"at least 2, got shape \(1,\)"),
    ("loss, foreign tokens", lambda: token_losses(MODEL, TOKENS + 5), ValueError, "from 5 to 15"),
    ("no generator", lambda: generate(MODEL, TOKENS[:3], 2), ValueError, "generator is missing"),
    ("no prompt", lambda: generate(MODEL, TOKENS[:0], 2, temperature=0), ValueError, "at least one token to go on from"),
    ("foreign prompt", lambda: generate(MODEL, TOKENS + 1, 2, temperature=0), ValueError, "tokenizer does not fit"),
    ("cold", lambda: generate(MODEL, TOKENS, 2, temperature=-1.0), ValueError, "temperature must be at least 0"),
    ("top_k", lambda: generate(MODEL, TOKENS, 2, top_k=12), ValueError, "top_k must be from 1 to 11, got 12"),
    ("small vocabulary", lambda: train_tokenizer(["a story"], 256), ValueError, "vocabulary must be from 257 to 65536 .* got 256"),
    ("large vocabulary", lambda: train_tokenizer(["a story"], 70_000), ValueError, "vocabulary must be from 257 to 65536"),
    ("no stories", lambda: encode(train_tokenizer(["a story"], 257), []), ValueError, "stories is empty"),
    ("no text", lambda: read_stories("no/such.txt"), FileNotFoundError, r"no/such\.txt is missing"),
    ("no tokenizer", lambda: load_tokenizer("no/such.json"), FileNotFoundError, r"no/such\.json is missing"),
    ("no tokens", lambda: load_tokens("no/such.npy"), FileNotFoundError, r"no/such\.npy is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), cases(TABLE))
def test_bad_input_is_a_clear_error(call, kind, message):
    before = [parameter.clone() for parameter in MODEL.parameters()]
    check(call, kind, message)
    assert all(torch.equal(a, b) for a, b in zip(before, MODEL.parameters(), strict=True))
