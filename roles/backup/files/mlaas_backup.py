#!/usr/bin/python3
# ruff: noqa: UP017 (Python 3.9)
"""Back up and restore the service of this machine: one archive, checked before it is believed, put in place so that it can be undone.

An archive is a tar file (gzip, and gpg where a passphrase is set): mlaas-backup.json first, which says what made it; the files of each area; the
database; manifest.json last, with the SHA-256 of everything before it. The project's .env names the folders.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

FORMAT = 1
PROJECT = Path("/opt/mlaas")
SETTINGS = Path("/etc/mlaas/backup.json")
HEADER, MANIFEST = "mlaas-backup.json", "manifest.json"
LOCK = "backup.lock"  # in the project's folder, which the timer's unit sees too, and closed to others, who could hold it
ASIDE = ".mlaas-restore"  # inside each area: the same file system, even where the area is a mount point
TRANSIENT = frozenset({"cache", "uploads", "run"})  # of the data folder: made again, or worth nothing without its process
DATABASE = ("mlaas.db", "mlaas.db-wal", "mlaas.db-shm")
DUMP = "database/postgresql.dump"
SQLITE = "database/mlaas.db"
OWNER = 10001
BLOCK = 1 << 20


class BackupError(Exception):
    """Something that the administrator can mend; the text is one sentence."""


class Area(NamedTuple):
    """A folder that is backed up, without the entries of its top level that are left out."""

    name: str
    path: Path
    skip: frozenset[str]


class Site(NamedTuple):
    """What a machine's project says of itself."""

    project: Path
    version: str
    config: Path
    secrets: Path
    data: Path
    identity: Path
    database: str

    @property
    def areas(self) -> list[Area]:
        found = [
            Area("project", self.project, frozenset({"source", "bin", "deploy", "packages.before", LOCK, "upgrade.json"})),
            Area("config", self.config, frozenset()),
            Area("identity", self.identity, frozenset()),
            Area("data", self.data, TRANSIENT | frozenset(DATABASE)),
        ]
        if self.config not in self.secrets.parents:
            found.insert(2, Area("secrets", self.secrets, frozenset()))
        return found

    def described(self) -> dict[str, str]:
        return {name: str(value) for name, value in self._asdict().items() if name not in ("database", "version")}


def environment(path: Path) -> dict[str, str]:
    """The variables of a file for Compose."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text().splitlines():
            name, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                found[name.strip()] = value.strip().strip("'\"")
    return found


def site_of(project: Path, fallback: dict[str, str] | None = None) -> Site:
    """What the project's files say; without them what an archive says of the machine that it comes from."""
    values = environment(project / ".env")
    if not values and fallback is None:
        raise BackupError(f"{project} holds no deployed service (there is no .env); install one with playbooks/site.yml, or restore one")
    if not values and fallback is not None:
        folders = {name: Path(fallback[name]) for name in ("config", "secrets", "data", "identity")}
        return Site(project, "", database=fallback.get("database", ""), **folders)
    config = Path(values.get("MLAAS_CONFIG", "/etc/mlaas"))
    return Site(
        project,
        values.get("MLAAS_VERSION", ""),
        config,
        Path(values.get("MLAAS_SECRETS", str(config / "secrets"))),
        Path(values.get("MLAAS_DATA_FOLDER", "/var/lib/mlaas")),
        Path(values.get("MLAAS_IDENTITY_FOLDER", "/var/lib/mlaas-identity")),
        environment(project / "server.env").get("MLAAS_DATABASE", ""),
    )


# ---- the database


