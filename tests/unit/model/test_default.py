"""Finding and making the default model: what is whole, what is refused, what is left behind."""

import json
import threading
import zipfile
from pathlib import Path

import pytest

from vllm_symphony.errors import DataCorrupt, NoSuchFile, SymphonyError
from vllm_symphony.model import default
from vllm_symphony.model.default import cache_root, default_model_path, ensure_default_model, is_whole


@pytest.fixture
def made(monkeypatch):
    """Replace the two slow phases; the list tells how often a model was made."""
    calls = []

    def convert(gguf, folder):
        calls.append(folder)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"0123456789")

    monkeypatch.setattr("vllm_symphony.model.convert.convert", convert)
    monkeypatch.setattr(default, "obtain_gguf", lambda work, say: work / "model.gguf")
    return calls


def visible(cache: Path):
    return sorted(p.name for p in (cache / "models").iterdir() if p.name != ".lock")


def test_it_is_made_once_and_found_ever_after(tmp_path, made):
    lines = []

    path = ensure_default_model(tmp_path, lines.append)
    again = ensure_default_model(tmp_path, lambda line: pytest.fail("a model that is there is silent"))

    assert path == again == default_model_path(tmp_path)
    assert len(made) == 1
    assert lines
    assert visible(tmp_path) == [path.name]
    assert json.loads((path / "symphony.json").read_text())["files"] == {"config.json": 2, "model.safetensors": 10}


@pytest.mark.parametrize(
    "harm",
    [
        lambda p: (p / "model.safetensors").write_bytes(b"01234"),
        lambda p: (p / "config.json").unlink(),
        lambda p: (p / "symphony.json").write_text("{"),
        lambda p: (p / "symphony.json").write_text('{"format": 0, "files": {}}'),
    ],
    ids=["cut", "missing", "torn manifest", "older format"],
)
def test_a_damaged_model_is_made_anew(tmp_path, made, harm):
    path = ensure_default_model(tmp_path)
    harm(path)
    assert not is_whole(path)

    ensure_default_model(tmp_path)

    assert is_whole(path)
    assert len(made) == 2
    assert visible(tmp_path) == [path.name]


def test_a_failed_build_leaves_nothing(tmp_path, made, monkeypatch):
    def fail(gguf, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("out of luck")

    monkeypatch.setattr("vllm_symphony.model.convert.convert", fail)
    with pytest.raises(RuntimeError):
        ensure_default_model(tmp_path)

    assert visible(tmp_path) == []


def test_the_rest_of_a_killed_build_is_swept(tmp_path, made):
    stale = default_model_path(tmp_path).with_name(".smollm2-135m-instruct-dead")
    stale.mkdir(parents=True)

    ensure_default_model(tmp_path)

    assert not stale.exists()


def test_two_at_once_make_one(tmp_path, made):
    threads = [threading.Thread(target=ensure_default_model, args=(tmp_path,)) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()

    assert len(made) == 1


def test_a_full_disk_is_explained(tmp_path, made, monkeypatch):
    monkeypatch.setattr(default, "SIZE_NEEDED_BYTES", 1 << 60)

    with pytest.raises(SymphonyError, match=r"no space.*SYMPHONY_CACHE"):
        ensure_default_model(tmp_path)


def test_a_cache_that_cannot_be_is_explained(tmp_path, made):
    (tmp_path / "file").write_text("")

    with pytest.raises(SymphonyError, match="name a model"):
        ensure_default_model(tmp_path / "file")


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("SYMPHONY_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_root() == Path.home() / ".cache" / "symphony"

    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_root() == Path("/x/symphony")

    monkeypatch.setenv("SYMPHONY_CACHE", "/y")
    assert cache_root() == Path("/y")
    assert cache_root(tmp_path) == tmp_path


def a_wheel(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as z:
        for name in names:
            z.writestr(name, b"not the model")
    return path


def test_a_wheel_with_something_else_in_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SYMPHONY_MODEL_WHEEL", str(a_wheel(tmp_path / "a.whl", "x/model.gguf")))

    with pytest.raises(DataCorrupt, match="sha256"):
        ensure_default_model(tmp_path / "cache")

    assert visible(tmp_path / "cache") == []


@pytest.mark.parametrize("names", [(), ("a.gguf", "b.gguf")])
def test_a_wheel_without_the_one_gguf_is_refused(tmp_path, monkeypatch, names):
    monkeypatch.setenv("SYMPHONY_MODEL_WHEEL", str(a_wheel(tmp_path / "a.whl", *names)))

    with pytest.raises(DataCorrupt, match=f"{len(names)} GGUF files"):
        ensure_default_model(tmp_path / "cache")


def test_a_torn_wheel_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.whl").write_bytes(b"PK\x03\x04 and no more")
    monkeypatch.setenv("SYMPHONY_MODEL_WHEEL", str(tmp_path / "a.whl"))

    with pytest.raises(DataCorrupt, match="not a whole wheel"):
        ensure_default_model(tmp_path / "cache")


def test_a_wheel_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SYMPHONY_MODEL_WHEEL", "/nowhere.whl")

    with pytest.raises(NoSuchFile, match=r"/nowhere\.whl"):
        ensure_default_model(tmp_path)


def test_without_an_index_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("SYMPHONY_MODEL_WHEEL", raising=False)
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(tmp_path)), ("PIP_CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(name, value)

    with pytest.raises(NoSuchFile, match=r"symphony serve NAME_OR_FOLDER.*SYMPHONY_MODEL_WHEEL"):
        ensure_default_model(tmp_path)

    assert visible(tmp_path) == []


@pytest.mark.slow
def test_the_real_model_is_made_from_its_wheel():
    """The whole way, once per machine: the cache is the user's own, so later runs (and the server) find it."""
    path = ensure_default_model()

    config = json.loads((path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (path / "model.safetensors").stat().st_size == 269_062_936
    tokenizer = pytest.importorskip("tokenizers").Tokenizer.from_file(str(path / "tokenizer.json"))
    assert tokenizer.encode("The capital of France is Paris.").ids == [504, 3575, 282, 4649, 314, 7042, 30]
