import ast
from pathlib import Path

import vllm_symphony.kernel
from vllm_symphony.abi.table import CALLS
from vllm_symphony.kernel.syscall.table import SYSCALLS

PURE = {
    "__future__", "array", "bisect", "collections", "collections.abc", "dataclasses", "enum", "fnmatch", "functools", "hashlib",
    "heapq", "itertools", "json", "math", "msgspec", "types", "typing",
}  # fmt: skip


def test_each_call_of_the_abi_is_answered() -> None:
    assert SYSCALLS.keys() == CALLS.keys()


def test_the_kernel_imports_nothing_impure() -> None:
    root = Path(vllm_symphony.kernel.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                allowed = name in PURE or name.startswith(
                    ("vllm_symphony.kernel", "vllm_symphony.abi", "vllm_symphony.errors", "vllm_symphony.trace")
                )
                assert allowed, f"{path.name} imports {name}"