class Sqlite:
    """The embedded database; a consistent copy is taken while the service runs."""

    def __init__(self, site: Site) -> None:
        self.path = site.data / DATABASE[0]

    def schema(self) -> str:
        if not self.path.exists():
            return ""
        with contextlib.closing(self._open(self.path)) as connection, contextlib.suppress(sqlite3.DatabaseError):
            return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
        return ""

    def dump(self, folder: Path) -> tuple[str, Path] | None:
        if not self.path.exists():
            return None
        copy = folder / "mlaas.db"
        with contextlib.closing(self._open(self.path)) as source, contextlib.closing(sqlite3.connect(str(copy))) as target:
            source.backup(target)
            faults = [str(row[0]) for row in target.execute("PRAGMA quick_check")]
        if faults != ["ok"]:
            raise BackupError(f"the database {self.path} is damaged: {faults[0]}")
        return SQLITE, copy

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        # read as its owner: the files that SQLite makes beside it must not belong to root
        os.setegid(path.stat().st_gid)
        os.seteuid(path.stat().st_uid)
        try:
            connection = sqlite3.connect(f"file:{urllib.parse.quote(str(path))}?mode=rw", uri=True, timeout=60)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError as error:
            raise BackupError(f"the database {path} cannot be read: {error}") from None
        else:
            return connection
        finally:
            os.seteuid(0 if os.getuid() == 0 else os.getuid())
            os.setegid(os.getgid())


# Drops what is ours in the schema, not the schema: that belongs to others before PostgreSQL 15, and may hold extensions.
EMPTY = """
DO $$
DECLARE
  statement text;
BEGIN
  FOR statement IN
    SELECT format('DROP %s IF EXISTS public.%I CASCADE',
                  CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, relname)
      FROM pg_class AS found
     WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S') AND pg_has_role(relowner, 'USAGE')
       AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = found.oid AND deptype = 'e')
    UNION ALL
    SELECT format('DROP TYPE IF EXISTS public.%I CASCADE', typname)
      FROM pg_type AS found
     WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd') AND pg_has_role(typowner, 'USAGE')
       AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_type'::regclass AND objid = found.oid AND deptype = 'e')
    UNION ALL
    SELECT format('DROP ROUTINE IF EXISTS %s CASCADE', found.oid::regprocedure)
      FROM pg_proc AS found
     WHERE pronamespace = 'public'::regnamespace AND pg_has_role(proowner, 'USAGE')
       AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = found.oid AND deptype = 'e')
  LOOP
    EXECUTE statement;
  END LOOP;
END
$$;
"""


def last_line(file: BinaryIO) -> str:
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no reason given"


