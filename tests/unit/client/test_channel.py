import pytest

from vllm_symphony.client import Tls, channel, connect
from vllm_symphony.client.address import target_of
from vllm_symphony.client.channel import Access, tls_for
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.proto import status

TOKEN = "sym_0123456789ab_" + "7" * 64


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    for name in ("TOKEN", "TOKEN_FILE", "TLS_CA", "TLS_CERT", "TLS_KEY", "SERVER", "SOCKET"):
        monkeypatch.delenv(f"SYMPHONY_{name}", raising=False)
    monkeypatch.setenv("SYMPHONY_RUN_DIR", str(tmp_path))


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize("target", ["gpu1:5", "10.0.0.1:5", "0.0.0.0:5", "[::]:5", "localhost.evil.org:5"])
def test_nothing_travels_to_another_machine_in_plain_text(target, token):
    with pytest.raises(InvalidArgument, match="use grpcs://") as refused:
        connect(target, token=token)

    assert "777" not in str(refused.value)
    connect(target, token=token, tls=Tls())
    connect(f"grpcs://{target}", token=token)


def test_tls_for_a_unix_socket_is_refused_where_it_was_asked_for(monkeypatch):
    with pytest.raises(InvalidArgument, match="is a unix socket"):
        connect("/s.sock", tls=Tls())

    monkeypatch.setenv("SYMPHONY_TLS_CA", "ca.crt")
    connect("/s.sock")


def test_tls_is_found_in_the_settings(monkeypatch):
    assert tls_for(target_of("127.0.0.1:5")) is None
    assert tls_for(target_of("grpcs://127.0.0.1:5")) == Tls()
    monkeypatch.setenv("SYMPHONY_TLS_CA", "ca.crt")
    monkeypatch.setenv("SYMPHONY_TLS_CERT", "a.crt")
    monkeypatch.setenv("SYMPHONY_TLS_KEY", "a.key")
    assert tls_for(target_of("gpu1:5")) == Tls("ca.crt", "a.crt", "a.key")
    assert tls_for(target_of("gpu1:5"), Tls("other.crt")) == Tls("other.crt")


@pytest.mark.parametrize("tls", [Tls("/nowhere/ca"), Tls(cert="/nowhere/crt", key="/nowhere/key"), Tls(cert="/nowhere/crt")])
def test_tls_files_that_cannot_be_used_are_a_typed_error(tls):
    with pytest.raises(InvalidArgument, match=r"cannot read /nowhere/|go together"):
        Access(target_of("gpu1:5"), None, tls).open()


def test_a_token_shows_in_no_repr():
    client = connect("127.0.0.1:5", token=TOKEN)

    assert "777" not in repr(client) + repr(vars(client))


def test_the_header_of_the_abi_is_the_one_that_servers_read():
    assert channel.ABI_HEADER == status.ABI_HEADER
