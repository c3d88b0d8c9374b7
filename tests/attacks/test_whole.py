"""The list of attacks, and that each was tried here, at the level at which strangers' programs may run. Last by its name."""

import os

import pytest

from tests.attacks.conftest import TRIED

LIST = {
    "test_resources": {
        "a_fork_bomb": "fork bomb", "vfork_clone": "vfork, clone, clone3", "no_program_of_the_machine": "subprocess, exec",
        "a_thread_bomb": "thread bomb", "a_spawn_bomb": "spawn bomb", "a_memory_bomb": "heap, mmap",
        "what_cannot_fit": "big integers, strings",
        "programs_that_spin": "loops in Python, C, threads; regular expressions, powers; catching BaseException",
        "endless_recursion": "recursion", "a_crash": "segfault, stack overflow", "descriptors_run_out": "fd exhaustion",
        "nothing_can_be_put": "disk and memory files", "a_flood_of_output": "output flood",
        "who_holds_more": "KV cache exhaustion",
    },
    "test_access": {
        "no_file_of_the_server": "files, world-readable secrets, source, weights, /proc of others",
        "there_is_no_way_up": "paths out of the root",
        "there_is_no_socket": "inet, unix, netlink, packet, alg, vsock sockets",
        "the_sockets_that_there_are": "abstract and datagram sockets",
        "no_other_process": "kill, priorities, affinity, limits of others", "other_abis": "x32, i386",
        "a_call_that_nobody": "ptrace, process_vm, io_uring, bpf, keyctl, userfaultfd, perf, mount, unshare, modules, kexec",
        "other_calls_that_reach": "shared memory, message queues, file changes, pidfds",
        "no_descriptor_was_inherited": "inherited fds",
        "the_environment": "environment", "the_heap": "heap secrets", "no_limit": "raising rlimits, priority",
        "nobody_can_become": "identity",
        "the_cpu_time": "clocks of others", "no_program_can_make_itself": "outliving the fork server",
    },
    "test_protocol": {
        "what_is_no_frame": "giant, truncated, nested frames; garbage; half-close; pickle frame",
        "chunks_that_never_end": "unfinished chunks",
        "a_million_empty_maps": "empty-map bomb", "ids_of_others": "forged ids", "of_calls_with_the_same_id": "duplicate ids",
        "what_is_no_number": "NaN, infinite and huge numbers", "descriptors_that_are_passed": "fd passing",
        "a_flood_of_calls": "flood with and without reading", "a_pickle": "pickle payload",
        "calls_that_are_not_for_programs": "unknown calls",
    },
    "test_supply": {
        "a_source_that_harms": "null bytes, a million nested brackets", "a_zip_bomb": "zip bomb", "archives_do_not": "zip-slip",
        "no_link": "symlinks", "no_package": "malicious wheels", "a_dependency": "dependencies",
    },
    "test_system": {
        "the_fetching_tool": "SSRF: redirects, metadata, names that lead inside",
        "files_channels_and_programs": "foreign IPC, guessed handles",
        "a_file_cannot_be_used": "use after free of a handle", "a_close_that_overtakes": "use while closing",
        "a_program_that_is_killed": "kill in every state", "escapes_reach": "terminal escapes in logs",
        "a_name_with_escapes": "and in names",
    },
    "test_layers": {
        "without_landlock_the": "no Landlock", "without_landlock_and": "no namespaces either", "without_users": "no users",
        "without_seccomp": "no seccomp",
        "a_level_that_is_demanded": "fail closed", "unconfined": "unconfined",
    },
    "test_wasm": {
        "memory_grow": "memory.grow", "table_grow": "table.grow", "an_endless_module": "infinite start function",
        "a_compile_bomb": "compile bomb",
        "endless_recursion": "recursion", "what_is_no_module": "no module", "no_file": "files", "reading_beyond": "memory",
    },
    "test_fuzz": {"random_system_calls": "random system calls"},
}  # fmt: skip


def test_every_attack_was_tried_and_none_was_left_out(request, arena):
    names = {item.nodeid for item in request.session.items if "tests/attacks/" in item.nodeid and "test_whole" not in item.nodeid}
    is_whole = {nodeid.split("/")[-1].split(".py")[0] for nodeid in names} == set(LIST)

    assert names <= set(TRIED), f"not tried: {sorted(names - set(TRIED))}"
    assert not [name for name in names if TRIED[name] == "skipped"]
    if is_whole:
        for file, attacks in LIST.items():
            for attack, what in attacks.items():
                assert [name for name in names if f"/{file}.py::test_{attack}" in name], f"nobody tries: {what}"
        assert len(names) >= 130
    else:
        pytest.skip("only some of the attacks were asked for")


@pytest.mark.skipif(os.geteuid() != 0, reason="level A needs root, or a delegated control group")
def test_they_were_tried_at_level_a(arena):
    found = arena.info()["confinement"]

    assert (found["level"], found["missing"]) == ("A", [])
    assert {"seccomp", "own user", "private root", "network namespace", "ipc namespace", "uts namespace"} <= set(found["active"])
    assert any(layer.startswith("landlock") for layer in found["active"]) and any(
        layer.startswith("cgroup") for layer in found["active"]
    )
