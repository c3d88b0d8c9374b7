"""File work by gRPC, of clients without a session and of remote programs, against a served simulator that keeps its files."""

import asyncio
import json
import stat
from contextlib import aclosing
from itertools import count

import grpc
import pytest

from tests.counts import random_for
from tests.edge.relay import relay
from vllm_symphony import errors, lip
from vllm_symphony.client import Retry, connect, connect_sync
from vllm_symphony.proto.v1 import file_pb2, file_pb2_grpc

TEXT = "the lighthouse keeper lights the lamp at dusk"
NUMBERS = count()
HASTY = Retry(tries=100, first_s=0.001, most_s=0.02)


@pytest.fixture(scope="module")
def sim(fresh_server):
    server = fresh_server("--device", "sim", "--host-cache", "16MiB", "--disk-cache", "16MiB")
    yield server
    server.stop()


@pytest.fixture
def folder(sim):
    """A directory for one test."""
    path = f"/tmp/{next(NUMBERS)}"
    with connect_sync(sim.run_dir / "symphony.sock") as client:
        client.mkdir(path)
    return path


def talk(sim, work, **settings):
    """Run `work(client)` against the server."""

    async def main():
        async with connect(sim.run_dir / "symphony.sock", **settings) as client:
            return await work(client)

    return asyncio.run(asyncio.wait_for(main(), 60))


async def made(client, path, text=TEXT, mode=0o640):
    """A file with a name, its pages computed."""
    async with client.session(name="make"), lip.open(text=text) as file:
        await file.forward()
        await file.chmod(mode)
        await file.link(path)
        return file.length


def names(files):
    return [f.path for f in files]


# ---- names


def test_directories_are_made_listed_moved_and_removed(sim, folder):
    async def work(client):
        await client.mkdir(f"{folder}/a/b", parents=True, mode=0o750)
        await made(client, f"{folder}/a/b/c")
        listed = names(await client.listdir(folder, recursive=True))
        await client.mv(f"{folder}/a", f"{folder}/z")
        with pytest.raises(errors.NotEmpty):
            await client.rmdir(f"{folder}/z/b")
        await client.rm(f"{folder}/z/b/c")
        await client.rmdir(f"{folder}/z/b")
        with pytest.raises(errors.NoSuchFile):
            await client.listdir(f"{folder}/z/b")
        return listed, names(await client.listdir(folder))

    listed, rest = talk(sim, work)

    assert listed == [f"{folder}/a", f"{folder}/a/b", f"{folder}/a/b/c"]
    assert rest == [f"{folder}/z"]


def test_a_link_is_the_same_file_and_a_copy_another_with_its_pages_and_rights(sim, folder):
    async def work(client):
        length = await made(client, f"{folder}/a")
        await client.link(f"{folder}/a", f"{folder}/b")
        await client.copy(f"{folder}/a", f"{folder}/c")
        with pytest.raises(errors.FileExists):
            await client.copy(f"{folder}/a", f"{folder}/b")
        await client.copy(f"{folder}/a", f"{folder}/b", replace=True)
        return length, [await client.stat(f"{folder}/{name}") for name in "abc"]

    length, (a, b, c) = talk(sim, work)

    assert len({a.ino, b.ino, c.ino}) == 3
    assert [f.length for f in (a, b, c)] == [length] * 3
    assert c.frontier == a.frontier > 0
    assert [stat.S_IMODE(f.mode) for f in (a, b, c)] == [0o640] * 3


def test_links_and_copies_leave_no_fd_in_the_edge(sim, folder):
    async def work(client):
        await made(client, f"{folder}/a")
        before = (await client.info()).detail["kernel"]["fds"]
        for n in range(20):
            await client.copy(f"{folder}/a", f"{folder}/c{n}")
            with pytest.raises(errors.NoSuchFile):
                await client.link(f"{folder}/none", f"{folder}/x{n}")
        return before, (await client.info()).detail["kernel"]["fds"]

    before, after = talk(sim, work)

    assert before == after


