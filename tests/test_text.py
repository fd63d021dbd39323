"""Stories come out of a file clean, whatever its pieces; tokens come back as the text they were."""

import json

import numpy as np
import pytest
import torch

from models import text
from models.text import (
    END,
    Cleaning,
    check_vocabulary,
    encode,
    encode_to_file,
    load_tokenizer,
    load_tokens,
    read_stories,
    save_tokenizer,
    train_tokenizer,
)

STORIES = [
    "One day, a small dog named Ünal ran to the “park” and it was a very good day.",
    "Once upon a time there was a cat.\nThe cat was big, and the cat was red; everyone liked it.",
    "Tom and Anna like the sun, the sun and the rain, the wind and the snow: said Tom, “yes”.",
]


def write(folder, stories, separator=f"\n{END}\n"):
    path = folder / "text.txt"
    path.write_bytes(separator.join(stories).encode())
    return path


def test_stories_are_lower_case_without_blank_lines(tmp_path):
    path = write(tmp_path, ["  ONE day, a Dog.  \r\n\n \n He ran. \n", STORIES[0]])
    assert list(read_stories(path, shortest=5)) == ["one day, a dog.\nhe ran.", STORIES[0].lower()]


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 50, 10_000])
def test_pieces_do_not_matter(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(text, "PIECE", piece)
    path = write(tmp_path, STORIES)
    assert list(read_stories(path, separator=r"<\|endoftext\|>")) == [story.lower() for story in STORIES]


def test_what_is_removed_is_counted(tmp_path):
    spoiled = [STORIES[0] + bad for bad in ("â€œ", "\ufffd", "Ã©", "\x07", "\x92")]
    path = write(tmp_path, [STORIES[0], STORIES[0].upper(), "too short", *spoiled, STORIES[1], "", STORIES[0]])
    cleaning = Cleaning()
    kept = list(read_stories(path, cleaning=cleaning))
    assert kept == [STORIES[0].lower(), STORIES[1].lower()]
    assert cleaning == Cleaning(kept=2, duplicates=2, corrupt=5, short=1)


def test_a_second_file_can_be_rid_of_what_was_in_the_first(tmp_path):
    seen, cleaning = set(), Cleaning()
    assert len(list(read_stories(write(tmp_path, STORIES[:2]), seen=seen))) == 2
    path = write(tmp_path, [STORIES[1], STORIES[2], STORIES[0].upper()])
    assert list(read_stories(path, seen=seen, cleaning=cleaning)) == [STORIES[2].lower()]
    assert cleaning == Cleaning(kept=1, duplicates=2)


def test_accents_and_quotes_are_not_corrupt(tmp_path):
    story = "São Tomé: “Ça va?” — ‘Ênfase’, naïve Ångström, 日本, and an emoji 🐶 that wags its tail."
    assert list(read_stories(write(tmp_path, [story, STORIES[0]]))) == [story.lower(), STORIES[0].lower()]


def test_a_file_without_separators_is_cut_where_stories_open(tmp_path):
    stories = [f"Once upon a time there was a {animal} that was as good as gold.\n\nIt ran." for animal in "abc"]
    found = list(read_stories(write(tmp_path, stories, "\n\n")))
    assert found == [story.lower().replace("\n\n", "\n") for story in stories]


@pytest.mark.parametrize("piece", [4, 100])
@pytest.mark.parametrize("bad", [b"\xff", b"\xe2\x80", b"\xc3("])
def test_text_that_is_not_utf8_names_the_byte(tmp_path, monkeypatch, piece, bad):
    monkeypatch.setattr(text, "PIECE", piece)
    path = tmp_path / "text.txt"
    path.write_bytes("ü".encode() * 7 + bad)
    with pytest.raises(ValueError, match=r"text\.txt is not UTF-8: byte 14 "):
        list(read_stories(path))


@pytest.mark.parametrize("content", [[], ["short"], ["\ufffd" * 60]])
def test_a_text_without_a_story_is_an_error(tmp_path, content):
    with pytest.raises(ValueError, match="holds no story"):
        list(read_stories(write(tmp_path, content)))


def test_a_file_that_is_missing_is_said_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt"):
        read_stories(tmp_path / "nothing.txt")


def test_tokens_come_back_as_lower_case_text(tmp_path):
    tokenizer = train_tokenizer(STORIES, 300)
    assert tokenizer.get_vocab_size() == 300
    story = "A word 🐶 that the tokenizer\nhas NEVER seen: Ωmega"
    tokens = encode(tokenizer, [story, STORIES[0]])
    assert tokens.dtype == torch.int64
    end = tokenizer.token_to_id(END)
    first, second = [i for i, token in enumerate(tokens.tolist()) if token == end]
    assert second == len(tokens) - 1
    assert tokenizer.decode(tokens[:first].tolist()) == story.lower()
    assert tokenizer.decode(tokens[first + 1 : second].tolist()) == STORIES[0].lower()


def test_more_tokens_make_a_shorter_text():
    lengths = [len(encode(train_tokenizer(STORIES, size), STORIES)) for size in (257, 280, 320)]
    assert lengths[0] == sum(len(story.lower().encode()) + 1 for story in STORIES)  # bytes alone
    assert lengths[0] > lengths[1] > lengths[2]


def test_saved_tokenizers_come_back(tmp_path):
    tokenizer = train_tokenizer(STORIES, 300)
    save_tokenizer(tokenizer, tmp_path / "new" / "tokenizer.json")
    assert load_tokenizer(tmp_path / "new" / "tokenizer.json").to_str() == tokenizer.to_str()
    assert train_tokenizer(STORIES, 300).to_str() == tokenizer.to_str()


def test_a_tokenizer_of_another_model_may_lack_the_end_of_a_story(tmp_path):
    content = json.loads(train_tokenizer(STORIES, 300).to_str())
    content["added_tokens"] = []
    del content["model"]["vocab"][END]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has no token .*, which ends a story"):
        load_tokenizer(tmp_path / "a.json")
    found = load_tokenizer(tmp_path / "a.json", needs_end=False)
    assert found.decode(found.encode("a word").ids) == "a word"


def test_tokens_on_disk_are_those_in_memory(tmp_path):
    tokenizer = train_tokenizer(STORIES, 300)
    count = encode_to_file(tokenizer, iter(STORIES), tmp_path / "new" / "tokens.npy")
    tokens, expected = load_tokens(tmp_path / "new" / "tokens.npy"), encode(tokenizer, STORIES)
    assert tokens.dtype == torch.uint16
    assert count == len(expected)
    assert torch.equal(tokens.long(), expected)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tokens.npy"]


def test_a_text_that_breaks_off_leaves_no_token_file(tmp_path):
    def broken():
        yield STORIES[0]
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        encode_to_file(train_tokenizer(STORIES, 300), broken(), tmp_path / "tokens.npy")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_does_not_fit_is_refused():
    tokenizer = train_tokenizer(STORIES, 300)
    check_vocabulary(tokenizer, 300)
    with pytest.raises(ValueError, match="numbers tokens up to 299, the model's vocabulary ends at 298"):
        check_vocabulary(tokenizer, 299)


def changed(path, **changes):
    """The file of a tokenizer whose model was changed."""
    content = json.loads(train_tokenizer(STORIES, 300).to_str())
    content["model"] |= changes
    path.write_text(json.dumps(content))
    return content["model"]


def test_a_token_of_a_large_number_is_refused_before_16_bits_cut_it(tmp_path):
    vocabulary = changed(tmp_path / "a.json")["vocab"]
    changed(tmp_path / "a.json", vocab=vocabulary | {"z": 70_000})  # 300 tokens, as before
    tokenizer = load_tokenizer(tmp_path / "a.json")
    with pytest.raises(ValueError, match="numbers tokens up to 70000, the model's vocabulary ends at 299"):
        check_vocabulary(tokenizer, 300)
    with pytest.raises(ValueError, match="numbers tokens up to 70000, 16 bits hold 65535"):
        encode(tokenizer, STORIES)


def test_files_that_would_end_the_process_in_the_library_are_refused(tmp_path):
    vocabulary = changed(tmp_path / "a.json")["vocab"]
    changed(tmp_path / "a.json", vocab=vocabulary | {"z": 10**9})
    with pytest.raises(ValueError, match=r"a\.json: the number of 'z' must be from 0 to 1048576, got 1000000000"):
        load_tokenizer(tmp_path / "a.json")
    for prefix in ("none", "é"):
        changed(tmp_path / "a.json", continuing_subword_prefix=prefix)
        with pytest.raises(ValueError, match=f"does not continue with continuing_subword_prefix='{prefix}'"):
            load_tokenizer(tmp_path / "a.json")


@pytest.mark.parametrize("content", ["{}", "not JSON", '{"version": "1.0"}', '{"model": {"type": "BPE"}}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"is not a tokenizer|is not valid JSON"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_files_that_are_no_tokens_are_refused(tmp_path):
    (tmp_path / "a.npy").write_text("no array")
    np.save(tmp_path / "b.npy", np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"a\.npy is not an \.npy file .*another format"):
        load_tokens(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"uint16 of one dimension.*<f8.*\(2, 3\)"):
        load_tokens(tmp_path / "b.npy")


def test_nothing_to_encode_is_an_error(tmp_path):
    tokenizer = train_tokenizer(STORIES, 300)
    with pytest.raises(ValueError, match="stories is empty"):
        encode(tokenizer, [])
    with pytest.raises(ValueError, match="stories is empty"):
        encode_to_file(tokenizer, [], tmp_path / "tokens.npy")
