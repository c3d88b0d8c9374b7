"""Addresses and flags, accepted and refused; TLS and mutual TLS with the certificates of docs/security.md."""

import asyncio
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.commanded import Server, start
from tests.edge.test_command_line import HELLO
from tests.edge.test_identity import LOOPBACK, add, addresses, talk
from vllm_symphony.client import ServerUnreachable, Tls, connect
from vllm_symphony.errors import InvalidArgument, NotOwner, Unauthenticated


@pytest.fixture(autouse=True)
def settings(monkeypatch, tmp_path):
    for name in ("TOKEN", "TOKEN_FILE", "SERVER", "SOCKET", "TLS_CA", "TLS_CERT", "TLS_KEY"):
        monkeypatch.delenv(f"SYMPHONY_{name}", raising=False)
    monkeypatch.setenv("SYMPHONY_RUN_DIR", str(tmp_path))


def tls_flags(folder: Path, *, client_ca: bool = False) -> tuple[str, ...]:
    flags = ("--tls-cert", str(folder / "server.crt"), "--tls-key", str(folder / "server.key"))
    return (*flags, "--tls-client-ca", str(folder / "ca.crt")) if client_ca else flags


def refused(run_dir: Path, *words: str) -> str:
    """What `serve` says that ends before it starts anything."""
    process = start(run_dir, "serve", *words)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert "loading model" not in err and "Traceback" not in err
    assert not [p for p in run_dir.glob("*") if stat.S_ISSOCK(p.stat().st_mode) or p.name == "token"]
    return err.splitlines()[-1]


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "10.1.2.3:0", "example.org:1", "[::ffff:127.0.0.1]:0"])
def test_another_address_without_tls_is_refused_with_the_flags_to_give(tmp_path, address):
    said = refused(tmp_path, "--listen", "127.0.0.1:0", "--listen", address)

    assert "EINVAL" in said and "--tls-cert FILE and --tls-key FILE" in said


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--listen", "50051"], "EINVAL: no address: '50051'"),
        (["--listen", "127.0.0.1:70000"], "EINVAL: no address"),
        (["--listen", "unix:/nowhere/s.sock"], "EACCES: cannot listen on /nowhere/s.sock: the directory does not exist"),
        (["--listen", "192.0.2.1:0", "TLS"], "EINVAL: cannot listen on 192.0.2.1:0: Cannot assign requested address"),
        (["TLS"], "EINVAL: TLS is for TCP: add --listen HOST:PORT"),
        (["--listen", "127.0.0.1:0", "--tls-cert", "x"], "TLS needs a certificate and its key: --tls-key FILE is missing"),
        (["--listen", "127.0.0.1:0", "--tls-client-ca", "x"], "TLS needs a certificate and its key: --tls-cert FILE is missing"),
        (["--listen", "[::]:0", "--tls-cert", "/nowhere/c", "--tls-key", "KEY"], "--tls-cert: cannot read /nowhere/c: No such"),
        (["--listen", "[::]:0", "--tls-cert", "CERT", "--tls-key", "/nowhere/k"], "--tls-key: cannot read /nowhere/k: No such"),
        (["--listen", "[::]:0", "--tls-cert", "CERT", "--tls-key", "OTHER"], "make no pair: KEY_VALUES_MISMATCH"),
        (["--listen", "[::]:0", "--tls-cert", "KEY", "--tls-key", "KEY"], "make no pair: "),
        (["--listen", "[::]:0", "TLS", "--tls-client-ca", "KEY"], "holds no certificate"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_starts(tmp_path, certificates, words, why):
    files = {"CERT": "server.crt", "KEY": "server.key", "OTHER": "alice.key"}
    given = [str(certificates / files[w]) if w in files else w for w in words if w != "TLS"]

    said = refused(tmp_path, *given, *(tls_flags(certificates) if "TLS" in words else ()))

    assert why in said


def test_a_locked_key_is_refused_without_asking(tmp_path, certificates):
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", str(certificates / "server.key"), "-aes256", "-passout", "pass:x", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)

    said = refused(tmp_path / "run", "--listen", "[::]:0", "--tls-cert", str(certificates / "server.crt"), "--tls-key", str(locked))

    assert "make no pair" in said


def test_a_taken_port_is_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        said = refused(tmp_path, "--listen", f"localhost:{port}")

    assert f"EEXIST: cannot listen on 127.0.0.1:{port}: the port is taken; choose another, or 0 for a free one" in said


def test_doors_of_all_kinds_at_once(fresh_server, tmp_path):
    server = fresh_server(*LOOPBACK, "--listen", "localhost:0", "--listen", f"unix:{tmp_path}/b.sock")
    token = add(server, "ci")

    ready = next(line for line in (server.run_dir / "serve.log").read_text().splitlines() if "ready, listening on" in line)
    found = ready.partition("listening on ")[2].split(", ")
    assert (
        len(found) == len(LOOPBACK) // 2 + 3
        and found[0] == f"unix:{server.run_dir}/symphony.sock"
        and found[-1] == f"unix:{tmp_path}/b.sock"
    )
    assert stat.S_IMODE((tmp_path / "b.sock").stat().st_mode) == 0o600
    assert found[1:-1] == addresses(server)
    for target in found:
        talk(target, lambda client: client.ping(), token)
    talk(found[-1], lambda client: client.ping())
    assert server.stop() == 0
    assert not (tmp_path / "b.sock").exists() and not (server.run_dir / "token").exists()


def test_the_own_token_is_new_at_each_start_and_needs_a_loopback_door(fresh_server):
    server = fresh_server("--listen", "127.0.0.1:0")
    old = (server.run_dir / "token").read_text()
    assert stat.S_IMODE((server.run_dir / "token").stat().st_mode) == 0o600
    server.process.kill()
    server.process.wait(60)
    assert (server.run_dir / "token").read_text() == old  # a killed server leaves it

    for flags, is_there in ((("--listen", "127.0.0.1:0"), True), ((), False)):
        again = server.start("serve", *flags)
        assert server.run("info", "--wait", "60").returncode == 0
        assert (server.run_dir / "token").exists() == is_there
        if is_there:
            with pytest.raises(Unauthenticated, match="unknown"):
                talk(addresses(server)[0], lambda client: client.ping(), old.splitlines()[0])
        again.terminate()
        again.communicate(timeout=60)


def test_the_state_of_confinement_is_said_at_the_start(fresh_server):
    own, all_ = "only your own user may start them; missing: user: none here", "whoever has scope run may start them"
    for flags, said in (
        ((), f"confined at level B (seccomp): {own}"),
        (("--confinement", "A"), f"confined at level A (seccomp): {all_}"),
        (("--unconfined",), "not confined: whoever has scope run starts them with your rights"),
        (("--confinement", "C"), "not confined: whoever has scope run starts them with your rights"),
    ):
        server = fresh_server(*flags)
        assert f"programs are {said}" in (server.run_dir / "serve.log").read_text()
        server.stop()


def test_no_confinement_beside_a_door_for_strangers_must_be_said_plainly(fresh_server):
    for flags, said in (
        (("--confinement", "C", "--listen", "127.0.0.1:0"), "say --unconfined if you mean that"),
        (("--confinement", "B", "--unconfined"), "choose one"),
    ):
        server = fresh_server(*flags, ready=False)
        assert server.process.wait(60) != 0
        assert said in (server.run_dir / "serve.log").read_text()


@pytest.fixture(scope="module")
def tls_server(fresh_server, certificates) -> Server:
    return made(fresh_server, *tls_flags(certificates))


@pytest.fixture(scope="module")
def mtls_server(fresh_server, certificates) -> Server:
    return made(fresh_server, *tls_flags(certificates, client_ca=True), "--unconfined")


def made(fresh_server, *flags: str) -> Server:
    return fresh_server("--listen", "127.0.0.1:0", "--listen", "0.0.0.0:0", *flags)


def ask(server: Server, tls: Tls, work=None, *, token: str | None = None, host: str = "localhost"):
    """Run `work(client)` at the server's port by this name, with TLS."""
    port = addresses(server)[0].rpartition(":")[2]

    async def main():
        async with connect(f"grpcs://{host}:{port}", token=token, tls=tls) as client:
            return await (work(client) if work else client.ping())

    return asyncio.run(asyncio.wait_for(main(), 60))


def test_tls_serves_a_token_and_nobody_without_one(tls_server, certificates):
    token = add(tls_server, "tls")
    tls = Tls(ca=certificates / "ca.crt")

    ask(tls_server, tls, token=token)
    ask(tls_server, tls, token=token, host="127.0.0.1")
    with pytest.raises(Unauthenticated, match="who are you"):
        ask(tls_server, tls)


def test_the_command_line_speaks_tls_and_finds_the_own_token_on_loopback(tls_server, certificates, tmp_path):
    host, _, port = addresses(tls_server)[0].rpartition(":")
    (tmp_path / "t").write_text(add(tls_server, "cli"))
    ca = str(certificates / "ca.crt")

    assert host == "127.0.0.1"
    for words, env in (
        (("--server", f"grpcs://localhost:{port}", "--tls-ca", ca), {}),
        (("--server", f"127.0.0.1:{port}", "--tls-ca", ca, "--token-file", str(tmp_path / "t")), {}),
        ((), {"SYMPHONY_SERVER": f"grpcs://localhost:{port}", "SYMPHONY_TLS_CA": ca}),
    ):
        done = tls_server.run("ps", *words, env=env)
        assert done.returncode == 0, done.stderr


def test_a_server_that_another_ca_signed_is_not_trusted(tls_server, certificates):
    for tls in (Tls(ca=certificates / "other-ca.crt"), Tls()):
        with pytest.raises(ServerUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
            ask(tls_server, tls, token=add(tls_server, f"ca-{time.time()}"))


def test_client_files_that_fit_nothing_are_refused_before_a_connection(tls_server, certificates, tmp_path):
    (tmp_path / "text").write_text("no certificate")
    ca, cert, key = certificates / "ca.crt", certificates / "alice.crt", certificates / "alice.key"

    for tls in (Tls(tmp_path / "text"), Tls(key), Tls(ca, cert, certificates / "server.key"), Tls(ca, key, key)):
        with pytest.raises(InvalidArgument, match="cannot be used"):
            ask(tls_server, tls)


def test_plain_text_to_a_tls_port_is_an_error_that_says_what_it_may_be(tls_server):
    with pytest.raises(ServerUnreachable, match="does it speak TLS"):
        talk(addresses(tls_server)[0], lambda client: client.ping(), add(tls_server, "plain"))


def test_mutual_tls_needs_a_certificate_even_with_a_token(mtls_server, certificates):
    token, ca = add(mtls_server, "no-certificate"), certificates / "ca.crt"

    for tls in (Tls(ca), Tls(ca, certificates / "other-alice.crt", certificates / "other-alice.key")):
        with pytest.raises(ServerUnreachable, match="does it want a client certificate"):
            ask(mtls_server, tls, token=token)


def test_a_client_certificate_is_a_principal_without_scopes_and_a_token_goes_before_it(mtls_server, certificates):
    tls = Tls(certificates / "ca.crt", certificates / "alice.crt", certificates / "alice.key")

    assert ask(mtls_server, tls, lambda client: client.ls()) == []
    with pytest.raises(NotOwner, match="alice may not start programs: scope run is needed"):
        ask(mtls_server, tls, lambda client: client.spawn(HELLO, who="you"))
    result = ask(
        mtls_server,
        tls,
        lambda client: client.run(HELLO, who="you").result(),
        token=add(mtls_server, "bob", "bob", scopes=("run",)),
    )
    assert result.process.principal == "bob"
    with pytest.raises(Unauthenticated, match="unknown"):
        ask(mtls_server, tls, token="sym_0123456789ab_" + "7" * 64)


def test_a_client_refuses_plain_text_to_another_machine(tls_server, tmp_path):
    (tmp_path / "t").write_text(add(tls_server, "outside"))

    done = tls_server.run("ps", "--server", "10.1.2.3:5", "--token-file", str(tmp_path / "t"))

    assert done.returncode == 1
    assert "EINVAL: 10.1.2.3:5 is another machine: use grpcs://10.1.2.3:5" in done.stderr
    with pytest.raises(InvalidArgument):
        connect("10.1.2.3:5", token="sym_x")


def test_a_server_and_a_socket_at_once_are_wrong_usage_and_no_option_takes_a_token(tls_server):
    assert tls_server.run("ps", "--server", "127.0.0.1:1", "--socket", "/s").returncode == 2
    assert tls_server.run("ps", "--token", "sym_x").returncode == 2
    assert "No option takes a token itself" in tls_server.run("ps", "--help").stdout
