"""S01 to S06: model folders that attack. Every attack is a real file; a marker file shows whether
any code of it ran.
"""

import json
import pickle
import shutil
import socket
import struct
import time
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from peak_memory import peak_memory
from toy_models import SENTENCES

from trainer.errors import BadModel
from trainer.models.dense import DenseSettings, build_dense_encoder, read_encoder
from trainer.models.files.vetting import check_safetensors
from trainer.models.formats.folder import save_encoder


@pytest.fixture
def victim(toy_folder, tmp_path) -> Path:
    """A folder of ours with a projection and an adapter, to be spoiled."""
    save_encoder(
        build_dense_encoder(
            DenseSettings(backbone=str(toy_folder("bert")), projection_dimensions=8)
        ),
        tmp_path / "victim",
    )
    return tmp_path / "victim"


@pytest.fixture
def no_network(monkeypatch) -> list:
    """The hub is allowed, but every attempt to reach anything is written down and fails."""
    attempts: list = []

    def connect(self, address):
        attempts.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: connect(None, address))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return attempts


class Bomb:
    """Creates the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(folder: Path, match: str) -> None:
    with pytest.raises(BadModel, match=match):
        read_encoder(str(folder))
    with pytest.raises(BadModel, match=match):
        build_dense_encoder(DenseSettings(backbone=str(folder)))


# ---------------------------------------------------------------- S01


def test_s01_bomb_is_live(tmp_path):
    (tmp_path / "bomb").write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    pickle.loads((tmp_path / "bomb").read_bytes())
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "last.ckpt", "model.pth", "weights.pkl"]
)
def test_s01_pickled_weights_are_refused_with_the_way_to_convert_them(victim, tmp_path, name):
    (victim / "model.safetensors").unlink()
    (victim / name).write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    refused(victim, rf"{name}, a format that can run code .* convert it once: python -c")
    torch.save(Bomb(tmp_path / "marker"), victim / name)
    refused(victim, name)
    assert not (tmp_path / "marker").exists()


def test_s01_pickles_beside_good_weights_are_never_opened(victim, tmp_path):
    before = read_encoder(str(victim))
    for name in (
        "pytorch_model.bin",
        "optimizer.pt",
        "rng_state.pth",
        "training_args.bin",
        "scheduler.pt",
        "adapter/adapter_model.bin",
        "2_Dense/pytorch_model.bin",
        "1_Pooling/pytorch_model.bin",
    ):
        (victim / name).write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    after = read_encoder(str(victim))
    texts = before.tokenize(SENTENCES, "query")
    assert torch.equal(before(texts), after(texts))
    assert not (tmp_path / "marker").exists()


def test_s01_pickled_projection_or_adapter_is_refused(victim, tmp_path):
    for folder, weights in ((victim / "adapter", "adapter_model"), (victim / "2_Dense", "model")):
        (folder / f"{weights}.safetensors").unlink()
        (folder / f"{weights}.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    change(victim / "adapter" / "adapter_config.json", base_model_name_or_path="all-MiniLM-L6-v2")
    (victim / "adapter" / "nearfar.json").unlink()
    shutil.rmtree(victim / "adapter" / "2_Dense")
    with pytest.raises(BadModel, match=r"no adapter_model\.safetensors"):
        read_encoder(str(victim / "adapter"))
    refused(victim, r"2_Dense holds no model\.safetensors")
    assert not (tmp_path / "marker").exists()


# ---------------------------------------------------------------- S02


def tensor_file(
    path: Path, header: dict | bytes, data: bytes = b"", length: int | None = None
) -> Path:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content) if length is None else length) + content + data)
    return path


def entry(start: int, stop: int, shape=(2,), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


HOSTILE = {
    "negative offsets": ({"a": entry(-8, 0)}, b"\0" * 8),
    "stop before start": ({"a": entry(8, 0)}, b"\0" * 8),
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12),
    "a gap": ({"a": entry(0, 8), "b": entry(12, 20)}, b"\0" * 20),
    "beyond the end": ({"a": entry(0, 8)}, b"\0" * 4),
    "bytes left over": ({"a": entry(0, 8)}, b"\0" * 64),
    "shape and bytes differ": ({"a": entry(0, 8, shape=(2**31, 2**31))}, b"\0" * 8),
    "a negative shape": ({"a": entry(0, 8, shape=(-1, -2))}, b"\0" * 8),
    "a shape that overflows": ({"a": entry(0, 0, shape=(2**63, 2, 0))}, b""),
    "an unknown type": ({"a": entry(0, 8, dtype="PICKLE")}, b"\0" * 8),
    "true for a number": ({"a": entry(False, 8)}, b"\0" * 8),
    "no fields": ({"a": {}}, b""),
    "a list for a header": (b"[]", b""),
    "no JSON": (b"\x80\x04.", b""),
    "nested without end": (b'{"a":' * 100_000, b""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_s02_senseless_header_is_refused(victim, name):
    tensor_file(victim / "model.safetensors", *HOSTILE[name])
    refused(victim, "model.safetensors")


@pytest.mark.parametrize("said", [100 * 2**20, 2**63, 2**64 - 1])
def test_s02_header_of_a_hundred_megabytes_is_refused_quickly_in_little_memory(tmp_path, said):
    path = tensor_file(tmp_path / "model.safetensors", b'{"a":', length=said)
    with path.open("r+b") as file:
        file.truncate(101 * 2**20)
    start = time.perf_counter()
    refused_in_little_memory(path, f"says its header has {said} bytes")
    assert time.perf_counter() - start < 1


def test_s02_largest_allowed_header_is_refused_in_little_memory(tmp_path):
    header = b'{"a":[' + b"[]," * 1_390_000 + b"[]]}"
    refused_in_little_memory(tensor_file(tmp_path / "model.safetensors", header), "place or shape")


def refused_in_little_memory(path, match):
    with peak_memory() as peak, pytest.raises(BadModel, match=match):
        check_safetensors(path)
    assert peak.bytes < 200 * 2**20


@pytest.mark.parametrize("size", [0, 3, 7])
def test_s02_file_too_short_for_a_header_is_refused(tmp_path, size):
    (tmp_path / "model.safetensors").write_bytes(b"\0" * size)
    with pytest.raises(BadModel, match=r"model\.safetensors"):
        check_safetensors(tmp_path / "model.safetensors")


# ---------------------------------------------------------------- S03


EVIL = (
    "from pathlib import Path\nPath({marker!r}).touch()\nfrom transformers import BertConfig as"
    " Evil, BertModel as EvilModel\n"
)


def test_s03_keys_that_load_code_or_kernels_are_stripped(victim, tmp_path, no_network):
    before = read_encoder(str(victim))
    (victim / "evil.py").write_text(EVIL.format(marker=str(tmp_path / "marker")))
    code = {
        "auto_map": {
            "AutoConfig": "evil.Evil",
            "AutoModel": "evil.EvilModel",
            "AutoTokenizer": ["evil.Evil", "evil.Evil"],
        },
        "trust_remote_code": True,
        "_attn_implementation_internal": "evil/attention-kernel",
        "_attn_implementation": "evil/attention-kernel",
        "attn_implementation": "evil/attention-kernel@main:evil",
        "_experts_implementation_internal": "evil/experts",
        "use_kernels": True,
        "kernel_config": {"RMSNorm": "evil/kernels:Evil"},
    }
    change(victim / "config.json", **code, extra_config={"trust_remote_code": True, **code})
    change(victim / "tokenizer_config.json", **code)
    after = read_encoder(str(victim))
    texts = before.tokenize(SENTENCES, "query")
    assert torch.equal(before(texts), after(texts))
    assert not (tmp_path / "marker").exists()
    assert no_network == []
    assert "evil" not in json.dumps(after.pristine_config.to_dict())
    save_encoder(after, tmp_path / "again")
    assert not [path for path in (tmp_path / "again").rglob("*.json") if "evil" in path.read_text()]


def test_s03_architecture_with_its_own_code_is_refused(victim, tmp_path, no_network):
    (victim / "evil.py").write_text(EVIL.format(marker=str(tmp_path / "marker")))
    change(
        victim / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.EvilModel"},
    )
    refused(
        victim,
        "architecture 'evil' is not one that transformers .* code of its own, which is never run",
    )
    assert not (tmp_path / "marker").exists()
    assert no_network == []


def test_s03_quantised_weights_and_foreign_kinds_are_refused(victim):
    change(victim / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    refused(victim, "quantised weights")
    (victim / "config.json").write_text('{"model_type": "clip"}')
    refused(victim, "clip is not an encoder or decoder of text")


def test_s03_tokenizer_that_names_other_files_does_not_get_them(victim, tmp_path, no_network):
    secret = tmp_path / "secret.txt"
    secret.write_text("hunter2\n")
    change(
        victim / "tokenizer_config.json",
        vocab_file=str(secret),
        tokenizer_file=str(secret),
        name_or_path="evil/model",
    )
    encoder = read_encoder(str(victim))
    assert "hunter2" not in encoder.tokenizer.get_vocab()
    assert no_network == []


# ---------------------------------------------------------------- S04


@pytest.mark.parametrize(
    "kind",
    [
        "os.system",
        "evil.Module",
        "sentence_transformers.models.Evil",
        "sentence_transformers.models.Transformer; os",
        "",
        7,
        None,
    ],
)
def test_s04_foreign_types_of_modules_are_refused(victim, kind):
    modules = json.loads((victim / "modules.json").read_text())
    modules[1]["type"] = kind
    (victim / "modules.json").write_text(json.dumps(modules))
    refused(victim, "none of Transformer, Pooling, StaticEmbedding, Dense and Normalize")


@pytest.mark.parametrize(
    "place",
    [
        "../elsewhere",
        "/etc",
        "1_Pooling/../../elsewhere",
        "..",
        ".",
        "1_Pooling/x",
        "~",
        "1_Pooling\0",
        "C:\\x",
        "file://x",
    ],
)
def test_s04_paths_out_of_the_folder_are_refused(victim, tmp_path, place):
    shutil.copytree(victim / "1_Pooling", tmp_path / "elsewhere")
    modules = json.loads((victim / "modules.json").read_text())
    modules[1]["path"] = place
    (victim / "modules.json").write_text(json.dumps(modules))
    refused(victim, "not a plain name inside that folder")


@pytest.mark.parametrize(
    "name",
    [
        "1_Pooling",
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "nearfar.json",
        "2_Dense/model.safetensors",
    ],
)
def test_s04_links_out_of_the_folder_are_refused(victim, tmp_path, name):
    outside = tmp_path / "outside"
    shutil.move(victim / name, outside)
    (victim / name).symlink_to(outside)
    refused(victim, "is a link that leads out of")


def test_s04_links_of_the_hub_cache_are_followed(victim, tmp_path):
    before = read_encoder(str(victim))
    snapshot, blobs = (
        tmp_path / "models--a--b" / "snapshots" / "0123",
        tmp_path / "models--a--b" / "blobs",
    )
    shutil.copytree(victim, snapshot)
    blobs.mkdir()
    for number, path in enumerate(path for path in sorted(snapshot.rglob("*")) if path.is_file()):
        shutil.move(path, blobs / str(number))
        path.symlink_to(blobs / str(number))
    texts = before.tokenize(SENTENCES, "query")
    assert torch.equal(read_encoder(str(snapshot))(texts), before(texts))


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "[[]]",
        "[{}]",
        '"x"',
        "not json",
        "[" * 100_000,
        '[{"type": "sentence_transformers.models.Transformer", "path": ""}]',
    ],
)
def test_s04_invalid_pipeline_is_refused(victim, content):
    (victim / "modules.json").write_text(content)
    refused(victim, r"modules\.json")


# ---------------------------------------------------------------- S05


@pytest.mark.parametrize(
    "base",
    [
        "/etc",
        "../../elsewhere",
        "file:///etc",
        "http://169.254.169.254/model",
        "a/../b",
        "",
        None,
        ["x"],
    ],
)
def test_s05_base_outside_the_folder_is_refused(victim, no_network, base):
    change(victim / "adapter" / "adapter_config.json", base_model_name_or_path=base)
    with pytest.raises(BadModel, match="base model"):
        read_encoder(str(victim / "adapter"))
    assert no_network == []


def test_s05_local_folder_is_no_base_even_if_its_path_looks_like_a_hub_name(
    victim, toy_folder, tmp_path, monkeypatch
):
    shutil.copytree(toy_folder("bert"), tmp_path / "owner" / "model")
    monkeypatch.chdir(tmp_path)
    change(victim / "adapter" / "adapter_config.json", base_model_name_or_path="owner/model")
    with pytest.raises(BadModel, match="model owner/model"):
        read_encoder(str(victim / "adapter"))


@pytest.mark.parametrize("kind", ["LOHA", "EVIL", "", None, {"a": 1}])
def test_s05_unknown_type_is_refused(victim, kind):
    change(
        victim / "adapter" / "adapter_config.json",
        peft_type=kind,
        base_model_name_or_path="all-MiniLM-L6-v2",
    )
    with pytest.raises(BadModel, match="only LORA is read"):
        read_encoder(str(victim / "adapter"))


@pytest.mark.parametrize("key", ["auto_mapping", "modules_to_save", "trainable_token_indices"])
def test_s05_adapter_with_unknown_functions_is_refused(victim, key):
    value = (
        {"base_model_class": "Evil", "parent_library": "evil"}
        if key == "auto_mapping"
        else ["embeddings"]
    )
    change(
        victim / "adapter" / "adapter_config.json",
        **{key: value},
        base_model_name_or_path="all-MiniLM-L6-v2",
    )
    with pytest.raises(BadModel, match="also replaces whole modules"):
        read_encoder(str(victim / "adapter"))


# ---------------------------------------------------------------- S06


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "../model.safetensors",
        "sub/model.safetensors",
        "weights.bin",
        "missing.safetensors",
        "",
        7,
    ],
)
def test_s06_sharded_index_that_points_elsewhere_is_refused(victim, name):
    shutil.copy(victim / "model.safetensors", victim.parent / "model.safetensors")
    (victim / "weights.bin").write_bytes((victim / "model.safetensors").read_bytes())
    (victim / "model.safetensors").rename(victim / "model-00001-of-00001.safetensors")
    index = {
        "weight_map": {
            "a": "model-00001-of-00001.safetensors",
            "embeddings.word_embeddings.weight": name,
        }
    }
    (victim / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(victim, "not a plain name inside|no such safetensors file")


def test_s06_good_sharded_index_is_read(victim):
    from safetensors.torch import load_file, save_file

    before = read_encoder(str(victim))
    weights = load_file(victim / "model.safetensors")
    halves = [dict(list(weights.items())[::2]), dict(list(weights.items())[1::2])]
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for half, name in zip(halves, names, strict=True):
        save_file(half, victim / name)
    (victim / "model.safetensors").unlink()
    weight_map = {key: name for half, name in zip(halves, names, strict=True) for key in half}
    (victim / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    texts = before.tokenize(SENTENCES, "query")
    assert torch.equal(read_encoder(str(victim))(texts), before(texts))


# ---------------------------------------------------------------- S13


CONTRADICTIONS = {
    "ten million layers": {"num_hidden_layers": 10**7},
    "ten million layers as a float": {"num_hidden_layers": 1e7},
    "ten million layers in a part": {"text_config": {"num_hidden_layers": 10**7}},
    "as many layers as are allowed": {"num_hidden_layers": 1_000},
    "a few more layers": {"num_hidden_layers": 12},
    "fewer layers": {"num_hidden_layers": 1},
    "negative layers": {"num_hidden_layers": -1},
    "a huge vocabulary": {"vocab_size": 10**9},
    "a wide model": {"hidden_size": 2**20},
    "an impossible width": {"hidden_size": 2**40},
    "a wide layer": {"intermediate_size": 10**8},
    "many positions": {"max_position_embeddings": 10**9},
    "no width": {"hidden_size": 0},
    "text for a number": {"hidden_size": "32"},
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_s13_sizes_that_contradict_the_header_are_refused_before_anything_is_built(victim, name):
    change(victim / "config.json", **CONTRADICTIONS[name])
    with peak_memory() as peak:
        start = time.perf_counter()
        with pytest.raises(BadModel, match=r"config\.json"):
            read_encoder(str(victim))
        seconds = time.perf_counter() - start
    assert seconds < 1
    assert peak.bytes < 200 * 2**20


def test_s13_weights_are_not_read_if_the_configuration_contradicts_them(victim):
    """A file of a gigabyte, of which only the header is read."""
    change(victim / "config.json", num_hidden_layers=3)
    path = victim / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    end = len(content) - 8 - length
    header["more"] = entry(end, end + 2**30, shape=(2**28,))
    tensor_file(path, header, content[8 + length :])
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 2**30)
    with peak_memory() as peak, pytest.raises(BadModel, match=r"layer\.2|layers"):
        read_encoder(str(victim))
    assert peak.bytes < 200 * 2**20
