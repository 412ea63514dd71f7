"""Folders that hostile users write to: what is opened, listed, measured and removed there."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas.beneath import DEPTH, NotPlainError, is_text, open_beneath, read_beneath, remove_tree, usage_beneath, walk_beneath


@pytest.fixture
def root(tmp_path):
    """A folder with a file in a folder, beside a secret that it must not lead to."""
    (tmp_path / "secret").write_text("secret")
    inside = tmp_path / "root"
    (inside / "a").mkdir(parents=True)
    (inside / "a" / "b.txt").write_text("hello")
    return inside


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_plain_file_is_opened(root):
    with os.fdopen(open_beneath(root, "a/b.txt"), "rb") as file:
        assert file.read() == b"hello"
        assert os.get_blocking(file.fileno())
        assert not os.get_inheritable(file.fileno())
    assert read_beneath(root, "a/b.txt", 3) == b"hel"


def test_a_file_is_made(root):
    with os.fdopen(open_beneath(root, "a/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.write(b"x")
    assert stat.S_IMODE((root / "a" / "new").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        open_beneath(root, "a/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL)


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "a/../a/b.txt", "a//b.txt", "./a/b.txt", "a/b.txt/", "", ".", "..", "a\0b", "a", "x" * 300, "\ud800"]
)
def test_paths_that_are_refused(root, path):
    before = descriptors()
    with pytest.raises(NotPlainError):
        open_beneath(root, path)
    assert descriptors() == before


@pytest.mark.parametrize("path", ["nothing", "a/nothing", "nothing/b.txt", "a/b.txt/c"])
def test_files_that_are_not_there(root, path):
    with pytest.raises(FileNotFoundError):
        open_beneath(root, path)


def test_links_are_not_followed(root, tmp_path):
    (root / "file").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to(tmp_path)
    (root / "a" / "self").symlink_to("b.txt")
    for path in ("file", "up/secret", "a/self"):
        with pytest.raises(NotPlainError):
            open_beneath(root, path)
        with pytest.raises(NotPlainError):
            open_beneath(root, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with pytest.raises(NotPlainError):
        open_beneath(root, "up", os.O_DIRECTORY)
    assert (tmp_path / "secret").read_text() == "secret"
    assert [entry.path for entry in walk_beneath(root)] == ["a/b.txt"]


def test_special_files_do_not_hang(root):
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        for path in ("fifo", "socket"):
            for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
                with pytest.raises(NotPlainError):
                    open_beneath(root, path, flags)
    if os.geteuid() == 0:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        with pytest.raises(NotPlainError):
            open_beneath(root, "null")
    assert [entry.path for entry in walk_beneath(root)] == ["a/b.txt"]


def test_a_folder_swapped_for_a_link_shows_nothing(root, tmp_path):
    """Somebody renames a link over a folder while it is opened again and again: what is read is the file inside or nothing."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "b.txt").write_text("secret")
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            (root / "a").rename(root / "kept")
            (root / "a").symlink_to(tmp_path / "outside")
            (root / "a").unlink()
            (root / "kept").rename(root / "a")
            time.sleep(0.0002)  # let the reader have its chance

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        for _ in range(3000):
            try:
                seen.add(read_beneath(root, "a/b.txt", 100))
            except FileNotFoundError:
                seen.add(None)
    finally:
        stop.set()
        thread.join()
    assert seen <= {b"hello", None}
    assert b"hello" in seen


def test_walk_tells_sizes_and_order(root):
    (root / "Z").write_bytes(b"xx")
    (root / "a" / "é").touch()
    (root / os.fsdecode(b"bad\xff")).touch()
    (root / "line\nend").touch()
    os.utime(root / "Z", (5, 7))
    entries = list(walk_beneath(root))
    assert [entry.path for entry in entries] == ["Z", "a/b.txt", "a/é"]
    assert (entries[0].size, entries[0].mtime) == (2, 7.0)
    assert [entry.path for entry in walk_beneath(root, "a")] == ["b.txt", "é"]
    with pytest.raises(FileNotFoundError):
        list(walk_beneath(root, "b"))
    with pytest.raises(FileNotFoundError):
        list(walk_beneath(root / "nothing"))


def make_deep(folder: Path, depth: int) -> None:
    at = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.write(bottom := os.open("bottom", os.O_WRONLY, dir_fd=at), b"x" * 1_000_000)
    os.close(bottom)
    os.close(at)


def test_a_tree_deeper_than_anything_can_name(root):
    """3,000 folders below each other: their path is longer than a path may be, and they are more than there may be descriptors."""
    make_deep(root, 3000)
    before = descriptors()
    assert [entry.path for entry in walk_beneath(root)] == ["a/b.txt"]
    assert usage_beneath(root) >= 1_000_000
    assert descriptors() == before
    remove_tree(root)
    assert not root.exists()
    assert descriptors() == before


def test_the_limit_of_depth_is_where_it_is_said(root):
    for depth in (DEPTH, DEPTH + 1):
        folder = root.joinpath(*["x"] * depth)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(depth)).touch()
    assert [entry.path.rsplit("/")[-1] for entry in walk_beneath(root, "x")] == [str(DEPTH), str(DEPTH + 1)]
    assert [entry.path.rsplit("/")[-1] for entry in walk_beneath(root)] == ["b.txt", str(DEPTH)]


def test_removing_follows_no_link(root, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").touch()
    (root / "a" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    remove_tree(root)
    remove_tree(tmp_path / "link")
    remove_tree(tmp_path / "secret")
    remove_tree(tmp_path / "nothing" / "at" / "all")
    remove_tree(root)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept", "outside"]


def test_folders_without_permissions_are_removed(root):
    """As the user `nobody` where this is root, who may do everything."""
    (root / "a" / "c").mkdir()
    (root / "a" / "c" / "file").touch()
    inside = [root / "a" / "c", root / "a", root]
    for folder in inside:
        folder.chmod(0)
    if os.geteuid() == 0:
        for folder in (*inside, root.parent):
            os.chown(folder, 65534, 65534)
        assert as_nobody(root.parent, lambda: remove_tree(Path("root"))) == 0
    else:
        remove_tree(root)
    assert not root.exists()


def as_nobody(folder, action):
    """Do something in a folder as the user `nobody`, in a child process; returns its exit status."""
    here = os.open(folder, os.O_RDONLY)
    child = os.fork()
    if not child:
        code = 1
        try:
            os.fchdir(here)
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            action()
            code = 0
        finally:
            os._exit(code)
    os.close(here)
    return os.waitpid(child, 0)[1]


@given(st.text(max_size=20))
def test_names_are_text_or_not(name):
    told = is_text(name)
    assert told == (
        all(ord(c) >= 32 and not 127 <= ord(c) < 160 for c in name) and not any(0xD800 <= ord(c) < 0xE000 or c in "\u2028\u2029" for c in name)
    )
    if told:
        assert len((name + "x").splitlines()) == 1


def test_usage_counts_the_disk_not_the_length(root):
    with (root / "holes").open("wb") as file:
        file.truncate(1 << 30)
    assert usage_beneath(root) < 1 << 20
    assert usage_beneath(root / "nothing") == 0
    (root.parent / "link").symlink_to("/")
    assert usage_beneath(root.parent / "link") == 0
