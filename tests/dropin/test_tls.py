"""`symphony serve --http` with a certificate: vLLM's server speaks TLS by it, and a client's own certificate says who it is."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.counts import FULL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("engine_b"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(not FULL, reason="a second engine: at full counts only"),
]


def https(folder: Path, own: str = "") -> ssl.SSLContext:
    """What a client trusts, and what it shows."""
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    if own:
        context.load_cert_chain(folder / f"{own}.crt", folder / f"{own}.key")
    return context


def asked(url: str, context: ssl.SSLContext, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120, context=context) as answer:
        return json.loads(answer.read())


def test_https_takes_the_certificate_of_the_other_door_and_knows_clients_by_theirs(own_server, server_b, certificates):
    cert, key, ca = (str(certificates / name) for name in ("server.crt", "server.key", "ca.crt"))
    served = own_server(ours=("--listen", "localhost:0", "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", ca))
    served.wait_ready()
    url = served.http.replace("127.0.0.1", "localhost")
    alice = https(certificates, "alice")

    assert url.startswith("https://")
    assert asked(f"{url}/symphony/api/info", alice)["principal"] == "alice"
    body = {"model": "tiny", "prompt": [50, 51, 52], "max_tokens": 8, "temperature": 0.0, "ignore_eos": True,
            "return_token_ids": True}  # fmt: skip
    assert asked(f"{url}/v1/completions", alice, body)["choices"][0]["token_ids"] == server_b.tokens([50, 51, 52], 8)
    for stranger in (https(certificates), https(certificates, "other-alice")):
        with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
            asked(f"{url}/v1/models", stranger)
    assert served.stop() == 0