def test_a_copy_over_connections_that_break_happens_once(sim, folder, tmp_path):
    async def main():
        socket = sim.run_dir / "symphony.sock"
        async with (
            relay(socket, tmp_path / "r.sock", random_for("copies")) as link,
            connect(tmp_path / "r.sock", retry=HASTY) as client,
            connect(socket) as direct,
        ):
            await made(direct, f"{folder}/a")
            await client.ping()
            for n in range(10):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(client.copy(f"{folder}/a", f"{folder}/c{n}"))
                    await asyncio.sleep(0)
                    link.cut()
            return names(await direct.ls(f"{folder}/c"))

    assert asyncio.run(asyncio.wait_for(main(), 60)) == [f"{folder}/c{n}" for n in range(10)]


# ---- rights and attributes


def test_rights_and_attributes_are_set_and_shown(sim, folder):
    async def work(client):
        path = f"{folder}/a"
        await made(client, path)
        await client.chmod(path, 0o604)
        with pytest.raises(errors.InvalidArgument, match="octal"):
            await client.chmod(path, 7777)
        await client.chown(path, owner="you", group="staff")
        await client.setxattr(path, "lang", "en", create=True)
        await client.setxattr(path, "topic", "lamps")
        with pytest.raises(errors.FileExists):
            await client.setxattr(path, "lang", "de", create=True)
        one, both = await client.getxattr(path, "lang"), await client.listxattr(path)
        await client.removexattr(path, "lang")
        with pytest.raises(errors.NoAttribute):
            await client.getxattr(path, "lang")
        return await client.stat(path), one, both

    file, one, both = talk(sim, work)

    assert (file.owner, file.group, stat.S_IMODE(file.mode)) == ("you", "staff", 0o604)
    assert (one, both) == ("en", {"lang": "en", "topic": "lamps"})


def test_files_are_found_by_what_they_are_and_by_what_they_say(sim, folder):
    async def work(client):
        await made(client, f"{folder}/a.kv")
        await made(client, f"{folder}/b.kv", "nothing of that kind")
        await client.setxattr(f"{folder}/b.kv", "topic", "kinds")
        return [
            names((await client.find(folder, **what)).files)
            for what in (
                {"name": "*.kv"},
                {"xattr": {"topic": "k*"}},
                {"text": "lighthouse"},
                {"min_length": 10**6},
                {"kind": "dir"},
            )
        ]

    by_name, by_attribute, by_text, by_length, directories = talk(sim, work)

    assert (by_name, by_attribute) == ([f"{folder}/a.kv", f"{folder}/b.kv"], [f"{folder}/b.kv"])
    assert (by_text, by_length) == ([f"{folder}/a.kv"], [])
    assert set(directories) <= {folder}


def test_who_watches_is_told_of_all_from_the_first_part_on(sim, folder):
    async def work(client):
        kinds = []
        async with aclosing(client.watch(folder)) as parts:
            assert (await anext(parts)).events == ()
            await made(client, f"{folder}/a")
            await client.mv(f"{folder}/a", f"{folder}/b")
            await client.rm(f"{folder}/b")
            async for part in parts:
                kinds += [(event.kind, event.path) for event in part.events]
                if kinds[-1][0] == "delete":
                    return kinds

    kinds = talk(sim, work)

    assert [kind for kind, _ in kinds if kind != "attrib"] == ["create", "move", "delete"]
    assert kinds[-1] == ("delete", f"{folder}/b")


def test_what_cannot_be_watched_is_an_error(sim):
    async def work(client):
        with pytest.raises(errors.NoSuchFile):
            await anext(client.watch("/nowhere"))

    talk(sim, work)