class Postgres:
    """A PostgreSQL database by its URL, through its own programs."""

    def __init__(self, site: Site) -> None:
        parts = urllib.parse.urlsplit(re.sub(r"^postgresql\+\w+://", "postgresql://", site.database))
        self.password = urllib.parse.unquote(parts.password) if parts.password else ""
        file = site.secrets / "database-password"
        if not self.password and file.exists():
            self.password = file.read_text().strip()
        host = parts.netloc.rpartition("@")[2]
        user = parts.netloc.rpartition("@")[0].partition(":")[0]
        self.url = urllib.parse.urlunsplit(parts._replace(netloc=f"{user}@{host}" if user else host))

    def schema(self) -> str:
        return self._run("psql", "-XAtq", "-c", "SELECT version_num FROM alembic_version").decode().strip()

    def dump(self, folder: Path) -> tuple[str, Path]:
        copy = folder / "postgresql.dump"
        self._run("pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={copy}")
        return DUMP, copy

    def restore(self, dump: Path) -> None:
        """Put a dump in place of all that is there. One transaction, which only the end of a whole dump commits."""
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as reading, self._access("psql") as variables:
            self._found("pg_restore")
            read = ["pg_restore", "--no-owner", "--no-privileges", "--file=-", str(dump)]
            write = ["psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-f", "-", self.url]
            source = subprocess.Popen(read, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=reading)
            target = subprocess.Popen(write, env=variables, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said)
            assert source.stdout is not None  # noqa: S101
            assert target.stdin is not None  # noqa: S101
            with contextlib.suppress(BrokenPipeError), target.stdin as statements:
                statements.write(f"BEGIN;\n{EMPTY}".encode())
                copied(source.stdout, statements)
                if source.wait() == 0:
                    statements.write(b"COMMIT;\n")
            source.stdout.close()
            wrong, failed = target.wait(), source.wait()  # a reader whose writer ended fails, too
            if wrong:
                raise BackupError(f"psql failed: {last_line(said)}")
            if failed:
                raise BackupError(f"pg_restore failed: {last_line(reading)}")

    @staticmethod
    def _found(program: str) -> None:
        if not shutil.which(program):
            raise BackupError(f"the program {program} is missing: install the package postgresql-client (Enterprise Linux: postgresql)")

    @contextlib.contextmanager
    def _access(self, program: str) -> Iterator[dict[str, str]]:
        """The variables by which a program gets the password."""
        self._found(program)
        with tempfile.TemporaryDirectory() as folder:
            passwords = Path(folder) / "pgpass"
            passwords.touch(0o600)
            escaped = self.password.replace("\\", "\\\\").replace(":", "\\:")
            passwords.write_text(f"*:*:*:*:{escaped}\n")
            yield {**os.environ, "PGPASSFILE": str(passwords), "PGCONNECT_TIMEOUT": "20"}

    def _run(self, program: str, *words: str) -> bytes:
        with self._access(program) as variables:
            done = subprocess.run([program, *words, self.url], env=variables, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
            raise BackupError(f"{program} failed: {last[0]}")
        return done.stdout


def database_of(site: Site) -> Any:
    return Postgres(site) if site.database.startswith("postgresql") else Sqlite(site)


# ---- encryption


@contextlib.contextmanager
def gpg(passphrase: Path, *words: str, **streams: Any) -> Iterator[Any]:
    """gpg in a home of its own; ends with a sentence when it fails."""
    if not shutil.which("gpg"):
        raise BackupError("the program gpg is missing, which encrypts backups: install the package gnupg")
    with tempfile.TemporaryDirectory() as home:
        own = ["--homedir", home, "--batch", "--quiet", "--no-tty", "--pinentry-mode", "loopback", "--passphrase-file", str(passphrase)]
        process = subprocess.Popen(["gpg", *own, *words], stderr=subprocess.PIPE, **streams)
        try:
            yield process
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
            said = process.stderr.read().decode(errors="replace").strip().splitlines() if process.stderr else []
            if process.wait():
                raise BackupError(f"gpg failed: {said[-1] if said else 'no reason given'}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, capture_output=True)


@contextlib.contextmanager
def written(path: Path, passphrase: Path | None) -> Iterator[BinaryIO]:
    """A new file that only root reads, through gpg where there is a passphrase; on the disk when the block ends."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        if passphrase is None:
            yield file
        else:
            with gpg(passphrase, "--symmetric", "--cipher-algo", "AES256", "--compress-algo", "none", stdin=subprocess.PIPE, stdout=file) as process:
                yield process.stdin
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def opened(path: Path, passphrase: Path | None) -> Iterator[BinaryIO]:
    """An archive to read."""
    with path.open("rb") as file:
        if path.suffix != ".gpg":
            yield file
            return
        if passphrase is None:
            raise BackupError(f"{path.name} is encrypted; give its passphrase (backup_passphrase, or --passphrase-file)")
        with gpg(passphrase, "--decrypt", stdin=file, stdout=subprocess.PIPE) as process:
            yield process.stdout
            while process.stdout.read(BLOCK):  # so that gpg sees the end, and checks what it decrypted
                pass


# ---- making an archive


class Counted(io.RawIOBase):
    """Just `size` bytes of a file that may grow or shrink meanwhile, and their digest."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__()
        self.file, self.left, self.digest = file, size, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        wanted = self.left if size < 0 else min(size, self.left)
        block = self.file.read(wanted)
        block += b"\0" * (wanted - len(block))
        self.left -= wanted
        self.digest.update(block)
        return block


class Archive:
    """A tar file under way, with the digests of what is in it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.packed = gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1, mtime=0)
        self.tar = tarfile.TarFile(fileobj=self.packed, mode="w", format=tarfile.PAX_FORMAT)  # type: ignore[arg-type]
        self.files: dict[str, str] = {}

    def text(self, name: str, document: Any) -> None:
        content = json.dumps(document, indent=1, sort_keys=True).encode()
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), 0o600
        self.tar.addfile(entry, io.BytesIO(content))

    def file(self, path: Path, name: str) -> None:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            entry = self.tar.gettarinfo(arcname=name, fileobj=file)
            entry.type, entry.linkname = tarfile.REGTYPE, ""  # a second name of a file is a file, too
            entry.size = os.fstat(file.fileno()).st_size
            counted = Counted(file, entry.size)
            self.tar.addfile(entry, counted)  # type: ignore[arg-type]
        self.files[name] = counted.digest.hexdigest()

    def tree(self, path: Path, name: str, skip: frozenset[str] = frozenset()) -> None:
        """A folder; what vanishes meanwhile is left out, and so are sockets and devices."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._entry(path, name)
            for found in sorted(os.scandir(path), key=lambda item: item.name):
                if found.name in skip or found.name == ASIDE:
                    continue
                below = f"{name}/{found.name}"
                with contextlib.suppress(FileNotFoundError):
                    if found.is_dir(follow_symlinks=False):
                        self.tree(Path(found.path), below)
                    elif found.is_symlink():
                        self._entry(Path(found.path), below)
                    elif found.is_file(follow_symlinks=False):
                        self.file(Path(found.path), below)

    def _entry(self, path: Path, name: str) -> None:
        entry = self.tar.gettarinfo(str(path), name)
        self.tar.addfile(entry)

    def close(self) -> None:
        self.tar.close()
        self.packed.close()


def create(project: Path, folder: Path, label: str, areas: list[str], passphrase: Path | None, keep: int, with_database: bool = True) -> Path:
    """Make an archive of the named areas and, if wanted, the database, check it, and remove those of the same label that are too many."""
    site = site_of(project)
    areas = [area.name for area in site.areas if area.name in areas and area.path.is_dir()]
    now = datetime.datetime.now(datetime.timezone.utc)
    name = f"mlaas-{now:%Y%m%dT%H%M%SZ}{f'-{label}' if label else ''}.tar.gz{'.gpg' if passphrase else ''}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = database_of(site) if with_database else None
    with contextlib.ExitStack() as stack:
        stage = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".under-way-", dir=str(folder))))
        dump = database.dump(stage) if database else None
        with written(stage / name, passphrase) as stream:
            archive = Archive(stream)
            header = {"format": FORMAT, "version": site.version, "created": now.isoformat(timespec="seconds"), "host": socket.gethostname()}
            folders = {**site.described(), "database": re.sub(r"//([^:/@]*):[^@]*@", r"//\1@", site.database)}
            archive.text(HEADER, {**header, "areas": areas, "schema": database.schema() if database else "", "folders": folders})
            if dump:
                archive.file(dump[1], dump[0])
            for area in site.areas:
                if area.name in areas:
                    archive.tree(area.path, area.name, area.skip)
            archive.text(MANIFEST, {"files": archive.files})
            archive.close()
        check(stage / name, passphrase)
        (stage / name).rename(folder / name)
    flush(folder)
    prune(folder, label, keep)
    return folder / name


