"""Files: a write is whole or not there, a read is of one version, and what a file claims is not believed."""

import json
import os
import threading
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.bilinear import ClassifierConfig, build_classifier
from models.published import load_transformer, save_transformer
from models.storage import load_model, save_model
from models.tables import read_table
from models.text import load_tokens, read_stories
from models.transformer import TransformerConfig, build_transformer
from tensornet_interp import load, save
from tensornet_interp.disk import appending, open_file, parse_json, read_file, read_json, replace_file, replace_files
from tensornet_interp.testing import random_layer
from tensornet_interp.weights import WeightFiles, load_config, pack

SMALL = ClassifierConfig(inputs=7, width=5, hidden=6, classes=3)


def together(*calls):
    """Run the calls in threads of their own; an error of one is an error here."""
    errors = []

    def run(call):
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_files_are_replaced_and_nothing_else_is_left(tmp_path):
    parts = [(tmp_path / "new" / "a", b"1"), (tmp_path / "other" / "b", b"2")]
    replace_files(parts)
    replace_files([(path, content * 3) for path, content in parts])
    assert [path.read_bytes() for path, _ in parts] == [b"111", b"222"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "new", "other"]


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    def fail():
        with replace_file(tmp_path / "a") as file:
            file.write(b"new")
            raise KeyboardInterrupt

    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_stays(tmp_path):
    with replace_file(tmp_path / "slow") as slow:
        slow.write(b"first half, ")
        (living,) = tmp_path.iterdir()
        (tmp_path / living.name.replace(".tensornet_interp-", ".tensornet_interp-0")).write_bytes(b"left by a kill")
        (tmp_path / ".other.partial").write_bytes(b"of another program")
        replace_files([(tmp_path / "quick", b"")])
        assert sorted(tmp_path.iterdir()) == sorted([living, tmp_path / "quick", tmp_path / ".other.partial"])
        slow.write(b"second half")
    assert (tmp_path / "slow").read_bytes() == b"first half, second half"


def test_threads_that_write_one_file_do_not_share_a_temporary_name(tmp_path):
    contents = [bytes([i]) * 100_000 for i in range(8)]

    def write(content):
        for _ in range(20):
            replace_files([(tmp_path / "a", content)])
            assert (tmp_path / "a").read_bytes() in contents

    together(*(lambda content=content: write(content) for content in contents))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_appending_is_one_at_a_time(tmp_path):
    def add():
        for _ in range(50):
            with appending(tmp_path / "a") as file:
                count = len(file.read() if file.seek(0) == 0 else b"")
                file.write(b"x" if count == file.tell() else b"?")

    together(*[add] * 8)
    assert (tmp_path / "a").read_bytes() == b"x" * 400


def test_appending_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("tensornet_interp.disk.PATIENCE", 0.05)
    with appending(tmp_path / "a"), pytest.raises(TimeoutError, match="a locked for more"), appending(tmp_path / "a"):
        pass


IRREGULAR = {
    "a pipe": lambda path: os.mkfifo(path),
    "a folder": lambda path: path.mkdir(),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}
READERS = [open_file, lambda path: read_file(path, 10), read_json, read_table, load_tokens, read_stories, appending]


@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("read", READERS)
def test_what_is_no_regular_file_is_an_error_and_not_waited_for(tmp_path, kind, read):
    IRREGULAR[kind](tmp_path / "a")
    with pytest.raises((ValueError, IsADirectoryError), match=r"not a regular file|Is a directory"):
        read(tmp_path / "a").__enter__()


def test_a_missing_file_and_a_circle_of_links(tmp_path):
    with pytest.raises(FileNotFoundError, match="a is missing"):
        open_file(tmp_path / "a")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        open_file(tmp_path / "a")


def test_a_file_is_not_read_beyond_its_limit(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of nothing
    with pytest.raises(ValueError, match=f"a has {1 << 40} bytes, but at most 10 are allowed"):
        read_file(tmp_path / "a", 10)
    for read in (read_json, read_table, WeightFiles, load_tokens, lambda path: list(read_stories(path))):
        with pytest.raises(ValueError, match="/a "):
            read(tmp_path / "a")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "", '{"a": 1, "a": 2}', b"\xff", "1" * 5000])
