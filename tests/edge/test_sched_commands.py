"""`symphony sched`, and who decides in `info` and `top`, on a server as `symphony serve --device sim` makes it."""

import asyncio
import json

import pytest

from vllm_symphony import connect
from vllm_symphony.client.sync import connect_sync
from vllm_symphony.errors import InvalidArgument, NotOwner
from vllm_symphony.kernel.sched import catalogue

ASKS = """
from vllm_symphony import lip

async def main():
    async with lip.open(tokens=[40, 41, 42]) as f:
        await f.generate(max_tokens=4, ignore_eos=True)
        print("asked", flush=True)
        await lip.sleep(600)
"""


@pytest.fixture(scope="module")
def sim(fresh_server):
    server = fresh_server("--device", "sim", "--no-state", "--sched-policy", "plas:quantum=64", "--memory-policy", "lru")
    yield server
    server.stop()


def shown(server) -> dict[str, tuple[str, dict[str, float], str]]:
    found = json.loads(server.run("sched", "--json").stdout)
    return {p["level"]: (p["policy"], p["parameters"], p["source"]) for p in found["policies"]}


def test_flags_choose_and_a_wrong_one_is_refused_with_what_there_is(sim, tmp_path):
    assert shown(sim)["process"] == ("plas", {"quantum": 64.0, "patience": 16.0}, "flag")
    assert shown(sim)["memory"] == ("lru", {"stale_s": 1.0}, "flag")

    refused = sim.run("serve", "--device", "sim", "--run-dir", str(tmp_path), "--batch-policy", "never")

    assert refused.returncode == 2
    assert "argument --batch-policy: no batch policy is called 'never': there are immediate, cohort" in refused.stderr


def test_another_policy_decides_until_it_is_taken_back(sim):
    done = sim.run("sched", "set", "proc", "justitia")

    assert (done.returncode, done.stderr) == (0, "") and done.stdout.splitlines()[1].split()[:4] == [
        "process",
        "justitia",
        "-",
        "set",
    ]
    assert json.loads(sim.run("info", "--json").stdout)["detail"]["sched"]["process"] == {
        "policy": "justitia", "from": "set", "parameters": {},
    }  # fmt: skip
    assert sim.run("sched", "reset", "process").returncode == 0
    assert shown(sim)["process"][2] == "flag"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("set", "process", "best"), "EINVAL: no process policy is called 'best': there are fcfs, "),
        (("set", "space", "fcfs"), "EINVAL: no level of scheduling is called 'space': there are process, memory, batch"),
        (("set", "batch", "rate"), "ENOTSUP: rate is for `symphony simulate` only"),
        (("weigh", "x" * 300, "2"), "EINVAL: a principal has 1..255 characters"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(sim, words, said):
    done = sim.run("sched", *words)

    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"symphony: {said}") and done.stderr.count("\n") == 1


def test_a_weight_and_a_cap_are_shown(sim):
    assert "\nci            0.5    8        0        0        0\n" in sim.run("sched", "weigh", "ci", "0.5", "--cap", "8").stdout
    principals = json.loads(sim.run("sched", "--json").stdout)["principals"]

    assert [(p["weight"], p["cap"]) for p in principals if p["principal"] == "ci"] == [(0.5, 8)]


def test_the_sdk_chooses_too_and_who_is_no_admin_may_only_look(sim, tmp_path):
    token = tmp_path / "token"
    token.write_text(sim.run("token", "add", "bob", "--principal", "bob", "--scope", "run").stdout)
    token.chmod(0o600)
    socket = sim.run_dir / "symphony.sock"

    async def choose() -> list[str]:
        async with connect(socket) as client:
            with pytest.raises(InvalidArgument, match="quantum of plas must be a number of 1 or more"):
                await client.set_policy("process", "plas", {"quantum": 0.0})
            await client.set_policy("process", "atlas", {"quantum": 32.0})
            await client.set_weight("bob", 3.0)
            return [p.policy for p in (await client.sched()).policies]

    assert asyncio.run(choose())[0] == "atlas"
    with connect_sync(socket, token=token.read_text().strip()) as bob:
        assert [(p.principal, p.weight) for p in bob.sched().principals] == [("bob", 3.0)]
        with pytest.raises(NotOwner):
            bob.set_policy("process")
    with connect_sync(socket) as admin:
        admin.set_policy("process")
        admin.set_weight("bob", 1.0)


def test_top_tells_who_decides_and_what_a_program_has_had(sim, program):
    run = sim.start("run", program(ASKS))
    assert run.stdout.readline() == "asked\n"

    look, text = json.loads(sim.run("top", "--once", "--json").stdout), sim.run("top", "--once").stdout
    sim.run("kill", "-KILL", str(look["processes"][0]["pid"]))
    run.communicate(timeout=60)

    (asks,) = look["processes"]
    assert (asks["num_running"], asks["num_queued"], asks["service"]) == (0, 0, 3 + 2 * 3)
    assert [p["policy"] for p in look["sched"]["policies"]][:2] == ["plas", "lru"]
    assert text.splitlines()[1].startswith(f"plas, lru, {catalogue.DEFAULTS['batch']}   0 calls compute, 0 wait")
    assert {"RUN", "QUEUED", "SERVICE"} <= set(text.splitlines()[2].split())


def test_what_was_set_outlives_the_server_but_a_flag_of_the_next_start_goes_before_it(fresh_server, tmp_path):
    directories = ("--device", "sim", "--state-dir", str(tmp_path / "state"))
    first = fresh_server(*directories)
    for words in (("set", "process", "plas:quantum=64"), ("set", "memory", "ttl"), ("weigh", "ci", "2", "--cap", "4")):
        assert first.run("sched", *words).returncode == 0
    assert first.stop() == 0

    second = fresh_server(*directories, "--memory-policy", "lru")
    found = json.loads(second.run("sched", "--json").stdout)

    assert shown(second)["process"] == ("plas", {"quantum": 64.0, "patience": 16.0}, "set")
    assert shown(second)["memory"] == ("lru", {"stale_s": 1.0}, "flag")
    assert [(p["weight"], p["cap"]) for p in found["principals"] if p["principal"] == "ci"] == [(2.0, 4)]
    assert second.stop() == 0
