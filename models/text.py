"""Text for language models: reading and cleaning of stories, a small lower-case BPE, tokens in memory or on disk."""

import codecs
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tensornet_interp.checks import check_bool, check_int
from tensornet_interp.disk import MAX_JSON, open_file, parse_json, read_file, replace_file, replace_files
from tensornet_interp.optional import optional

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = "<|endoftext|>"
OPENING = r"\n\s*\n(?=Once upon a time)"  # separates stories in a file without END
# traces of a wrong decoding (UTF-8 read as Latin-1 or cp1252, or replacement characters), and control characters
CORRUPT = re.compile("\ufffd|â€|[ÃÂ][\u0080-\u00bf]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
NPY = re.compile(  # the header that `encode_to_file` and `numpy.save` write
    rb"\x93NUMPY\x01\x00..\{'descr': '<u2', 'fortran_order': False, 'shape': \((\d{1,15}),\), \}\s*", re.DOTALL
)
PIECE = 1 << 20  # bytes read at a time
LONGEST = 1 << 24  # most characters of a story
SMALLEST, LARGEST = 257, 1 << 16  # 256 bytes and END; a token is 16 bits on disk
MOST_TOKENS = 1 << 20  # the library makes a list as long as the largest number of a token


@dataclass
class Cleaning:
    """A `Cleaning` counts the stories that were kept, and those that were removed for each reason."""

    kept: int = 0
    duplicates: int = 0
    corrupt: int = 0
    short: int = 0


def read_stories(
    path: str | Path,
    *,
    separator: str | None = None,
    shortest: int = 50,
    cleaning: Cleaning | None = None,
    seen: set[bytes] | None = None,
) -> Iterator[str]:
    """Yield the stories of a UTF-8 file in lower case, without blank lines and without spaces at the ends of lines.

    `separator` is a regular expression. None means `END`; if the first MiB of the file has no `END`, it means the blank
    line before a line that starts with "Once upon a time". Three kinds of stories are removed and counted in
    `cleaning`: shorter than `shortest` characters, corrupt (`CORRUPT`), and exact duplicates of a kept one. `seen`
    holds hashes of the kept stories. Give the same set for a second file to remove the stories of the first.

    Raises FileNotFoundError for a missing file; ValueError for bytes that are not UTF-8, naming the byte, for a story
    of more than `LONGEST` characters, and if no story is left.
    Memory: one MiB, the longest story, and 16 bytes of hash per story. The file may be larger than memory.
    """
    check_int("shortest", shortest, 1)
    open_file(path).close()  # a wrong path raises now, not at the first story
    counts, hashes = Cleaning() if cleaning is None else cleaning, set() if seen is None else seen
    return _clean(Path(path), separator, shortest, counts, hashes)


def _clean(path: Path, separator: str | None, shortest: int, cleaning: Cleaning, seen: set[bytes]) -> Iterator[str]:
    for raw in _split(path, separator):
        story = "\n".join(line for line in map(str.strip, raw.splitlines()) if line)
        if not story:
            continue
        text = story.lower()
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if len(text) < shortest:
            cleaning.short += 1
        elif CORRUPT.search(raw):  # in the raw text, because lower case hides some traces
            cleaning.corrupt += 1
        elif digest in seen:
            cleaning.duplicates += 1
        else:
            seen.add(digest)
            cleaning.kept += 1
            yield text
    if not cleaning.kept:
        raise ValueError(
            f"{path} holds no story: {cleaning.short} shorter than {shortest} characters, {cleaning.corrupt} corrupt, "
            f"{cleaning.duplicates} seen before"
        )


def _split(path: Path, separator: str | None) -> Iterator[str]:
    pattern = None if separator is None else re.compile(separator)
    rest = ""
    for text in _decode(path):
        if pattern is None:
            pattern = re.compile(re.escape(END) if END in text else OPENING)
        *whole, rest = pattern.split(rest + text)
        yield from whole
        if len(rest) > LONGEST:
            raise ValueError(f"{path} has a story of more than {LONGEST} characters: there is no separator in it")
    yield rest


def _decode(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    start = 0  # the place of the present piece in the file
    with open_file(path) as file:
        while True:
            piece = file.read(PIECE)
            held = len(decoder.getstate()[0])  # bytes of a character that began in the last piece
            try:
                text = decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                place = start - held + error.start
                raise ValueError(f"{path} is not UTF-8: byte {place} {error.reason}") from error
            start += len(piece)
            yield text.replace("\r\n", "\n")
            if not piece:
                return


def train_tokenizer(stories: Iterable[str], vocabulary: int = 2048) -> "Tokenizer":
    """Train a lower-case byte-level BPE of up to `vocabulary` tokens, one of which is END.

    It has fewer tokens if the text has too few pairs. Any text can be encoded, and decodes to its lower case. Needs
    `tokenizers` (the extra "text"). Raises ValueError for a vocabulary below 257 (256 bytes and END) or above 65,536.
    Memory: the distinct words of the stories.
    """
    check_int("vocabulary", vocabulary, SMALLEST, LARGEST, "256 bytes and the end of a story; 16 bits on disk")
    library = optional("tokenizers", "to make a tokenizer", "text")
    tokenizer: Tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.normalizer = library.normalizers.Lowercase()
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(stories, trainer)
    return tokenizer


def save_tokenizer(tokenizer: "Tokenizer", path: str | Path) -> None:
    """Write the tokenizer as a JSON file of the `tokenizers` library."""
    replace_files([(Path(path), tokenizer.to_str(pretty=True).encode())])


def load_tokenizer(path: str | Path, *, needs_end: bool = True) -> "Tokenizer":
    """Return the tokenizer in a JSON file of at most 32 MiB.

    needs_end: whether the tokenizer must have END, which `encode` needs. Raises FileNotFoundError for a
    missing file; ValueError if the file holds no tokenizer, one without END although it must have it, or one with token
    numbers above a million.
    """
    library = optional("tokenizers", "to read a tokenizer", "text")
    content = read_file(path, MAX_JSON)
    _check_parts(parse_json(content, str(path)), path)
    try:
        tokenizer: Tokenizer = library.Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path} is not a tokenizer: {error}") from error
    if check_bool("needs_end", needs_end):
        _end(tokenizer)
    return tokenizer


def _check_parts(content: Any, path: str | Path) -> None:
    """Raise ValueError for what ends the process in the library: huge token numbers, merges cut within a letter."""
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise ValueError(f"{path} is not a tokenizer: it has no model")
    vocabulary, merges, prefix = model.get("vocab"), model.get("merges"), model.get("continuing_subword_prefix")
    for token, number in vocabulary.items() if isinstance(vocabulary, dict) else ():
        check_int(f"{path}: the number of {token!r:.60}", number, 0, MOST_TOKENS)
    if not isinstance(prefix, str) or not isinstance(merges, list):
        return
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not str(parts[1]).startswith(prefix):
            raise ValueError(
                f"{path}: merge {merge!r:.60} does not continue with continuing_subword_prefix={prefix!r:.60}"
            )


def check_vocabulary(tokenizer: "Tokenizer", vocabulary: int) -> None:
    """Raise ValueError if the tokenizer has tokens that a model of `vocabulary` tokens lacks."""
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocabulary:
        raise ValueError(
            f"the tokenizer numbers tokens up to {largest}, the model's vocabulary ends at {vocabulary - 1}"
        )


def encode(tokenizer: "Tokenizer", stories: Iterable[str]) -> Tensor:
    """Return the tokens of all stories, (count,) in int64, with END after each story.

    Raises ValueError if there is no story.
    """
    parts = list(_encoded(tokenizer, stories))
    if not parts:
        raise ValueError("stories is empty: there is nothing to encode")
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))


