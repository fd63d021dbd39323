"""Files are opened by name and one tensor at a time; a broken or hostile one is a clear error, never a crash."""

import http.server
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers import normal
from published import make_config, make_tensors, one_shard_a_layer, write
from safetensors.torch import save_file

from tensornet_interp.features import Dictionary
from tensornet_interp.weights import (
    WeightFiles,
    load_config,
    load_layer,
    load_tensor,
    pack,
    save_dictionary,
    tensor_names,
)

TENSORS = make_tensors()


def test_names_tensors_and_config(tmp_path, device):
    config = make_config(another_key={"kept": [1]})
    write(tmp_path, {f"_orig_mod.{name}": value for name, value in TENSORS.items()}, config)
    assert tensor_names(tmp_path) == tuple(sorted(TENSORS))
    assert tensor_names(tmp_path / "model.safetensors") == tensor_names(str(tmp_path))
    assert load_config(tmp_path) == config
    embedding = load_tensor(tmp_path, "transformer.wte.weight", device=device, dtype=torch.float32)
    assert embedding.device.type == device
    assert torch.equal(embedding.cpu(), TENSORS["transformer.wte.weight"].float())


def test_every_size_and_dtype_is_read_as_it_was_written(tmp_path):
    values = torch.linspace(-2, 2, 6)
    tensors = {
        str(dtype): values.to(dtype, copy=True)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    }
    tensors |= {"0-dimensional": torch.tensor(3.0), "empty": torch.zeros(0, 4), "3": values.reshape(1, 2, 3)}
    save_file(tensors | {"whole": torch.arange(3)}, tmp_path / "some.safetensors")
    for name, tensor in tensors.items():
        found = load_tensor(tmp_path, name)
        assert torch.equal(found, tensor)
        assert found.dtype == tensor.dtype
    with pytest.raises(TypeError, match=r"tensors\['a'\] must be dense, got torch.sparse_coo"):
        pack({"a": torch.eye(2).to_sparse()}, {})
    with pytest.raises(ValueError, match="'whole' is stored as I64; convert it to one of F64, F32, F16, BF16"):
        load_tensor(tmp_path, "whole")


def test_a_layer_needs_its_own_shard_only(tmp_path):
    write(tmp_path, TENSORS, shards=one_shard_a_layer(TENSORS))
    for file in ("model-0.safetensors", "model-2.safetensors", "model-rest.safetensors"):
        (tmp_path / file).unlink()
    assert load_layer(tmp_path, 1).rank == 10
    assert len(tensor_names(tmp_path)) == len(TENSORS)
    with pytest.raises(FileNotFoundError, match=r"model-2\.safetensors is missing"):
        load_layer(tmp_path, 2)


