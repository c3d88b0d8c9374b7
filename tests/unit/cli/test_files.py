"""How files, rights and sizes look on the command line, and which words it refuses."""

import argparse

import pytest

from vllm_symphony.abi.types import FileEvent, FileStat, Finding, FsStat, Quota
from vllm_symphony.cli import advise, chattr, chmod, df, find, listing, lock, ls, mode, operand, put, quota, size, stat, watch
from vllm_symphony.cli.findings import show_findings
from vllm_symphony.cli.main import main
from vllm_symphony.cli.moment import clock, span

T0 = 1_700_000_000_000_000_000


def file(path="/kb/handbook.kv", **fields) -> FileStat:
    common = {
        "ino": 7,
        "path": path,
        "nlink": 1,
        "owner": "docs",
        "group": "staff",
        "mode": 0o640,
        "length": 3912,
        "frontier": 3912,
    }
    common |= {"num_pages": 123, "fidelity": "exact", "num_open": 0, "busy": False, "created_ns": T0, "modified_ns": T0}
    return FileStat(**{**common, **fields})


def directory(path="/kb", **fields) -> FileStat:
    return file(path, **{"kind": "dir", "mode": 0o755, "length": 0, "num_pages": 0, "durable": "", **fields})


def words(line: str) -> list[str]:
    return line.split()


# ---- long lines


def test_a_long_line_has_rights_owner_group_tokens_pages_tiers_lineage_and_name():
    (line,) = listing.long([file(device_pages=123, disk_pages=40)], ["handbook.kv"])

    assert line == "-rw-r-----  docs  staff  3,912 tokens  123 pages  gpu,disk  exact  handbook.kv"


def test_long_lines_are_aligned_and_one_token_is_no_tokens():
    lines = listing.long([file(), file(length=1, num_pages=1, owner="a")], ["x", "y"])

    assert lines[0].index("tokens") == lines[1].index("token ")
    assert lines[0].rindex("x") == lines[1].rindex("y")


def test_a_long_line_of_a_directory_shows_what_it_keeps_and_no_tokens():
    (line,) = listing.long([directory(mode=0o1777, durable="none")], ["tmp"])

    assert words(line) == ["drwxrwxrwt", "docs", "staff", "-", "-", "-", "keeps", "none", "tmp"]


def test_stale_pages_show_beside_the_lineage():
    assert "pruned,stale" in listing.long([file(fidelity="pruned", stale=True)], ["x"])[0]


def test_tiers_are_those_that_have_pages():
    assert listing.tiers(file()) == "-"
    assert listing.tiers(file(device_pages=1, host_pages=2, disk_pages=3)) == "gpu,host,disk"


def test_a_name_cannot_move_the_cursor():
    (line,) = listing.long([file()], ["a\x1b[2J\nb"])

    assert "\x1b" not in line and "\n" not in line


def test_a_recursive_list_has_a_group_for_each_directory_also_for_empty_ones():
    inside = [directory("/kb/empty"), directory("/kb/law"), file("/kb/law/eu"), file("/kb/z")]

    groups = ls._by_directory("/kb", inside, True)

    assert [(where, [f.path for f in files]) for where, files in groups] == [
        ("/kb", ["/kb/empty", "/kb/law", "/kb/z"]),
        ("/kb/empty", []),
        ("/kb/law", ["/kb/law/eu"]),
    ]


def test_stat_of_a_directory_leaves_out_what_only_files_have():
    assert {"mode", "durable", "ttl_s", "owner"} <= set(stat._readable(directory()))
    assert not {"length", "fidelity", "pinned", "expires"} & set(stat._readable(directory()))
    assert stat._readable(file())["mode"] == "-rw-r----- (0640)"


