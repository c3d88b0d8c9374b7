"""What happens next, by chance (tests/model/kvfs/chance.py).

Paths are mostly of what is there, sometimes of what could be, seldom of what cannot be. All choices look at the model only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from tests.model.kvfs.driver import ACTORS, Op, Run
from tests.model.kvfs.model import PRINCIPALS
from tests.model.kvfs.tree import File, Folder, Process, below

NAMES = ("a", "b", "c", "x.kv")
BAD_PATHS = ("", "a", "/a/", "//a", "/a/../b", "/.", "/a\0", "/" + "n" * 256, "/n" * 2050)
FILE_MODES = (0o600, 0o600, 0o640, 0o660, 0o644, 0o666, 0o200, 0o000)
FOLDER_MODES = (0o700, 0o755, 0o770, 0o775, 0o777, 0o1777, 0o2775, 0o3777, 0o711, 0o733, 0o444)
PLENTY = 400  # pages: nothing is ever evicted
Args = dict[str, Any]


class Chance:
    def __init__(self, rng: Random, run: Run) -> None:
        self.rng = rng
        self.run = run
        self.number = 0
        self.who = ""
        self.chosen = 0  # number of an operation
        self.choices: list[tuple[int, str, Callable[[], Args]]] = [
            (16, "open", self.open),
            (4, "open", self.open_anonymous),
            (7, "close", self.fd),
            (3, "dup", self.fd),
            (5, "fork", self.fd),
            (4, "link", self.link),
            (3, "unlink", self.path_args),
            (6, "rename", self.rename),
            (6, "mkdir", self.mkdir),
            (3, "rmdir", self.path_args),
            (5, "chmod", self.chmod),
            (3, "chown", self.chown),
            (1, "umask", self.umask),
            (3, "setxattr", self.setxattr),
            (1, "getxattr", self.xattr),
            (1, "removexattr", self.xattr),
            (1, "listxattr", self.target),
            (3, "chattr", self.chattr),
            (6, "append", self.append),
            (4, "truncate", self.truncate),
            (4, "read", self.read),
            (5, "stat", self.target),
            (2, "listdir", self.listdir),
            (1, "list", self.prefix),
            (14, "forward", self.forward),
            (8, "generate", self.generate),
            (3, "sample", self.sample),
            (9, "flock", self.flock),
            (6, "extract", self.extract),
            (4, "concat", self.concat),
            (3, "pin", self.pin),
            (6, "advise", self.advise),
            (4, "sync", self.sync),
            (1, "fsck", self.fsck),
            (1, "gc", dict),
            (3, "repack", self.repack),
            (1, "restart", self.restart),
            (2, "setquota", self.setquota),
            (1, "getquota", self.getquota),
            (1, "statfs", dict),
            (2, "du", self.target),
            (3, "find", self.find),
            (1, "watch", self.watch),
            (3, "cancel", self.cancel),
            (8, "step", dict),
            (3, "pass_time", dict),
            (1, "disconnect", dict),
        ]
        self.weights = [weight for weight, _, _ in self.choices]

    def next(self) -> Op:
        rng = self.rng
        self.number += 1
        _, name, args = rng.choices(self.choices, self.weights)[0]
        self.who = rng.choice([*ACTORS])
        if name == "disconnect":
            self.who = rng.choice([who for who in ACTORS if ACTORS[who].process == who])
        gone = [who for who, process in self.run.processes.items() if process.ended or not process.connected]
        if gone and self.rarely(0.3):
            return Op(self.number, rng.choice(gone), "connect", {})
        made = args()  # may change who does it
        wait = rng.random() < 0.6 or bool(ACTORS[self.who].session)
        after_s = rng.choice((0.1, 1.0, 5.0, 30.0)) * rng.random() if name == "pass_time" else 0.0
        return Op(self.number, self.who, name, made, wait, after_s)

    # ---- parts

    def rarely(self, often: float = 0.1) -> bool:
        return self.rng.random() < often

    def label(self, is_shared: bool = False) -> int:
        """The number of an operation that opened a file, mostly of whoever does this one; busy and locked ones are liked, with
        `is_shared` those that were opened more than once."""
        rng, model, run = self.rng, self.run.model, self.run
        opened = [(process, fd) for process in model.processes for fd in process.fds]
        if not opened or self.rarely(0.03):
            return rng.choice([0, *run.labels])
        liked = [(process, fd) for process, fd in opened if process.fds[fd].file.is_busy or model.locked(process.fds[fd].file)]
        if is_shared:
            files = Counter(process.fds[fd].file for process, fd in opened if process.fds[fd].writable)
            liked = [(process, fd) for process, fd in opened if files[process.fds[fd].file] > 1] or liked
        process, fd = rng.choice(liked if liked and self.rarely(0.8 if is_shared else 0.25) else opened)
        if not self.rarely(0.03):
            self.who = self.actor_of(process, process.fds[fd].principal)
        return run.labels_of(process)[fd]

    def actor_of(self, process: Process, principal: str) -> str:
        names = [name for name, actor in ACTORS.items() if actor.principal == principal or principal not in PRINCIPALS]
        fit = [name for name in names if self.run.processes[ACTORS[name].session or ACTORS[name].process] is process]
        return self.rng.choice(fit) if fit else self.who

    def file(self) -> File | None:
        """The one that `label` chose last."""
        actor = ACTORS[self.who]
        process = self.run.processes[actor.session or actor.process]
        labels = {number: fd for fd, number in self.run.labels_of(process).items()}
        opened = process.fds.get(labels.get(self.chosen, 0))
        return opened.file if opened is not None else None

    def path(self, kind: type = object, there: float = 0.75) -> str:
        rng, model = self.rng, self.run.model
        if self.rarely(0.01):
            return rng.choice((*BAD_PATHS, "/proc", "/proc/a", "/"))
        if self.rarely(0.03):
            return self.proc_path()
        if rng.random() < there:
            found = [(path, node) for path, node in below(model.root, "") if isinstance(node, kind)]
            if found:
                path, node = rng.choice(found)
                if node.owner in PRINCIPALS and self.rarely(0.5):
                    self.who = rng.choice([name for name, actor in ACTORS.items() if actor.principal == node.owner])
                return path
        folders = [path for path, node in below(model.root, "") if isinstance(node, Folder) and path.count("/") < 4]
        above = rng.choice(("", "", "/home/ann", "/home/bob", "/tmp", *folders))
        if self.rarely(0.05):
            above = self.path(File, 1.0)
        return f"{above}/{rng.choice(NAMES)}"

    def proc_path(self) -> str:
        processes = [str(process.pid) for process in (*self.run.model.processes, *self.run.model.zombies)]
        pid = self.rng.choice(("self", "self", "01", *processes))
        return self.rng.choice(
            (f"/proc/{pid}", f"/proc/{pid}/status", f"/proc/{pid}/fd", *(f"/proc/{pid}/fd/{n}" for n in (3, 4, 5, 9, 14)))
        )

    def tokens(self, most: int = 9) -> list[int]:
        if self.rarely(0.15):
            return self.words()
        count = self.rng.choice((0, 1, 2, 3, 5, most)) if not self.rarely(0.02) else 41
        return [self.rng.choice((101, 116, 97, 111, 105, 500 if self.rarely(0.01) else 110)) for _ in range(count)]

    def words(self) -> list[int]:
        return [ord(letter) for letter in self.rng.choice((" red ", " blue", " red blue ", " Red. "))]

    def fd(self) -> Args:
        self.chosen = self.label()
        return {"fd": self.chosen}

    def target(self) -> Args:
        return self.fd() if self.rarely(0.4) else {"path": self.path()}

    def path_args(self) -> Args:
        return {"path": self.path()}

    # ---- calls

    def open(self) -> Args:
        flags = self.rng.choice((0, 1, 1, 2, 3, 3, 3, 7, 9, 11, self.rng.randint(0, 32) if self.rarely(0.3) else 3))
        args: Args = {"path": self.path(File, 0.7), "flags": flags, "mode": self.rng.choice(FILE_MODES)}
        if (flags & 2 and self.rarely(0.5)) or self.rarely(0.02):
            args["tokens"] = self.tokens()
        if self.rarely():
            args["require"] = "exact"
        return args

    def open_anonymous(self) -> Args:
        return {"flags": self.rng.choice((16, 17)), "tokens": self.tokens()} if self.rarely(0.7) else {"tokens": self.tokens()}

    def link(self) -> Args:
        return {**self.fd(), "path": self.path(File, 0.4), "replace": self.rarely(0.5)}

    def rename(self) -> Args:
        return {"old": self.path(), "new": self.path(there=0.4)}

    def mkdir(self) -> Args:
        path = self.path(Folder, 0.2)
        return {"path": path, "mode": self.rng.choice(FOLDER_MODES), "parents": self.rarely(0.3)}

    def chmod(self) -> Args:
        return {**self.target(), "mode": self.rng.choice((*FILE_MODES, *FOLDER_MODES))}

    def chown(self) -> Args:
        who = (None, None, "ann", "bob", "eve", "staff", "docs", "")
        return {**self.target(), "owner": self.rng.choice(who), "group": self.rng.choice(who)}

    def umask(self) -> Args:
        return {"mask": self.rng.choice((None, 0, 0o022, 0o077, 0o007, 0o1000))}

    def setxattr(self) -> Args:
        args = {**self.target(), "name": self.rng.choice(("user.a", "b", "")), "value": self.rng.choice(("", "1", "two words"))}
        return {**args, "create": self.rarely(0.2), "replace": self.rarely(0.2)}

    def xattr(self) -> Args:
        return {**self.target(), "name": self.rng.choice(("user.a", "b"))}

    def chattr(self) -> Args:
        args = self.target()
        choice = self.rng.random()
        if choice < 0.4:
            return {**args, "expires_s": self.rng.choice((0.0, 3.0, 20.0, -1.0))}
        if choice < 0.7:
            return {**args, "durable": self.rng.choice(("", "none", "tokens", "pages", "for ever"))}
        return {**args, "ttl_s": self.rng.choice((0.0, 0.0, 0.0, 15.0))}

    def length(self) -> int:
        """A length of the file that was chosen last."""
        file = self.file()
        return self.rng.randint(0, file.length) if file is not None else 3

    def at(self) -> int | None:
        if self.rarely(0.7) or (file := self.file()) is None:
            return None
        return file.length if self.rarely(0.8) else 5

    def start(self) -> int | None:
        if self.rarely(0.6) or (file := self.file()) is None:
            return None
        return file.following + self.rng.choice((0, 0, 1, 2, 7, -1))

    def append(self) -> Args:
        return {**self.fd(), "tokens": self.tokens(), "start": self.start(), "at": self.at()}

    def truncate(self) -> Args:
        return {**self.fd(), "length": self.length() if not self.rarely() else self.rng.choice((-1, 50)), "at": self.at()}

    def read(self) -> Args:
        return {**self.target(), "offset": self.rng.choice((0, 0, 2, 5, -1)), "count": self.rng.choice((None, None, 0, 3))}

    def listdir(self) -> Args:
        return {"path": self.path(Folder, 0.8) if self.rarely(0.5) else "/", "recursive": self.rarely(0.5)}

    def prefix(self) -> Args:
        path = self.path()
        return {"prefix": path[: self.rng.randint(0, len(path))]}

    def forward(self) -> Args:
        tokens = [] if self.rarely(0.3) else self.tokens()
        return {**self.fd(), "tokens": tokens, "start": self.start(), "at": self.at(), "top_k": 1}

    def generate(self) -> Args:
        return {**self.fd(), "max_tokens": self.rng.choice((1, 1, 1, 2, 6, 0)), "at": self.at(), "ignore_eos": True}

    def extract(self) -> Args:
        args = self.fd()
        cuts = sorted(self.length() for _ in range(self.rng.choice((2, 2, 4, 4, 6))))
        if self.rarely(0.4):
            cuts[0] = 0
        spans = tuple((a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=True) if a < b or self.rarely())
        return {**args, "spans": spans, "positions": self.rng.choice(("keep", "compact"))}

    def concat(self) -> Args:
        first = self.label()
        fds = [first]
        actor = ACTORS[self.who]
        process = self.run.processes[actor.session or actor.process]
        mine = [
            n for fd, n in self.run.labels_of(process).items() if fd in process.fds and process.fds[fd].principal == actor.principal
        ]
        while mine and self.rarely(0.7) and len(fds) < 4:
            fds.append(self.rng.choice(mine))
        return {"fds": tuple(fds), "mode": self.rng.choice(("recompute", "rotate"))}

    def sample(self) -> Args:
        return {**self.fd(), "position": self.rng.choice((None, self.length(), self.length() - 1, 9))}

    def flock(self) -> Args:
        rng = self.rng
        kind = rng.choice(("shared", "shared", "exclusive", "exclusive", "exclusive", "none" if self.rarely() else "unlock"))
        args = {
            "fd": self.label(is_shared=True),
            "kind": kind,
            "lease_s": rng.choice((0.5, 5.0, 30.0, 30.0, 0.0 if self.rarely() else 2.0)),
        }
        is_outside = bool(ACTORS[self.who].session)
        return {**args, "wait": not is_outside and self.rarely(0.7), "timeout_s": rng.choice((None, 1.0, 4.0))}

    def setquota(self) -> Args:
        self.who = self.who if self.rarely() else self.rng.choice(("root", "edge-root"))
        what = self.rng.choice(("device_pages", "files", "device_pages", "rows", "pinned_pages"))
        if what == "device_pages" and self.run.model.num_pages < PLENTY:  # what is held depends on what was evicted
            what = "files"
        limit = {"device_pages": self.rng.randint(3, 20), "files": self.rng.randint(3, 20), "rows": 4, "pinned_pages": 7}[what]
        return {"principal": self.rng.choice(("ann", "bob", "eve", "root")), what: -1 if self.rarely(0.6) else limit}

    def pin(self) -> Args:
        return {**self.target(), "pinned": self.rarely(0.5)}

    def advise(self) -> Args:
        rng = self.rng
        many = self.run.model.num_pages >= PLENTY  # here quotas of device pages are tried, and nothing is moved
        args = {**self.target(), "advice": "willneed" if many or self.rarely(0.3) else "dontneed", "wait": self.rarely(0.5)}
        return {**args, "tier": rng.choice(("host", "host", "disk", "tape" if self.rarely() else "disk"))}

    def sync(self) -> Args:
        return self.target() if self.rarely(0.8) else {}

    def fsck(self) -> Args:
        return {"path": self.path() if self.rarely(0.4) else "/", "rebuild": self.rarely(0.6)}

    def repack(self) -> Args:
        return {"to": self.path(File, 0.1), "path": self.path(File, 0.9), "pages": self.rarely(0.7)}

    def restart(self) -> Args:
        return {"crash": self.rarely(0.5)}

    def getquota(self) -> Args:
        return {"principal": self.rng.choice(("", "", "ann", "bob"))}

    def find(self) -> Args:
        rng = self.rng
        args: Args = {"path": self.path(Folder, 0.9) if self.rarely(0.5) else "/", "limit": rng.choice((1000, 1000, 2, 0))}
        for key, values in (
            ("name", ("a", "?", "*.kv", "[ab]")), ("owner", ("ann", "root")), ("kind", ("file", "dir", "pipe")),
            ("fidelity", ("exact", "pruned", "approximate")), ("xattr", ({"user.a": "*"}, {"b": "two*"})), ("min_length", (1, 4)),
            ("max_length", (0, 6)), ("min_age_s", (1.0, 30.0)), ("max_age_s", (5.0, 60.0)),
        ):  # fmt: skip
            if self.rarely(0.15):
                args[key] = rng.choice(values)  # type: ignore[arg-type]
        if self.rarely(0.3):
            args |= {"text": rng.choice(("red", "blue", "red blue", "green")), "limit": 1000}
        return args

    def watch(self) -> Args:
        if ACTORS[self.who].session:
            self.who = "ann"
        folders = [path for path, node in below(self.run.model.root, "") if isinstance(node, Folder)]
        return {"path": self.rng.choice(folders) if self.rarely(0.5) else "/", "recursive": self.rarely(0.7)}

    def cancel(self) -> Args:
        running = [call.op.number for call in self.run.calls.values()]
        return {"target": self.rng.choice([*running, 0])}