def prune(folder: Path, label: str, keep: int) -> None:
    """Remove the oldest archives of a label."""
    pattern = re.compile(rf"mlaas-\d{{8}}T\d{{6}}Z{re.escape(f'-{label}' if label else '')}\.tar\.gz(\.gpg)?")
    found = sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))
    for path in found[: -keep if keep else 0]:
        path.unlink()


def flush(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


# ---- reading an archive


def entries(archive: Path, passphrase: Path | None) -> Iterator[tuple[tarfile.TarInfo, BinaryIO | None]]:
    """The entries of an archive in order, their names checked."""
    with opened(archive, passphrase) as stream, gzip.GzipFile(fileobj=stream) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as tar:
        for entry in tar:
            parts = Path(entry.name).parts
            if not parts or entry.name.startswith("/") or ".." in parts or not (entry.isreg() or entry.isdir() or entry.issym()):
                raise BackupError(f"{archive.name} holds {entry.name!r}, which no backup of this program does")
            yield entry, tar.extractfile(entry) if entry.isreg() else None  # type: ignore[misc]
        while block := unpacked.read(BLOCK):  # to the end, where the check sum is
            if block.strip(b"\0"):
                raise BackupError(f"{archive.name} goes on after its end; it is damaged")


@contextlib.contextmanager
def damage(archive: Path) -> Iterator[None]:
    """What reading raises as a sentence."""
    try:
        yield
    except FileNotFoundError:
        raise BackupError(f"there is no archive {archive}") from None
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, json.JSONDecodeError) as error:
        raise BackupError(f"{archive.name} is damaged: {error}") from None