# ---- modes


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        (0o640, "file", "-rw-r-----"),
        (0o777, "dir", "drwxrwxrwx"),
        (0o1777, "dir", "drwxrwxrwt"),
        (0o1776, "dir", "drwxrwxrwT"),
        (0o2750, "dir", "drwxr-s---"),
        (0o2740, "dir", "drwxr-S---"),
        (0, "file", "----------"),
    ],
)
def test_rights_look_as_in_ls(value, kind, shown):
    assert mode.shown(value, kind) == shown


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("640", 0o777, 0o640),
        ("1777", 0, 0o1777),
        ("u+rw", 0o000, 0o600),
        ("go-w", 0o666, 0o644),
        ("g=r", 0o670, 0o640),
        ("o=", 0o777, 0o770),
        ("+r", 0o000, 0o444),
        ("a+x", 0o600, 0o711),
        ("u+rw,g+r,o=", 0o007, 0o640),
        ("u=rw-w", 0o700, 0o400),
        ("+t", 0o777, 0o1777),
        ("-t", 0o1777, 0o777),
        ("g+s", 0o755, 0o2755),
    ],
)
def test_a_mode_changes_as_chmod_changes_it(text, before, after):
    assert mode.change(text)(before, "dir") == after


def test_a_capital_x_is_for_directories_and_what_can_be_passed_already():
    change = mode.change("a+X")

    assert change(0o600, "dir") == 0o711
    assert change(0o600, "file") == 0o600
    assert change(0o700, "file") == 0o711


@pytest.mark.parametrize("text", ["", "8", "77777", "u", "rw", "u+q", "u+rw,", "u rw", "-1", "0x1ff"])
def test_what_is_no_mode_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        mode.change(text)


def test_rights_that_are_taken_away_are_no_options():
    parser = argparse.ArgumentParser()
    chmod.arguments(parser)

    args = chmod.parse(parser, ["-w", "/kb/a", "-R"])

    assert args.mode(0o666, "file") == 0o444
    assert (args.paths, args.recursive) == (["/kb/a"], True)


# ---- sizes and times


def test_sizes_are_read_and_shown():
    assert [size.shown(n) for n in (0, 1023, 1024, 1536, 5 << 30, 1 << 50)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "5.0 GiB",
        "1024.0 TiB",
    ]
    assert [size.parsed(text) for text in ("0", "64k", "1.5G", "2MiB", "7b")] == [0, 65536, 3 << 29, 2 << 20, 7]
    assert size.pages(12.0) == "12" and size.pages(4.5) == "4.5"