def header(entries, data=b"\0" * 64):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HOSTILE = {
    "empty file": b"",
    "seven bytes": b"1234567",
    "header of 2^64": b"\xff" * 16,
    "header of 1 GB": struct.pack("<Q", 10**9) + b"{}",
    "no JSON": header(b"not json"),
    "a list": header([1, 2]),
    "deep JSON": header(b"[" * 100_000),
    "not UTF-8": header(b'{"\xff": 1}'),
    "no dtype": header({"a": {"shape": [1], "data_offsets": [0, 4]}}),
    "unknown dtype": header({"a": entry([16], 0, 64, "X9")}),
    "beyond the end": header({"a": entry([1000], 0, 4000)}),
    "huge shape": header({"a": entry([2**40, 2**40], 0, 64)}),
    "negative shape": header({"a": entry([-4, -4], 0, 64)}),
    "negative offset": header({"a": entry([16], -64, 0)}),
    "end before start": header({"a": entry([16], 64, 0)}),
    "overlap": header({"a": entry([16], 0, 64), "b": entry([16], 0, 64)}),
    "hole": header({"a": entry([8], 32, 64)}),
    "shape and bytes": header({"a": entry([3], 0, 64)}),
    "metadata no text": header({"__metadata__": {"a": 1}, "a": entry([16], 0, 64)}),
    "twice": header(
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}'
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(case, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(HOSTILE[case])
    with pytest.raises(ValueError, match=r"model\.safetensors is (not a whole safetensors file: )?corrupt"):
        load_tensor(tmp_path, "a")


def test_cut_and_spoiled_files_are_errors_or_read(tmp_path):
    """Cut at any length: an error. One byte of the header changed: an error, or a file that is as good as another."""
    save_file({"a": torch.arange(8.0), "b": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    path = tmp_path / "spoiled.safetensors"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="corrupt or truncated"):
            load_tensor(path, "a")
    stream, errors = random.Random(0), 0
    for _ in range(500):
        spoiled = bytearray(content)
        spoiled[stream.randrange(len(content) - 48)] = stream.randrange(256)
        path.write_bytes(spoiled)
        try:
            load_tensor(path, "a")
        except ValueError:
            errors += 1
    assert 300 < errors < 500


def test_a_file_that_shrinks_after_it_was_opened(tmp_path):
    save_file({"a": torch.arange(8.0)}, tmp_path / "model.safetensors")
    files = WeightFiles(tmp_path)
    with (tmp_path / "model.safetensors").open("rb+") as file:
        file.truncate((tmp_path / "model.safetensors").stat().st_size - 4)
    with pytest.raises(ValueError, match="truncated: it ends inside of 'a'"):
        files.read("a")


def shard_index(weight_map):
    def change(folder):
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps(weight_map))

    return change


def pickled(name):
    def change(folder):
        (folder / "model.safetensors").unlink()
        torch.save({"a": torch.ones(1)}, folder / name)

    return change


def several(folder):
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    (folder / "two.safetensors").write_bytes(b"")


def both_names(folder):
    save_file({"a.b": torch.ones(1), "_orig_mod.a.b": torch.zeros(1)}, folder / "model.safetensors")


BROKEN = {
    "config missing": (lambda f: (f / "config.json").unlink(), FileNotFoundError, "config.json is missing"),
    "config broken": (lambda f: (f / "config.json").write_text("{"), ValueError, "config.json is not valid JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), ValueError, "must hold a JSON object, got list"),
    "config deep": (lambda f: (f / "config.json").write_text("[" * 10**6), ValueError, "is not valid JSON"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, "neither model.safetensors nor"),
    "only pickles": (pickled("pytorch_model.bin"), ValueError, "only pickles such as pytorch_model.bin: convert it"),
    "pickle in disguise": (pickled("model.safetensors"), ValueError, "looks like a pickle, .*: convert it with"),
    "several files": (several, ValueError, r"several safetensors files .* one of \['one.*', 'two.*'\]"),
    "compiled and not": (both_names, ValueError, "has both .*'a.b'.*: two tensors of one name"),
    "index without map": (shard_index({}), ValueError, "must hold a weight_map from tensor names to files"),
    "index of numbers": (shard_index({"weight_map": {"a": 1}}), ValueError, "must hold a weight_map"),
    "index to outside": (
        shard_index({"weight_map": {"a": "../../secret.safetensors"}}),
        ValueError,
        "must name safetensors files of its own folder, got '../../secret.safetensors'",
    ),
    "index to a pickle": (shard_index({"weight_map": {"a": "part.bin"}}), ValueError, "must name safetensors files"),
    "index lies": (
        shard_index({"weight_map": {"transformer.wte.wait": "part.safetensors"}}),
        ValueError,
        "says that 'transformer.wte.wait' is in part.safetensors, which has no such tensor",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folders(case, tmp_path):
    change, kind, message = BROKEN[case]
    change(write(tmp_path, TENSORS))
    with pytest.raises(kind, match=message):
        load_config(tmp_path), load_tensor(tmp_path, "transformer.wte.wait" if case == "index lies" else "a")


def test_a_name_that_is_nearly_there_and_a_pickle_by_name(tmp_path):
    write(tmp_path, TENSORS)
    with pytest.raises(ValueError, match=r"'lm_haed.weight' is not in .*; did you mean 'lm_head.weight'\?"):
        load_tensor(tmp_path, "lm_haed.weight")
    (tmp_path / "x.pt").write_bytes(pickle.dumps(1))
    with pytest.raises(ValueError, match=r"x\.pt looks like a pickle, .* run code: convert it"):
        load_layer(tmp_path / "x.pt", 0)
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x\.pt is a pickle by its name.*convert it"):
        load_layer(tmp_path / "x.pt", 0)


class Hub(http.server.BaseHTTPRequestHandler):
    """What huggingface-hub asks of the hub when it fetches a file."""

    def do_GET(self):
        repo, _, name = self.path.partition("/resolve/main/")  # or another revision
        if not name:
            repo, _, name = self.path.partition("/resolve/v2/")
        path = self.server.folder / name
        found = repo == "/some/model" and path.is_file()
        content = path.read_bytes() if found else b""
        self.send_response(200 if found else 404)
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.send_header(*(("ETag", f'"{name}"') if found else ("X-Error-Code", "EntryNotFound")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
            if found:
                self.server.fetched.append(name)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def run(code, **environment):
    path = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"} | environment
    code = f"from tensornet_interp.weights import load_config, load_dictionary, load_layer\n{code}"
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)


@contextmanager
def hub(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.fetched = folder, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def test_from_the_hub_only_what_the_layer_needs_is_fetched(tmp_path):
    folder, home = write(tmp_path / "repo", TENSORS, shards=one_shard_a_layer(TENSORS)), str(tmp_path / "home")
    with hub(folder) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        online = run("print(load_layer('some/model', 1))", HF_ENDPOINT=address, HF_HOME=home)
        assert online.returncode == 0, online.stderr
        assert "'model layer 1', out=12, in=12, rank=10" in online.stdout
        assert server.fetched == ["config.json", "model.safetensors.index.json", "model-1.safetensors"]
    offline = run("print(load_layer('some/model', 1))\nload_layer('some/model', 2)", HF_HUB_OFFLINE="1", HF_HOME=home)
    assert offline.stdout == online.stdout  # what was fetched is kept
    assert "ConnectionError: 'some/model' is no folder here, and the hub could not be reached" in offline.stderr
    assert "model-2.safetensors: copy the checkpoint's files" in offline.stderr


SUBFOLDERS = """
print(load_layer('some/model@v2', 1, subfolder='step-9'))
for name in ("3-mlp-out-x2-k2", "sae", "layer_20/width_16k/average_l0_71"):
    found = load_dictionary('some/model', subfolder=name)
    print(found.name, found.k, tuple(found.encoder.shape))
"""
WRONG = """
for name in ("some/model", "some/modle", "some/model@v3"):
    try:
        load_dictionary(name, subfolder="3-mlp-out-x2-k9")
    except FileNotFoundError as error:
        print(str(error).splitlines()[0])
"""


@pytest.mark.slow
def test_subfolders_and_revisions_of_the_hub(tmp_path):
    folder, home = tmp_path / "repo", str(tmp_path / "home")
    write(folder / "step-9")
    dictionary = Dictionary(encoder=normal(10, 5), decoder=normal(5, 10), k=2, name="3-mlp-out-x2-k2")
    save_dictionary(dictionary, folder)
    (folder / "sae").mkdir()
    parts = {"W_enc": torch.ones(5, 7), "W_dec": torch.ones(7, 5), "b_enc": torch.ones(7), "b_dec": torch.ones(5)}
    save_file(parts, folder / "sae" / "sae_weights.safetensors")
    (folder / "sae" / "cfg.json").write_text("{}")
    scope = Path(__file__).with_name("sae_lens") / "gemma-scope-2b-pt-res"
    shutil.copytree(scope, folder, dirs_exist_ok=True)
    with hub(folder) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        online = run(SUBFOLDERS, HF_ENDPOINT=address, HF_HOME=home)
        assert online.returncode == 0, online.stderr
        wrong = run(WRONG, HF_ENDPOINT=address, HF_HOME=home)
    assert online.stdout.splitlines()[1:] == [
        "3-mlp-out-x2-k2 2 (10, 5)",
        "sae None (7, 5)",
        "layer_20/width_16k/average_l0_71 None (10, 6)",
    ]
    assert "'step-9 layer 1', out=12, in=12, rank=10" in online.stdout
    assert len(server.fetched) == len(set(server.fetched)) == 6
    lines = wrong.stdout.splitlines()
    assert len(lines) == 3, wrong.stderr
    assert all("is no folder here, and the hub has no 3-mlp-out-x2-k9/model.safetensors" in line for line in lines)
    offline = run(SUBFOLDERS, HF_HUB_OFFLINE="1", HF_HOME=home)
    assert offline.stdout == online.stdout, offline.stderr


def test_a_hub_name_without_the_client_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"or pass a folder.*pip install 'tensornet_interp\[hub\]'"):
        load_config("some/model")
    with pytest.raises(FileNotFoundError, match="neither a folder nor a safetensors file here, nor a hub name"):
        load_config(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="some/model' is neither a folder"):
        load_layer("../some/model", 0)


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        ("EntryNotFoundError", FileNotFoundError),
        ("LocalEntryNotFoundError", ConnectionError),
        ("RepositoryNotFoundError", FileNotFoundError),
        ("RevisionNotFoundError", FileNotFoundError),
        ("HfHubHTTPError", ConnectionError),
    ],
)
def test_what_the_hub_lacks_is_told_apart_from_a_hub_that_cannot_be_reached(raised, kind, monkeypatch):
    client = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: the extra hub")
    error = getattr(pytest.importorskip("huggingface_hub.errors"), raised)

    def download(*_, **__):
        raise error.__new__(error)  # made without its response, which differs between versions of the client

    monkeypatch.setattr(client, "hf_hub_download", download)
    with pytest.raises(kind, match="some/model"):
        load_tensor("some/model", "weight")