def copied(source: BinaryIO, target: BinaryIO | None = None) -> str:
    """The digest of a stream, which is copied."""
    digest = hashlib.sha256()
    while True:
        block = source.read(BLOCK)
        if not block:
            return digest.hexdigest()
        digest.update(block)
        if target is not None:
            target.write(block)


def check(archive: Path, passphrase: Path | None, newest: str = "") -> dict[str, Any]:
    """Read an archive to its end and return its header. Raises BackupError unless it is whole and this program and `newest` can take it."""
    header: dict[str, Any] = {}
    manifest: dict[str, str] | None = None
    files: dict[str, str] = {}
    with damage(archive):
        for entry, content in entries(archive, passphrase):
            if not header:
                if entry.name != HEADER or content is None:
                    raise BackupError(f"{archive.name} is no backup of this service")
                header = json.loads(content.read())
                if header["format"] > FORMAT:
                    raise BackupError(f"{archive.name} has the form {header['format']} of a newer version; this one reads up to {FORMAT}")
                if newest and ordered(header["version"]) > ordered(newest):
                    raise BackupError(f"{archive.name} is of version {header['version']}, which is newer than {newest}; set mlaas_version to it")
            elif manifest is not None:
                raise BackupError(f"{archive.name} goes on after its manifest; it is damaged")
            elif entry.name == MANIFEST and content is not None:
                manifest = json.loads(content.read())["files"]
            elif content is not None:
                files[entry.name] = copied(content)
    if manifest is None:
        raise BackupError(f"{archive.name} is damaged: its end is missing")
    wrong = sorted(name for name in {*manifest, *files} if manifest.get(name) != files.get(name))
    if wrong:
        raise BackupError(f"{archive.name} is damaged: {wrong[0]} is not what was backed up")
    return header


def agree(project: Path, archive: Path, header: dict[str, Any], folders: dict[str, str]) -> None:
    """Refuse an archive, or a machine, with other folders than the inventory's."""
    here = site_of(project, header["folders"]).described()
    for name, wanted in folders.items():
        if name == "identity" and name not in header["areas"]:
            continue
        for whose, found in ((f"of {archive.name}", header["folders"][name]), ("of this machine", here[name])):
            if Path(os.path.normpath(found)) != Path(os.path.normpath(wanted)):
                raise BackupError(f"the folder {name} {whose} is {found}, that of the inventory {wanted}; let the inventory name {found}")


