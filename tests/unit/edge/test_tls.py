import subprocess
from pathlib import Path

import pytest

from vllm_symphony.edge.tls import ServerTls, _Fresh
from vllm_symphony.errors import InvalidArgument


def certificate(folder: Path, name: str, *, days: str = "30", usage: str = "serverAuth") -> tuple[Path, Path]:
    """One that signed itself, and its key."""
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    request, extension = folder / f"{name}.csr", folder / f"{name}.ext"
    extension.write_text(f"extendedKeyUsage={usage}")
    make = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
            "-keyout", str(key), "-out", str(request)]  # fmt: skip
    sign = ["openssl", "x509", "-req", "-in", str(request), "-signkey", str(key), "-days", days, "-extfile", str(extension),
            "-out", str(cert)]  # fmt: skip
    for command in (make, sign):
        subprocess.run(command, check=True, capture_output=True)
    key.chmod(0o600)
    return cert, key


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    certificate(folder, "good")
    certificate(folder, "other")
    certificate(folder, "past", days="-1")
    certificate(folder, "client", usage="clientAuth")
    return folder


def test_a_certificate_that_no_client_would_take_is_refused_with_why(folder):
    for name, why in (("past", "certificate has expired"), ("client", "purpose")):
        with pytest.raises(InvalidArgument, match=why) as refused:
            ServerTls(folder / f"{name}.crt", folder / f"{name}.key").credentials()
        assert f"--tls-cert {folder / name}.crt" in refused.value.message


def test_a_certificate_that_ends_soon_and_a_key_for_others_are_said(folder, tmp_path, caplog):
    cert, key = certificate(tmp_path, "soon", days="3")
    key.chmod(0o644)

    ServerTls(cert, key).credentials()

    said = caplog.text
    assert "ends in 3.0 days" in said and f"others may use the key {key}" in said


def test_new_files_count_at_the_next_handshake_and_broken_ones_never(folder, tmp_path, caplog):
    cert, key = tmp_path / "server.crt", tmp_path / "server.key"

    def put(name: str, key_of: str) -> None:
        cert.write_bytes((folder / f"{name}.crt").read_bytes())
        key.write_bytes((folder / f"{key_of}.key").read_bytes())

    put("good", "good")
    tls = ServerTls(cert, key)
    fresh = _Fresh(tls, tls.signature())
    assert fresh.changed() is None

    put("other", "good")  # between the two copies of whoever renews it
    assert fresh.changed() is None and "the old ones stay" in caplog.text and "KEY_VALUES_MISMATCH" in caplog.text
    caplog.clear()
    assert fresh.changed() is None and not caplog.text
    put("other", "other")
    assert fresh.changed() is not None
    assert fresh.changed() is None
    cert.unlink()
    assert fresh.changed() is None and "No such file" in caplog.text
    put("past", "past")
    assert fresh.changed() is None and "expired" in caplog.text
