import pytest

from vllm_symphony.abi.address import HostPort, host_port
from vllm_symphony.errors import InvalidArgument

TOKEN = "sym_0123456789ab_" + "7" * 64


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]:65535", "::1", 65535),
        ("gpu1.example.org:0", "gpu1.example.org", 0),
        ("a_b:7", "a_b", 7),
    ],
)
def test_an_address_reads_back_as_it_was_written(text, host, port):
    assert host_port(text) == HostPort(host, port)
    assert str(host_port(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", ":1", "host:65536", "host:-1", "host:1x", "::1:50", "[::1]", "[host]:1", "[1.2.3.4]:1", "a b:1", "h:1/"],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InvalidArgument):
        host_port(text)


@pytest.mark.parametrize("text", [f"{TOKEN}@host:1", f"{TOKEN}:1", f"user:{TOKEN}@host:1", f"host:{TOKEN}", "user:hunter2@host:1"])
def test_a_secret_in_an_address_is_refused_and_not_repeated(text):
    with pytest.raises(InvalidArgument, match="holds no user and no token") as refused:
        host_port(text)

    assert "sym_0123" not in str(refused.value) and "hunter2" not in str(refused.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LocalHost"])
def test_loopback_is_read_off_the_address(host):
    assert HostPort(host, 1).is_loopback


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0", "::", "10.0.0.1", "::ffff:127.0.0.1", "127.1", "0177.0.0.1", "2130706433", "localhost.", "localhost.evil.org",
        "ip6-loopback",
    ],
)  # fmt: skip
def test_all_else_counts_as_reachable(host):
    assert not HostPort(host, 1).is_loopback


def test_localhost_is_an_address_and_no_name_to_look_up():
    assert str(HostPort("localhost", 5).literal) == "127.0.0.1:5"
    assert str(HostPort("::1", 5).literal) == "[::1]:5"
