"""What programs can read: found, and laid into a private root."""

import os

import pytest

from tests.unit.runtime.sandbox.jail import in_child
from vllm_symphony.runtime.sandbox import image, namespace, private_root
from vllm_symphony.runtime.sandbox.image import Image, is_open_to_all, look

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


def test_the_image_of_python_is_its_library_without_other_packages():
    found = look("python")

    library = os.path.dirname(os.path.realpath(os.__file__))
    assert found.listable == (library,)
    assert os.path.join(library, "asyncio") in found.readable
    assert not any(path.startswith(os.path.dirname(image.__file__)) for path in found.readable)
    outside = [path for path in found.readable if "-packages" in path]
    assert all("/numpy" in path for path in outside)


def test_the_image_of_wasm_has_no_library():
    found = look("wasm")

    assert (found.listable, found.hidden) == ((), ())
    assert not any("python" in os.path.basename(path) and os.path.isdir(path) for path in found.readable)


def test_open_to_all_means_every_directory_above_too(tmp_path):
    below = tmp_path / "home/lib"
    below.mkdir(parents=True)
    (below / "module.py").write_text("")

    (tmp_path / "home").chmod(0o700)
    assert not is_open_to_all(str(below / "module.py"))
    assert not is_open_to_all(str(tmp_path / "nowhere"))
    assert is_open_to_all("/")


def test_what_the_fork_server_would_preload_is_in_the_library():
    import sys

    assert {name.split(".")[0] for name in image.PRELOADED} <= sys.stdlib_module_names


@as_root
def test_a_library_below_an_unreadable_home_can_be_read_in_the_private_root_and_the_home_not(tmp_path):
    home = tmp_path / "home"
    library, packages, wanted = home / "lib", home / "lib/site-packages", home / "lib/site-packages/numpy"
    wanted.mkdir(parents=True)
    for path in (library / "module.py", packages / "secret.py", wanted / "core.py", home / "diary"):
        path.write_text(f"# {path.name}")
    (tmp_path / "alias").symlink_to(library)
    home.chmod(0o700)
    made = Image(
        listable=(str(library),),
        hidden=(str(packages),),
        readable=(str(library / "module.py"), str(wanted)),
        aliases={str(tmp_path / "alias"): str(library)},
    )

    def work():
        namespace.unshare(namespace.NEW_MOUNT)
        private_root.enter(made)
        os.setresuid(65534, 65534, 65534)
        seen = {}
        for path in (
            library / "module.py",
            tmp_path / "alias/module.py",
            wanted / "core.py",
            packages / "secret.py",
            home / "diary",
        ):
            try:
                seen[path.name] = path.read_text()
            except OSError as e:
                seen[path.name] = type(e).__name__
        try:
            (library / "module.py").write_text("changed")
        except OSError as e:
            seen["write"] = e.strerror
        return seen, sorted(os.listdir("/")), os.getcwd()

    said = in_child(work)

    seen, top, cwd = said.value
    assert seen == {
        "module.py": "# module.py", "core.py": "# core.py", "secret.py": "FileNotFoundError", "diary": "FileNotFoundError",
        "write": "Read-only file system",
    }  # fmt: skip
    assert "etc" not in top and "proc" not in top and cwd == "/"
    assert os.path.exists("/proc/self/status")  # ours is untouched
    with open("/proc/self/mounts") as mounts:
        assert str(tmp_path) not in mounts.read()


@as_root
def test_the_private_root_is_read_only_and_a_root_that_cannot_be_made_leaves_the_old_one(tmp_path):
    def work():
        namespace.unshare(namespace.NEW_MOUNT)
        try:
            private_root.enter(Image(listable=(str(tmp_path / "nowhere"),)))
        except OSError as e:
            first = type(e).__name__, os.path.exists(str(tmp_path))
        private_root.enter(Image(listable=(str(tmp_path),)))
        refused = []
        for path in ("/new", str(tmp_path / "new"), os.path.dirname(str(tmp_path)) + "/new"):
            try:
                os.mkdir(path)
            except OSError as e:
                refused.append(e.strerror)
        return first, refused

    first, refused = in_child(work).value

    assert first == ["FileNotFoundError", True]
    assert set(refused) == {"Read-only file system"} and len(refused) == 3