@pytest.mark.parametrize("text", ["", "-1", "k", "1.5.2", "1x", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        size.parsed(text)


def test_spans_of_time_are_read():
    assert [span(text) for text in ("90", "30s", "10m", "2h", "30d", "0")] == [90, 30, 600, 7200, 2_592_000, 0]


@pytest.mark.parametrize("text", ["", "-1", "soon", "1w", "1h30m", "inf"])
def test_what_is_no_span_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        span(text)


def test_how_far_something_is_shows_only_once_it_is_known():
    moved = size.Moved()
    assert moved.text() == ""

    moved(1 << 20, 4 << 20)

    assert moved.text() == "1.0 MiB of 4.0 MiB"


# ---- tables and lines


def test_df_has_a_row_for_each_tier_and_what_of_it_is_yours():
    fs = FsStat(
        16, 4096, 100, 60, 1 << 20, 1 << 10, 0, 0, 1 << 30, 12, 1 << 20, "f", Quota("ann", device_pages=50, used_device_pages=12.5)
    )

    rows = {row.tier: {name: take(row) for name, take in df._COLUMNS.items()} for row in df.rows(fs)}

    assert list(rows["gpu"].values()) == ["gpu", "100 pages", "40 pages", "60 pages", "40%", "12.5 pages", "50 pages"]
    assert rows["disk"]["USE"] == "-"


def test_quota_has_a_row_for_each_limit():
    rows = {row.what: (row.used, row.limit) for row in quota.rows(Quota("ci", disk_bytes=20 << 30, used_files=3))}

    assert rows["bytes on disk"] == ("0 B", "20.0 GiB")
    assert rows["files and directories"] == ("3", "-")


def test_an_event_is_a_line():
    moved = FileEvent(1, T0, "move", "/kb/draft", 7, "/kb/book")

    assert watch.text(moved) == f"{clock(T0)}  move    /kb/draft -> /kb/book"
    assert watch.text(FileEvent(2, T0, "tier", "/kb/book", 7, "", "host")).endswith("  tier    /kb/book  (host)")


def test_a_finding_without_a_path_shows_its_number(capsys):
    show_findings([Finding("orphan", "", 12, 2048, "x")])

    assert words(capsys.readouterr().out.splitlines()[1]) == ["orphan", "2.0", "KiB", "ino", "12", "x"]


# ---- words


def test_paths_lose_the_slashes_of_completion():
    assert [operand.path(text) for text in ("/", "//", "/kb/", "/kb/law")] == ["/", "/", "/kb", "/kb/law"]
    assert operand.below("/", "a") == "/a" and operand.below("/kb", "a") == "/kb/a"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("ls kb", "is no path"),
        ("cp /a", "TARGET"),
        ("mkdir", "PATH"),
        ("mkdir -m 999 /a", "is no mode"),
        ("chmod q /a", "is neither like 640"),
        ("chmod 640", "PATH"),
        ("chown : /a", "names neither"),
        ("setfattr -v x /a", "one of the arguments -n/--name -x/--remove is required"),
        ("setfattr -n a -x b /a", "not allowed with"),
        ("chattr /a", "nothing to change"),
        ("chattr --ttl soon /a", "is no time"),
        ("chattr --durable disk /a", "invalid choice"),
        ("find --xattr =x", "is not like"),
        ("find --min-tokens -3", "--min-tokens"),
        ("find --type x", "invalid choice"),
        ("find --older yesterday", "is no time"),
        ("quota --files 3", "whose limits"),
        ("quota ann --disk much", "is no size"),
        ("quota ann --files -3", "--files"),
        ("advise willneed --tier disk /a", "--tier goes with dontneed"),
        ("advise maybe /a", "invalid choice"),
        ("lock /a --", "no COMMAND"),
        ("lock --no-wait --timeout 3s /a", "give one of them"),
        ("lock --lease 0 /a", "--lease must be above 0"),
        ("put /a @/nowhere/x", "cannot read /nowhere/x"),
        ("put --mode rw /a x", "is no mode"),
        ("export", "PATH"),
        ("import /a", "PATH"),
        ("pin", "PATH"),
        ("du kb", "is no path"),
        ("watch kb", "is no path"),
        ("fsck kb", "is no path"),
        ("sync kb", "is no path"),
        ("df extra", "unrecognized"),
        ("gc extra", "unrecognized"),
    ],
)
def test_wrong_words_are_told_before_a_server_is_looked_for(command, message, capsys):
    assert main(command.split()) == 2

    assert message in capsys.readouterr().err


def parsed(command, *given):
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    return command.parse(parser, list(given)) if hasattr(command, "parse") else parser.parse_args(given)


def test_limits_are_numbers_and_none_takes_them_away():
    args = parsed(quota, "ci", "--device-pages", "12", "--disk", "1k", "--files", "none")

    assert args.limits == {"device_pages": 12, "disk_bytes": 1024, "files": -1}


def test_what_follows_two_dashes_is_the_command():
    args = parsed(lock, "--shared", "/kb/a", "--", "make", "--shared")

    assert (args.path, args.shared, args.command) == ("/kb/a", True, ["make", "--shared"])


def test_find_understands_its_words():
    args = parsed(find, "/kb", "--xattr", "lang=e*", "--xattr", "draft", "--older", "1d", "--type", "f")

    assert (dict(args.xattr), args.older, args.type) == ({"lang": "e*", "draft": "*"}, 86400, "f")


def test_never_is_no_time():
    assert parsed(chattr, "--ttl", "never", "--expires", "2h", "/a").ttl == 0
    assert parsed(advise, "dontneed", "/a").tier is None


def test_put_takes_words_or_a_file(tmp_path):
    (tmp_path / "x").write_text("from a file")

    assert parsed(put, "/a", "plain words").text == "plain words"
    assert parsed(put, "/a", f"@{tmp_path / 'x'}").text == "from a file"