def test_text_that_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError, match="here is not valid JSON"):
        parse_json(text, "here")


def constant(value, size=400):
    return {name: torch.full((size, 12), float(value)) for name in ("down", "left", "right")}


def test_a_read_is_of_one_version(tmp_path):
    """A writer replaces the file while others read it: every layer has one value in all of its tensors."""
    layer = random_layer(3, 5, 4, seed=0)
    versions = [type(layer)(**{name: torch.full_like(getattr(layer, name), i) for name in constant(0)}) for i in (1, 2)]
    path = tmp_path / "layer.safetensors"
    save(versions[0], path)
    end = time.monotonic() + 2

    def write():
        while time.monotonic() < end:
            for version in versions:
                save(version, path)

    def read():
        while time.monotonic() < end:
            found = load(path)
            values = torch.cat([found.down.flatten(), found.left.flatten(), found.right.flatten()])
            assert float(values.min()) == float(values.max())

    together(write, read, read)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    metadata = {str(i): "é" * i for i in range(20)}
    contents = {pack(constant(1), metadata) for _ in range(5)}
    assert len(contents) == 1
    (tmp_path / "a.safetensors").write_bytes(contents.pop())
    assert all(map(torch.equal, load_file(tmp_path / "a.safetensors").values(), constant(1).values()))
    assert WeightFiles(tmp_path).metadata == metadata


def test_weights_stay_those_that_were_opened(tmp_path):
    """Opened before, read after the file was replaced: the old tensors, all of them."""
    path = tmp_path / "model.safetensors"
    save_file(constant(1), path)
    files = WeightFiles(path)
    replace_files([(path, pack(constant(2), {}))])
    assert {float(files.read(name).mean()) for name in files.names} == {1.0}
    assert {float(WeightFiles(path).read(name).mean()) for name in files.names} == {2.0}


def test_a_file_that_is_written_to_in_place_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(constant(1), path)
    files = WeightFiles(path)
    files.read("down")
    content = pack(constant(2), {})
    with path.open("rb+") as file:
        file.write(content[: path.stat().st_size])
    os.utime(path, (0, 0))  # a clock may be too coarse to tell the two writes apart
    with pytest.raises(ValueError, match="was changed after it had been opened"):
        files.read("left")


@pytest.mark.filterwarnings("ignore:.*config.json differs from the config")  # between the two renames
def test_models_and_their_configs_are_read_as_one(tmp_path):
    """Two writers of models of other sizes into one folder, and a reader: weights and config are always of one save."""
    configs = [SMALL, ClassifierConfig(**vars(SMALL) | {"hidden": 9, "gate": "relu"})]
    models = [build_classifier(config, seed=0) for config in configs]
    save_model(models[0], tmp_path)
    end = time.monotonic() + 2

    def write(model):
        while time.monotonic() < end:
            save_model(model, tmp_path)

    def read():
        while time.monotonic() < end:
            found = load_model(tmp_path)
            (model,) = (model for model in models if model.config == found.config)
            assert all(map(torch.equal, found.parameters(), model.parameters()))

    together(*(lambda model=model: write(model) for model in models), read)


def claims(folder, **config):
    tensors = build_transformer(TransformerConfig(vocabulary=7, d_model=8, d_hidden=6, n_layers=2, n_heads=2), seed=0)
    save_transformer(tensors, folder)
    content = WeightFiles(folder)
    stored = {name: content.read(name) for name in content.names}
    replace_files([(folder / "model.safetensors", pack(stored, {}))])
    info = load_config(folder) | config
    replace_files([(folder / "config.json", json.dumps(info).encode())])


@pytest.mark.parametrize("size", ["n_layer", "n_head", "n_ctx", "d_model", "d_hidden"])
def test_sizes_in_a_config_cost_nothing_before_they_are_compared(tmp_path, size):
    claims(tmp_path, **{size: 10**9})
    start = time.monotonic()
    if size == "n_ctx":  # no tensor has it
        assert load_transformer(tmp_path).config.context == 10**9
    else:
        with pytest.raises(
            ValueError,
            match=r"n_layer=1000000000|the config says|must be a multiple|sizes in config.json are not valid",
        ):
            load_transformer(tmp_path)
    assert time.monotonic() - start < 5  # building 10**9 names took 150 s, and grew
