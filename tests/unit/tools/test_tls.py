"""TLS: the certificate is checked for the name that was asked for, at the address that was checked."""

import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.tools.local import KEY, Tools, run, says, serving
from vllm_symphony import errors


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Signed by itself, for api.example."""
    folder = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem -out cert.pem -subj /CN=test"
    names = "subjectAltName=DNS:api.example"
    subprocess.run(["openssl", *words.split(), "-addext", names], cwd=folder, check=True, capture_output=True)
    return folder


def context(folder: Path) -> tuple[ssl.SSLContext, list[str | None]]:
    """A server's, and the names that clients asked for."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    asked: list[str | None] = []
    made.sni_callback = lambda _, name, __: asked.append(name)
    return made, asked


async def local(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def table(port: int, host: str, ca_file: Path | None) -> str:
    ca = f'[host]\nca_file = "{ca_file}"' if ca_file is not None else ""
    return f"""
[http.get]
allow = [{{ url = "https://{host}:{port}", private = true }}]
[secret.key]
env = "KEY"
tools = ["get"]
url = "https://{host}:{port}"
header = "X-Key"
{ca}
"""


def test_the_name_is_asked_for_and_proven_although_the_number_is_dialled(tmp_path: Path, certificate: Path) -> None:
    tls, asked = context(certificate)

    async def main() -> None:
        async with serving(says("hello"), tls) as server:
            text = table(server.port, "api.example", certificate / "cert.pem")
            result = await Tools(tmp_path, text, local, KEY=KEY)("get", url=f"https://api.example:{server.port}/")

            assert result.content == "hello" and asked == ["api.example"]
            assert server.heard[0].headers["host"] == f"api.example:{server.port}"
            assert server.heard[0].headers["x-key"] == KEY

    run(main())


@pytest.mark.parametrize(("host", "trusted"), [("other.example", True), ("api.example", False)])
def test_who_cannot_prove_the_name_hears_nothing(tmp_path: Path, certificate: Path, host: str, trusted: bool) -> None:
    tls, _ = context(certificate)

    async def main() -> None:
        async with serving(says("hello"), tls) as server:
            text = table(server.port, host, certificate / "cert.pem" if trusted else None)
            with pytest.raises(errors.BrokenPipe, match=r"(?i)certificate"):
                await Tools(tmp_path, text, local, KEY=KEY)("get", url=f"https://{host}:{server.port}/", within_s=0.5)
            assert server.heard == []

    run(main())