def room(site: Site, archive: Path, passphrase: Path | None, areas: list[str]) -> None:
    """Refuse an archive that the disks cannot take beside what is there."""
    places = {area.name: area.path for area in site.areas if area.name in areas}
    places["database"] = site.project if site.database.startswith("postgresql") else site.data
    needed: dict[int, tuple[Path, int]] = {}
    for entry, _content in entries(archive, passphrase):
        place = places.get(entry.name.partition("/")[0])
        if place is None:
            continue
        while not place.exists():
            place = place.parent
        disk = place.stat().st_dev
        needed[disk] = (place, needed.get(disk, (place, 0))[1] + -(-entry.size // 4096) * 4096 + 4096)
    for place, size in needed.values():
        free = shutil.disk_usage(place).free
        if free < size:
            raise BackupError(f"{place} has {free >> 20} MB free; {archive.name} needs {(size >> 20) + 1} MB there: free some")


def ordered(version: str) -> tuple[Any, ...]:
    """A key that sorts versions; what follows the numbers comes before the release itself."""
    found = re.match(r"(\d+(?:\.\d+)*)(.*)", version)
    if not found:
        return ((0,), "")
    return tuple(int(part) for part in found[1].split(".")), found[2] == "", found[2]


# ---- putting it in place


def restore(project: Path, archive: Path, areas: list[str], passphrase: Path | None, newest: str, database: str) -> dict[str, Any]:
    """Check an archive, unpack it beside what is there, and swap; `settle` ends it, `undo` takes it back. database: always, changed, never."""
    header = check(archive, passphrase, newest)
    site = site_of(project, header["folders"])
    room(site, archive, passphrase, areas)
    journal = project / "restore.json"
    if journal.exists():
        raise BackupError(f"a restore was not ended ({journal}); end it first: mlaas-backup settle, or take it back: mlaas-backup undo")
    if running(project):
        raise BackupError("the service runs; stop it first: docker compose --project-directory " + f"{project} stop")
    with_database = database == "always" or (database == "changed" and database_of(site).schema() != header["schema"])
    project.mkdir(mode=0o755, parents=True, exist_ok=True)
    plan = [area for area in site.areas if area.name in areas and area.name in header["areas"]]
    if with_database and not any(area.name == "data" for area in plan):
        plan.append(Area("database", site.data, frozenset()))
    for area in plan:
        shutil.rmtree(area.path / ASIDE, ignore_errors=True)
    try:
        unpack(archive, passphrase, plan, with_database, site)
        names = {area.name: names_in(area.path / ASIDE / "new") for area in plan}
    except BaseException:
        for area in plan:
            shutil.rmtree(area.path / ASIDE, ignore_errors=True)
        raise
    dump = project / ASIDE / "database.dump"
    state = {"areas": [[area.name, str(area.path), replaced(area, with_database), names[area.name]] for area in plan], "dump": dump.exists()}
    record(journal, state)
    try:
        for area in plan:
            swap(area.path, replaced(area, with_database))
        if dump.exists():
            postgres = Postgres(site)
            postgres.dump(project / ASIDE)
            postgres.restore(dump)
    except Exception:
        with contextlib.suppress(BackupError, OSError):  # then the journal stays, for another try
            undo(project)
        raise
    return header


def replaced(area: Area, with_database: bool) -> list[str]:
    """The entries that make room: all but those that are never backed up."""
    if area.name == "database":
        return list(DATABASE)
    kept = area.skip - (frozenset(DATABASE) if with_database else frozenset())
    here = names_in(area.path) if area.path.is_dir() else []
    return sorted(name for name in here if name not in kept and name not in (ASIDE, "restore.json"))


def unpack(archive: Path, passphrase: Path | None, plan: list[Area], with_database: bool, site: Site) -> None:
    """Write what the plan needs into the folder `new` of each area; links last, so that nothing is written through one."""
    roots = {area.name: area.path / ASIDE / "new" for area in plan}
    for area in plan:
        made = not area.path.exists()
        area.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        if made and area.name in ("data", "database"):
            area.path.chmod(0o700)
            own(area.path, OWNER, OWNER)
        roots[area.name].mkdir(mode=0o700, parents=True)
        (area.path / ASIDE).chmod(0o700)
    links, folders = [], []
    for entry, content in entries(archive, passphrase):
        if entry.name == SQLITE and with_database:
            target = (roots.get("data") or roots["database"]) / DATABASE[0]
        elif entry.name == DUMP and with_database:
            (site.project / ASIDE).mkdir(mode=0o700, exist_ok=True)
            target = site.project / ASIDE / "database.dump"
        else:
            area, _, rest = entry.name.partition("/")
            if area not in roots or area == "database":
                continue
            target = roots[area] / rest if rest else roots[area].parent / "top"
        if entry.isdir():
            target.mkdir(mode=0o700, exist_ok=True)
            folders.append((target, entry))
        elif entry.issym():
            links.append((target, entry))
        elif content is not None:
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
                copied(content, file)
                file.flush()
                os.fsync(file.fileno())
            owner, group, mode = (OWNER, OWNER, 0o600) if entry.name == SQLITE else (entry.uid, entry.gid, stat.S_IMODE(entry.mode))
            own(target, owner, group)
            target.chmod(mode)
            os.utime(target, (entry.mtime, entry.mtime))
    for target, entry in links:
        target.symlink_to(entry.linkname)
        own(target, entry.uid, entry.gid)
    for target, entry in reversed(folders):
        own(target, entry.uid, entry.gid)
        target.chmod(stat.S_IMODE(entry.mode))
        os.utime(target, (entry.mtime, entry.mtime))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def own(path: Path, owner: int, group: int) -> None:
    if os.getuid() == 0:
        os.chown(path, owner, group, follow_symlinks=False)


def swap(path: Path, names: list[str]) -> None:
    """Move what is there into `old`, then what was unpacked to its place; by renames, in an order that `back` can follow from any point."""
    old, new, top = path / ASIDE / "old", path / ASIDE / "new", path / ASIDE / "top"
    old.mkdir(mode=0o700, exist_ok=True)
    for name in names:
        if os.path.lexists(path / name):
            (path / name).rename(old / name)
    for name in names_in(new):
        (new / name).rename(path / name)
    if top.exists():
        found = top.stat()
        own(path, found.st_uid, found.st_gid)
        path.chmod(stat.S_IMODE(found.st_mode))
    flush(path)


def back(path: Path, new_names: list[str]) -> None:
    """Undo `swap`, wherever it stopped."""
    old, new = path / ASIDE / "old", path / ASIDE / "new"
    if not old.is_dir():
        return
    for name in new_names:
        arrived = os.path.lexists(path / name) and not os.path.lexists(new / name)
        if arrived:
            (path / name).rename(new / name)
    for name in names_in(old):
        (old / name).rename(path / name)
    flush(path)


def undo(project: Path) -> None:
    """Take a restore back that was not settled: everything is as it was before it."""
    journal = project / "restore.json"
    if not journal.exists():
        raise BackupError("there is no restore to take back")
    if running(project):
        raise BackupError("the service runs; stop it first: docker compose --project-directory " + f"{project} stop")
    state = json.loads(journal.read_text())
    for _name, path, _replaced, new_names in state["areas"]:
        back(Path(path), new_names)
    former = project / ASIDE / "postgresql.dump"
    if former.exists():
        Postgres(site_of(project)).restore(former)
    clear(project, state)


def settle(project: Path) -> None:
    """End a restore: what it replaced is removed."""
    journal = project / "restore.json"
    if not journal.exists():
        raise BackupError("there is no restore to end")
    clear(project, json.loads(journal.read_text()))


def clear(project: Path, state: dict[str, Any]) -> None:
    for _name, path, _replaced, _new in state["areas"]:
        shutil.rmtree(Path(path) / ASIDE, ignore_errors=True)
    shutil.rmtree(project / ASIDE, ignore_errors=True)
    (project / "restore.json").unlink()
    flush(project)


def record(path: Path, document: Any) -> None:
    aside = path.with_suffix(".part")
    with aside.open("w") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    flush(path.parent)


def running(project: Path) -> bool:
    """Whether containers of the project run."""
    if not shutil.which("docker") or not (project / "compose.yaml").exists():
        return False
    words = ["docker", "ps", "--quiet", "--filter", "label=com.docker.compose.project=mlaas", "--filter", "status=running"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return bool(done.stdout.strip())


# ---- the command line


def parser(settings: dict[str, Any]) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="mlaas-backup", description="Back up and restore the service of this machine.")
    made.add_argument("--project", type=Path, default=PROJECT, help="folder of the Compose project")
    made.add_argument("--passphrase-file", type=Path, default=settings.get("passphrase_file"), help="encrypts and decrypts archives")
    commands = made.add_subparsers(dest="command", required=True)
    new = commands.add_parser("create", help="make an archive; prints its path")
    new.add_argument("--folder", type=Path, default=settings.get("folder", "/var/backups/mlaas"))
    new.add_argument("--keep", type=int, default=settings.get("keep", 7), help="archives of this label that stay; 0 keeps all")
    new.add_argument("--label", default="", help="becomes part of the name")
    new.add_argument("--areas", default="project,config,secrets,identity,data", help="comma list")
    new.add_argument("--no-database", action="store_true", help="for a machine of a cluster that does not hold the data")
    look = commands.add_parser("check", help="read an archive to its end; prints what made it")
    look.add_argument("archive", type=Path)
    look.add_argument("--newest", default="", help="refuse archives of versions after this one")
    look.add_argument("--folders", type=json.loads, default={}, help="refuse other folders than these (JSON: config, secrets, data, ...)")
    look.add_argument("--room", default="", metavar="AREAS", help="refuse an archive whose named areas have no room here")
    put = commands.add_parser("restore", help="put an archive in place; settle or undo afterwards")
    put.add_argument("archive", type=Path)
    put.add_argument("--newest", default="")
    put.add_argument("--areas", default="project,config,secrets,identity,data")
    put.add_argument("--database", choices=["always", "changed", "never"], default="always", help="changed: when its schema is another one now")
    commands.add_parser("settle", help="end a restore: remove what it replaced")
    commands.add_parser("undo", help="take a restore back")
    return made


def act(options: argparse.Namespace) -> Any:
    """Do what the command line says."""
    passphrase = Path(options.passphrase_file) if options.passphrase_file else None
    if options.command == "create":
        if not re.fullmatch(r"[A-Za-z0-9._]*", options.label):
            raise BackupError("a label holds letters, digits, dots and underscores")
        return str(
            create(options.project, options.folder, options.label, options.areas.split(","), passphrase, options.keep, not options.no_database)
        )
    if options.command == "check":
        header = check(options.archive, passphrase, options.newest)
        agree(options.project, options.archive, header, options.folders)
        if options.room:
            room(site_of(options.project, header["folders"]), options.archive, passphrase, options.room.split(","))
        return header
    if options.command == "restore":
        return restore(options.project, options.archive, options.areas.split(","), passphrase, options.newest, options.database)
    (settle if options.command == "settle" else undo)(options.project)
    return "done"


def main() -> int:
    os.umask(0o077)
    settings = json.loads(SETTINGS.read_text()) if SETTINGS.exists() else {}
    options = parser(settings).parse_args()
    try:
        if options.command == "restore" and not options.project.exists():
            options.project.mkdir(parents=True)
            options.project.chmod(0o755)
        # to read: the timer's unit sees the folder, which holds the file already, without the right to write
        with os.fdopen(os.open(options.project / LOCK, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600), "rb") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupError("another backup or restore is under way") from None
            result = act(options)
    except BackupError as error:
        print(f"mlaas-backup: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"mlaas-backup: {error.filename or 'the disk'}: {error.strerror}", file=sys.stderr)
        return 1
    print(result if isinstance(result, str) else json.dumps(result, indent=1, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