def test_a_server_that_stops_ends_watches(fresh_server):
    server = fresh_server("--device", "sim")

    async def main():
        async with connect(server.run_dir / "symphony.sock") as client, aclosing(client.watch("/")) as parts:
            await anext(parts)
            server.process.terminate()
            with pytest.raises(errors.DeviceLost, match="stopping"):
                await anext(parts)

    asyncio.run(asyncio.wait_for(main(), 60))
    assert server.process.wait(60) == 0


# ---- where they are kept, and what that costs


def test_the_file_system_its_quotas_and_what_files_cost(sim, folder):
    async def work(client):
        await made(client, f"{folder}/a", TEXT * 4)
        await client.copy(f"{folder}/a", f"{folder}/b")
        await client.setquota("newcomer", files=7)
        return await client.statfs(), await client.du(folder), await client.getquota("newcomer"), await client.stat(f"{folder}/a")

    fs, du, quota, file = talk(sim, work)

    assert fs.page_size > 0 and fs.device_pages > fs.device_pages_free > 0 and fs.fingerprint
    assert du.num_tokens == 2 * file.length
    assert du.num_pages == pytest.approx(sum(f.charge for f in du.files if f.kind == "file"))
    assert (quota.principal, quota.files, quota.used_files) == ("newcomer", 7, 0)


def test_pages_are_moved_pinned_and_written(sim):
    async def work(client):
        path = "/kept/a"
        await client.mkdir("/kept")
        await client.chattr("/kept", durable="pages")
        await made(client, path, TEXT * 4)
        await client.advise(path, "dontneed", wait=True)
        away = await client.stat(path)
        await client.advise(path, wait=True)
        await client.pin(path)
        there = await client.stat(path)
        await client.unpin(path)
        return away, there, await client.sync(path), await client.stat(path)

    away, there, synced, kept = talk(sim, work)

    assert away.device_pages == 0 < away.host_pages
    assert there.device_pages == there.num_pages and there.pinned and not kept.pinned
    assert synced.num_files == 1 and synced.num_bytes > 0 and kept.disk_pages > 0
    assert kept.durable == "pages"


def test_gc_removes_what_has_expired_and_fsck_finds_nothing_wrong(sim, folder):
    async def work(client):
        await made(client, f"{folder}/a")
        dry, done = await client.gc(dry_run=True), await client.gc()
        return dry, done, await client.fsck(folder)

    _, _, checked = talk(sim, work)

    assert checked.findings == () and checked.num_files >= 1


# ---- packs


