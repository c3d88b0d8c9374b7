import os
import socket
from pathlib import Path

import pytest

from vllm_symphony.abi.address import HostPort
from vllm_symphony.edge.door import Door, clear, doors, why_not
from vllm_symphony.edge.tls import ServerTls, server_tls
from vllm_symphony.errors import AccessDenied, FileExists, InvalidArgument, NameTooLong

TLS = ServerTls(Path("c"), Path("k"))
LOOPBACK = ["127.0.0.1:0", "127.0.0.1:50051", "localhost:0", "[::1]:0", "127.1.2.3:1"]
OUTSIDE = ["0.0.0.0:0", "[::]:0", "10.0.0.1:50051", "example.org:1", "[::ffff:127.0.0.1]:1", "[fe80::1%eth0]:1"]


@pytest.mark.parametrize("address", LOOPBACK)
@pytest.mark.parametrize("tls", [None, TLS])
def test_loopback_is_a_door_with_or_without_tls(address, tls):
    (door,) = doors([address], tls)

    assert door.is_loopback and door.tls is tls


@pytest.mark.parametrize("address", OUTSIDE)
def test_any_other_address_needs_tls_and_the_error_names_the_flags(address):
    with pytest.raises(InvalidArgument, match="--tls-cert FILE and --tls-key FILE"):
        doors(["127.0.0.1:0", address], None)

    (door,) = doors([address], TLS)
    assert not door.is_loopback and door.tls is TLS


def test_localhost_is_the_loopback_address():
    assert doors(["localhost:7"], None) == (Door(HostPort("127.0.0.1", 7)),)


def test_a_unix_socket_is_a_door_without_tls():
    assert doors(["unix:/a/b.sock", "[::1]:0"], TLS)[0] == Door(Path("/a/b.sock"))
    with pytest.raises(NameTooLong):
        doors(["unix:/" + "x" * 120], None)


@pytest.mark.parametrize("address", ["", "50051", "/a/b.sock", "grpc://host:1", "127.0.0.1", "127.0.0.1:http"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InvalidArgument, match="no address"):
        doors([address], TLS)


def test_tls_without_a_tcp_door_is_refused():
    for addresses in ([], ["unix:/a"]):
        with pytest.raises(InvalidArgument, match="add --listen HOST:PORT"):
            doors(addresses, TLS)


def test_certificate_and_key_go_together():
    a = Path("a")
    assert server_tls(None, None, None) is None
    assert server_tls(a, a, a) == ServerTls(a, a, a)
    for cert, key, client_ca, missing in (
        (a, None, None, "--tls-key"),
        (None, a, None, "--tls-cert"),
        (None, None, a, "--tls-cert"),
    ):
        with pytest.raises(InvalidArgument, match=f"{missing} FILE is missing"):
            server_tls(cert, key, client_ca)


def test_a_dead_servers_socket_is_taken_away_and_a_living_ones_not(tmp_path):
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(FileExists, match="a server already listens"):
            clear(path)
        assert path.exists()

    clear(path)
    clear(path)

    assert not path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("x")

    with pytest.raises(FileExists, match="it is no socket"):
        clear(tmp_path / "precious")

    assert (tmp_path / "precious").read_text() == "x"


def test_a_directory_where_anybody_may_put_a_socket_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(AccessDenied, match="everybody may write the directory"):
        clear(tmp_path / "s.sock")

    tmp_path.chmod(0o1777)
    clear(tmp_path / "s.sock")


def test_a_taken_port_is_told_from_an_address_that_is_not_ours():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = HostPort("127.0.0.1", taken.getsockname()[1])
        assert isinstance(why_not(where), FileExists)
        assert "the port is taken" in why_not(where).message

    assert isinstance(why_not(HostPort("192.0.2.1", 0)), InvalidArgument)
    assert isinstance(why_not(HostPort("no-such-host.invalid", 1)), InvalidArgument)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    os.chmod(path, mode)
    return path


@pytest.mark.parametrize("missing", ["cert", "key", "client_ca"])
def test_a_tls_file_that_is_missing_is_named_with_its_flag(tmp_path, missing):
    files = {name: write(tmp_path / name, "x") for name in ("cert", "key", "client_ca")}
    files[missing] = tmp_path / "nowhere"

    with pytest.raises(InvalidArgument, match=rf"--tls-{missing.replace('_', '-')}: cannot read .*nowhere: No such file"):
        ServerTls(**files).credentials()


def test_files_that_are_no_pem_are_refused(tmp_path):
    cert, key = write(tmp_path / "cert", "x"), write(tmp_path / "key", "y")

    with pytest.raises(InvalidArgument, match="make no pair"):
        ServerTls(cert, key).credentials()