def encode_to_file(tokenizer: "Tokenizer", stories: Iterable[str], path: str | Path) -> int:
    """Write the tokens of `encode` to an .npy file of uint16, story by story, and return their number.

    The text may be larger than memory. `load_tokens` reads the file, which appears when it is complete. Raises
    ValueError if there is no story.
    """
    count = 0
    with replace_file(Path(path)) as file:
        _write_header(file, count)
        start = file.tell()
        for part in _encoded(tokenizer, stories):
            file.write(part.tobytes())
            count += len(part)
        if not count:
            raise ValueError("stories is empty: there is nothing to encode")
        file.seek(0)
        _write_header(file, count)
        if file.tell() != start:
            raise RuntimeError(f"the header of an .npy file of {count} tokens is longer than one of none")
    return count


def _write_header(file: IO[bytes], count: int) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<u2", "fortran_order": False, "shape": (count,)})


def load_tokens(path: str | Path) -> Tensor:
    """Return the tokens of a file, (count,) in uint16, without reading them: only used parts come into memory.

    Raises FileNotFoundError for a missing file; ValueError if the file is not a complete one-dimensional array of
    uint16.
    """
    with open_file(path) as file:
        length = int.from_bytes(file.read(10)[8:], "little")
        file.seek(0)
        header = file.read(10 + length)
        found = NPY.fullmatch(header)
        if found is None:
            what = ascii(header[10:70].decode("latin-1")) if header.startswith(b"\x93NUMPY") else "another format"
            raise ValueError(f"{path} is not an .npy file of uint16 of one dimension, in little endian: {what}")
        shape = (int(found[1]),)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
        if shape[0] < 1 or size != start + 2 * shape[0]:
            raise ValueError(
                f"{path} is corrupt or truncated: {size} bytes, its {shape[0]} tokens need {start} + 2 each"
            )
        # copy on write: changes to the tensor never reach the file
        return torch.from_numpy(np.memmap(file, np.uint16, "c", start, shape))


def _encoded(tokenizer: "Tokenizer", stories: Iterable[str]) -> Iterator["np.ndarray[tuple[int], np.dtype[np.uint16]]"]:
    end = _end(tokenizer)
    largest = max(tokenizer.get_vocab().values())
    if largest >= LARGEST:
        raise ValueError(f"the tokenizer numbers tokens up to {largest}, 16 bits hold {LARGEST - 1}")
    for story in stories:
        yield np.array([*tokenizer.encode(story).ids, end], dtype=np.uint16)


def _end(tokenizer: "Tokenizer") -> int:
    end = tokenizer.token_to_id(END)
    if end is None:
        raise ValueError(f"the tokenizer has no token {END!r}, which ends a story; train one with train_tokenizer")
    return end