@pytest.mark.parametrize("pages", [True, False])
def test_a_file_goes_out_and_comes_in_again(sim, folder, tmp_path, pages):
    async def work(client):
        length, progress = await made(client, f"{folder}/a", TEXT * 4), []
        await client.setxattr(f"{folder}/a", "topic", "lamps")
        size = await client.export_file(
            f"{folder}/a", tmp_path / "a.kv", pages=pages, progress=lambda done, of: progress.append((done, of))
        )
        back = await client.import_file(
            tmp_path / "a.kv", f"{folder}/b", mode=0o644, progress=lambda done, of: progress.append((done, of))
        )
        return (
            length,
            size,
            progress,
            back,
            await client.cat(f"{folder}/a"),
            await client.cat(f"{folder}/b"),
            await client.listxattr(f"{folder}/b"),
        )

    length, size, progress, back, a, b, attributes = talk(sim, work)

    assert (tmp_path / "a.kv").stat().st_size == size
    assert stat.S_IMODE((tmp_path / "a.kv").stat().st_mode) == 0o600
    assert progress[-1] == (size, size)
    assert (back.file.length, stat.S_IMODE(back.file.mode), back.trusted) == (length, 0o644, pages)
    assert a == b and attributes == {"topic": "lamps"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.kv"]


def test_nothing_stays_of_a_pack_that_fails(sim, folder, tmp_path):
    (tmp_path / "bad.kv").write_bytes(b"no pack at all")
    (tmp_path / "empty.kv").write_bytes(b"")

    async def work(client):
        with pytest.raises(errors.NoSuchFile):
            await client.export_file(f"{folder}/none", tmp_path / "none.kv")
        for name in ("bad", "empty"):
            with pytest.raises((errors.InvalidArgument, errors.DataCorrupt)):
                await client.import_file(tmp_path / f"{name}.kv", f"{folder}/b")
        with pytest.raises(errors.AccessDenied):
            await client.import_file(tmp_path / "missing.kv", f"{folder}/b")
        await made(client, f"{folder}/a")
        with pytest.raises(errors.AccessDenied):
            await client.export_file(f"{folder}/a", tmp_path / "no" / "where.kv")
        return names(await client.listdir(folder))

    assert talk(sim, work) == [f"{folder}/a"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.kv", "empty.kv"]
    assert list((sim.run_dir / "state" / "fs" / "spool").iterdir()) == []


# ---- remote programs, other versions, without asyncio


def test_a_session_has_the_librarys_whole_surface(sim, folder):
    async def work(client):
        async with client.session(name="all"):
            async with lip.open(text=TEXT * 2) as file:
                await file.forward()
                async with file.extract([slice(0, 16), slice(-4, None)]) as part, lip.concat([file, part]) as both:
                    lengths = (file.length, part.length, both.length)
                async with file.lock(lease_s=5) as lock:
                    await lock.renew()
                await file.link(f"{folder}/a")
            mask = await lip.umask(0o077)
            await lip.mkdir(f"{folder}/private")
            await lip.copy(f"{folder}/a", f"{folder}/private/b")
            seen = []
            async with lip.watch(folder) as changes:
                await lip.unlink(f"{folder}/a")
                seen.append((await anext(changes)).kind)
            assert json.loads(await lip.cat("/proc/self/status"))["name"] == "all"
            return lengths, mask, seen, await lip.stat(f"{folder}/private")

    (length, part, both), mask, seen, private = talk(sim, work)

    assert (part, both, mask, seen) == (20, length + 20, 0o022, ["delete"])
    assert (private.kind, stat.S_IMODE(private.mode)) == ("dir", 0o700)


@pytest.mark.parametrize(("abi", "is_made"), [("1.1", True), ("1.2", False), ("", False)])
def test_a_caller_that_knows_no_directories_gets_them_made(sim, folder, abi, is_made):
    talk(sim, lambda client: made(client, f"{folder}/a"))
    metadata = [("symphony-abi", abi)] if abi else []
    rename = file_pb2.RenameRequest(old_path=f"{folder}/a", new_path=f"{folder}/x{abi}/y/a")

    with grpc.insecure_channel(f"unix:{sim.run_dir / 'symphony.sock'}") as channel:
        stub = file_pb2_grpc.FileServiceStub(channel)
        if is_made:
            stub.Rename(rename, metadata=metadata)
        else:
            with pytest.raises(grpc.RpcError):
                stub.Rename(rename, metadata=metadata)

    found = talk(sim, lambda client: client.ls(folder))
    assert names(found) == [f"{folder}/x1.1/y/a" if is_made else f"{folder}/a"]


def test_the_client_without_asyncio_does_the_same(sim, folder, tmp_path):
    talk(sim, lambda client: made(client, f"{folder}/a"))

    with connect_sync(sim.run_dir / "symphony.sock") as client:
        client.copy(f"{folder}/a", f"{folder}/b")
        size = client.export_file(f"{folder}/b", tmp_path / "b.kv")
        client.import_file(tmp_path / "b.kv", f"{folder}/c")
        parts = client.watch(folder)
        next(parts)
        client.rm(f"{folder}/c")
        (event,) = next(parts).events
        parts.close()
        listed = names(client.listdir(folder))

    assert size == (tmp_path / "b.kv").stat().st_size
    assert (event.kind, event.path) == ("delete", f"{folder}/c")
    assert listed == [f"{folder}/a", f"{folder}/b"]
