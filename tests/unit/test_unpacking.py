"""Archives of strangers: what comes out is what they hold, within limits, or one sentence."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import resource
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlaas.beneath import DEPTH, walk_beneath
from mlaas.errors import ResourceError, UserError
from mlaas.unpacking import ArchiveError, Limits, TooLargeError, Unpacked, unpack

LIMITS = Limits(100, 1_000_000)
PACKINGS = {"tar": bytes, "tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}


def entry(name: str, kind: bytes = tarfile.REGTYPE, **more) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for attribute, value in more.items():
        setattr(made, attribute, value)
    return made


def tarred(*entries: tuple[tarfile.TarInfo | str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info, data in entries:
            info = entry(info) if isinstance(info, str) else info
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(*entries: tuple[zipfile.ZipInfo | str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for info, data in entries:
            archive.writestr(info, data)
    return buffer.getvalue()


def out_of(data: bytes, tmp_path: Path, limits: Limits = LIMITS) -> tuple[Unpacked, dict[str, bytes]]:
    """What unpacking gives: the report, and the files."""
    source, folder = tmp_path / "archive", tmp_path / "out"
    source.write_bytes(data)
    folder.mkdir()
    report = unpack(source, folder, limits)
    return report, {found.path: (folder / found.path).read_bytes() for found in walk_beneath(folder)}


@pytest.mark.parametrize("packing", [*PACKINGS, "zip"])
def test_every_format(packing, tmp_path):
    entries = [("a/b.txt", b"hello"), ("ü.root", bytes(300_000)), ("empty", b"")]
    data = zipped(*entries) if packing == "zip" else PACKINGS[packing](tarred(*entries))
    report, files = out_of(data, tmp_path)
    assert files == dict(entries)
    assert report == Unpacked(3, 300_005)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").rglob("*")}
    assert modes == {"a": 0o755, "b.txt": 0o644, "ü.root": 0o644, "empty": 0o644}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar(form, tmp_path):
    name = "a" * 60 + "/" + "b" * 60 + "/c.txt"
    assert out_of(tarred((entry("a" * 60, tarfile.DIRTYPE, mode=0), b""), (name, b"x"), form=form), tmp_path)[1] == {name: b"x"}


def test_archives_as_the_usual_programs_write_them(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "a.txt").write_text("hello")
    (tmp_path / "in" / "sub" / "a.txt").chmod(0o4777)
    for number, command in enumerate((["tar", "czf"], ["tar", "cJf"], ["tar", "--format=v7", "-cf"], ["tar", "--format=oldgnu", "-cf"])):
        subprocess.run([*command, tmp_path / f"x{number}", "."], cwd=tmp_path / "in", check=True)
        folder = tmp_path / f"out{number}"
        folder.mkdir()
        assert unpack(tmp_path / f"x{number}", folder, LIMITS) == Unpacked(1, 5)
        assert (folder / "sub" / "a.txt").read_text() == "hello"
        assert stat.S_IMODE((folder / "sub" / "a.txt").stat().st_mode) == 0o644


def test_what_macos_adds_is_left_out(tmp_path):
    entries = [("f/a.txt", b"x"), ("f/._a.txt", b"y"), ("__MACOSX/f/._a.txt", b"z"), ("._f", b"")]
    assert out_of(zipped(*entries), tmp_path)[1] == {"f/a.txt": b"x"}


def test_parallel_and_joined_xz(tmp_path):
    data = tarred(("a", b"x" * 50_000))
    joined = lzma.compress(data[:20_000]) + bytes(8) + lzma.compress(data[20_000:]) + bytes(4)
    assert out_of(joined, tmp_path)[1] == {"a": b"x" * 50_000}


# --- hostile names and kinds ----------------------------------------------------------------------------------------------------------------

NAMES = {
    "../evil": "leaves its folder",
    "/tmp/evil": "leaves its folder",  # noqa: S108
    "a/../../evil": "leaves its folder",
    "a/..": "leaves its folder",
    "new\nline": "control characters",
    "bell\x07": "control characters",
    "n" * 256: "too long",
    "ü" * 128: "too long",
    "/".join(["d"] * 1100): "too long",
    "/".join(["d"] * (DEPTH + 1)): "folders in each other",
}


@pytest.mark.parametrize("make", [tarred, zipped])
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:12]))
def test_hostile_names(make, name, tmp_path):
    with pytest.raises(ArchiveError, match=NAMES[name]) as caught:
        out_of(make(("good", b"x"), (name, b"x")), tmp_path)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "out"}
    assert not (tmp_path.parent / "evil").exists()


def test_a_name_that_is_not_text(tmp_path):
    with pytest.raises(ArchiveError, match="not text"):
        out_of(tarred((os.fsdecode(b"bad\xff"), b""), form=tarfile.GNU_FORMAT), tmp_path)


@pytest.mark.parametrize("make", [tarred, zipped])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a"], "twice"),
        (["a", "./a"], "twice"),
        (["a/b", "a//b"], "twice"),
        (["a", "a/b"], "is a file, and a folder"),
        (["a/b", "a"], "twice"),
        (["."], "twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # of zipfile, that the test's own archive is odd
def test_names_that_collide(make, names, message, tmp_path):
    with pytest.raises(ArchiveError, match=message):
        out_of(make(*[(name, b"x") for name in names]), tmp_path)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.CONTTYPE, b"Z"], ids=ascii
)
def test_links_and_special_files_in_tar(kind, tmp_path):
    made = tarred((entry("x", kind, linkname="/etc/passwd"), b""))
    if kind == tarfile.CONTTYPE:
        assert out_of(made, tmp_path)[1] == {"x": b""}  # an old word for a plain file
        return
    with pytest.raises(ArchiveError, match="link or a special file"):
        out_of(made, tmp_path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_special_files_in_zip(kind, tmp_path):
    info = zipfile.ZipInfo("x")
    info.external_attr = (kind | 0o777) << 16
    with pytest.raises(ArchiveError, match="link or a special file"):
        out_of(zipped((info, b"/etc/passwd")), tmp_path)


def test_a_link_and_a_file_through_it(tmp_path):
    """The classic: a link to elsewhere, then a file in it."""
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ArchiveError):
        out_of(tarred((entry("x", tarfile.SYMTYPE, linkname=str(tmp_path / "elsewhere")), b""), ("x/evil", b"x")), tmp_path)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_zip_names_for_other_systems(tmp_path):
    with pytest.raises(ArchiveError, match="backslash"):
        out_of(zipped(("a\\b.txt", b"x")), tmp_path)


# --- bombs and limits -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", [*PACKINGS, "zip"])
def test_bombs(packing, tmp_path):
    data = bytes(50_000_000)
    made = zipped(("zeros", data)) if packing == "zip" else PACKINGS[packing](tarred(("zeros", data)))
    with pytest.raises(TooLargeError, match="more than 1000000 bytes when unpacked") as caught:
        out_of(made, tmp_path)
    assert caught.value.status == 413
    assert sum(found.size for found in walk_beneath(tmp_path / "out")) <= 1_000_000


@pytest.mark.parametrize("make", [tarred, zipped])
def test_too_many_files_and_folders(make, tmp_path):
    exactly = make(*[(f"f{number}", b"") for number in range(100)])
    assert out_of(exactly, tmp_path)[0].files == 100
    for number, names in enumerate(([f"f{number}" for number in range(101)], ["/".join(f"d{n}{m}" for m in range(60)) + "/f" for n in range(2)])):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(TooLargeError, match="more than 100 files"):
            out_of(make(*[(name, b"") for name in names]), tmp_path / str(number))


def test_a_sparse_file_of_a_terabyte(tmp_path):
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x", "GNU.sparse.realsize": str(10**12)}
    for number, pax in enumerate((headers, {"GNU.sparse.size": str(10**12), "GNU.sparse.map": "0,0"})):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(ArchiveError):
            out_of(gzip.compress(tarred((entry("x", pax_headers=pax), b"1\n0\n" + bytes(508)))), tmp_path / str(number))


def header(name: bytes, size: int, kind: bytes) -> bytes:
    """A tar header with any size, also below 0."""
    number = b"%011o\0" % size if size >= 0 else struct.pack(">i", -1) * 2 + struct.pack(">i", size)
    block = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + number + b"0" * 11 + b"\0" + b" " * 8 + kind + bytes(100) + b"ustar\x0000"
    block = block.ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"L", b"K", b"5", b"S"])
@pytest.mark.parametrize("size", [-512, -1024, -1, 8**11 - 1])
@pytest.mark.timeout(30)  # without a limit on going backwards the same headers would be read for ever
def test_headers_that_lie_about_their_size(kind, size, tmp_path):
    data = header(b"a", 0, b"0") + header(b"b", size, kind) + bytes(4096)
    try:
        out_of(data, tmp_path)
    except ArchiveError:
        return
    assert kind in {b"5", b"0"}  # a folder's size says nothing; what was plain is checked below
    assert {found.size for found in walk_beneath(tmp_path / "out")} <= {0}


def test_headers_of_headers(tmp_path):
    """Each long name describes the next one: read by recursion."""
    chain = b"".join(header(b"././@LongLink", 2, b"L") + b"x\0".ljust(512, b"\0") for _ in range(5000))
    with pytest.raises(ArchiveError):
        out_of(chain + header(b"a", 0, b"0") + bytes(1024), tmp_path)


BIG_XZ = """
import lzma, sys
filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
sys.stdout.buffer.write(lzma.compress(bytes(1000), filters=filters))
"""


def test_an_xz_that_wants_a_gigabyte(tmp_path):
    made = subprocess.run([sys.executable, "-c", BIG_XZ], capture_output=True, check=True).stdout
    with pytest.raises(ArchiveError, match=r"not a \.tar\.xz file, or it is damaged: Memory"):
        out_of(made, tmp_path)


def test_a_zip_with_an_oversized_directory(tmp_path):
    data = zipped(("a", b""))
    begin = data.rindex(b"PK\5\6")
    end = bytearray(data[begin:])
    large = 60_000_000
    struct.pack_into("<II", end, 12, large, 10)
    with pytest.raises(ArchiveError, match="directory is oversized"):
        out_of(b"PK\3\4" + bytes(large) + bytes(end), tmp_path)


def test_zip_entries_that_overlap_or_lie(tmp_path):
    """Two entries of the directory for one file of the archive: bytes out of nothing, so they count each time."""
    data = zipped(*[(f"f{number:02}", bytes(100_000)) for number in range(11)])
    with pytest.raises(TooLargeError, match="1000000 bytes"):
        out_of(data, tmp_path)


@pytest.mark.parametrize("how", [zipfile.ZIP_LZMA])
def test_zip_methods_that_are_not_read(how, tmp_path):
    with pytest.raises(ArchiveError, match="compressed in a way"):
        out_of(zipped(("a", b"x" * 100), how=how), tmp_path)


def test_encrypted_zip(tmp_path):
    data = bytearray(zipped(("a", b"x")))
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + offset] |= 1
    with pytest.raises(ArchiveError, match="encrypted"):
        out_of(bytes(data), tmp_path)


# --- damage and trouble ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"PK\3\4 not really", b"\x1f\x8bnot really", gzip.compress(b"text"), b"BZh9 no", b"\xfd7zXZ\0no", b"%PDF-1.4" * 100]
)
def test_no_archive(data, tmp_path):
    with pytest.raises(ArchiveError, match=r"archive|damaged") as caught:
        out_of(data, tmp_path)
    assert caught.value.status == 422


@pytest.mark.parametrize("packing", [*PACKINGS, "zip"])
def test_every_cut_is_noticed(packing, tmp_path):
    entries = [(f"f{number}", os.urandom(700)) for number in range(4)]
    data = zipped(*entries) if packing == "zip" else PACKINGS[packing](tarred(*entries))
    end = 4 * 1536 if packing == "tar" else len(data) - 1  # behind its entries a plain tar has empty blocks
    for number, length in enumerate({*range(0, end, 97), *range(0, end, 512), end}):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(ArchiveError):
            out_of(data[:length], tmp_path / str(number))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_one_sentence_or_none(tmp_path_factory, data):
    """Bytes changed, left out or added anywhere: the same files, or a UserError; never another exception, never a file outside."""
    folder = tmp_path_factory.mktemp("damage")
    make = data.draw(st.sampled_from([*PACKINGS, "zip"]))
    entries = [("a/b.txt", b"hello" * 20), ("c", bytes(600))]
    good = bytearray(zipped(*entries) if make == "zip" else PACKINGS[make](tarred(*entries)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(good) - 1))
        good[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        report, files = out_of(bytes(good), folder)
        said = ""
        assert report.files == len(files)
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    assert {path.name for path in folder.iterdir()} == {"archive", "out"}


@given(
    st.dictionaries(
        st.from_regex(r"[a-zA-Zä-ü0-9 _.-]{1,8}", fullmatch=True).filter(lambda name: name.strip(".") and name[:2] != "._"),
        st.binary(max_size=50),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([*PACKINGS, "zip"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_packed_comes_out(tmp_path_factory, files, packing):
    entries = list(files.items())
    data = zipped(*entries) if packing == "zip" else PACKINGS[packing](tarred(*entries))
    report, found = out_of(data, tmp_path_factory.mktemp("round"))
    assert found == files
    assert report == Unpacked(len(files), sum(map(len, files.values())))


def test_a_full_disk(tmp_path):
    """The kernel itself refuses to let a file grow (in a process of its own: the limit holds for all that it does)."""
    (tmp_path / "archive").write_bytes(gzip.compress(tarred(("x", bytes(500_000)))))
    (tmp_path / "out").mkdir()
    child = os.fork()
    if not child:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            unpack(tmp_path / "archive", tmp_path / "out", LIMITS)
        except ResourceError as error:
            code = 0 if "disk is full" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_disk_that_must_keep_room(tmp_path):
    with pytest.raises(ResourceError, match="free"):
        out_of(tarred(("x", b"x")), tmp_path, Limits(10, 1000, free=10**18))
    assert sum(found.size for found in walk_beneath(tmp_path / "out")) == 0
