"""Workspaces: uploads become generations, whole or not at all, within what a tenant may have."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlaas.beneath import walk_beneath
from mlaas.errors import ResourceError, UserError
from mlaas.jobs.states import State
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.store import Conflict, QuotaError, StoreError, database, jobs, tenants, workspaces
from mlaas.store.workspaces import BLOCK
from mlaas.unpacking import ArchiveError, TooLargeError
from mlaas.workspaces import Workspaces, folders
from mlaas.workspaces import workspaces as module
from tests.support.stores import end, new_job

OLD = 10 * 86_400


class Service:
    """A data folder with a store and workspaces."""

    def __init__(self, folder, **settings) -> None:
        self.folder = folder
        self.settings = Settings(data=folder / "data", **settings)
        self.places = Places.of(self.settings)
        self.engine = database.connect(self.settings)
        database.migrate(self.engine)
        self.workspaces = Workspaces(self.places, self.engine, self.settings)

    def upload(self, *files, name="luca", tenant="alice", size=5):
        path = self.folder / f"{name}-{threading.get_ident()}.tar"
        with tarfile.open(path, "w") as archive:
            for file in files:
                info = tarfile.TarInfo(file)
                info.size = size
                archive.addfile(info, io.BytesIO(b"x" * size))
        try:
            return self.workspaces.store(tenant, name, path)
        finally:
            path.unlink()

    def on_disk(self):
        """Every generation and every unfinished upload."""
        data = self.places.data
        return sorted(str(path.relative_to(data)) for path in [*data.glob("workspaces/*/*/*"), *data.glob("uploads/*")])


@pytest.fixture
def make(tmp_path):
    made = []

    def one(**settings):
        made.append(Service(tmp_path, **settings))
        return made[-1]

    yield one
    for service in made:
        service.engine.dispose()


@pytest.fixture
def service(make):
    return make()


def paths(service, name="luca"):
    return [entry.path for entry in service.workspaces.files("alice", name)]


def test_an_upload(service):
    record = service.upload("files.txt", "sub/model.py")
    assert (record.generation, record.files, record.size, record.current) == (1, 2, 10, True)
    assert service.workspaces.get("alice", "luca") == record
    assert paths(service) == ["files.txt", "sub/model.py"]
    with os.fdopen(service.workspaces.open("alice", "luca", "sub/model.py"), "rb") as file:
        assert file.read() == b"xxxxx"
    assert service.workspaces.usage("alice") == 10 + 2 * BLOCK
    assert service.on_disk() == ["workspaces/alice/luca/1"]
    generation = service.places.workspace("alice", "luca", 1)
    modes = [stat.S_IMODE(folder.stat().st_mode) for folder in (generation, *list(generation.parents)[:4], service.places.uploads)]
    assert modes == [0o750, 0o700, 0o700, 0o700, 0o700, 0o700]


@pytest.mark.parametrize(
    ("files", "there"),
    [
        (["top/a", "top/b/c"], ["a", "b/c"]),
        (["top/mid/a"], ["mid/a"]),
        (["top/a", "b"], ["b", "top/a"]),
        (["a"], ["a"]),
        (["top/a", "__MACOSX/top/._a", "._top"], ["a"]),
        (["./top/a"], ["a"]),
    ],
)
def test_the_only_top_folder_is_lifted(service, files, there):
    service.upload(*files)
    assert paths(service) == there


def test_nobody_sees_what_is_not_theirs(service):
    service.upload("a")
    assert service.workspaces.get("bob", "luca") is None
    assert service.workspaces.listing("bob") == []
    assert not service.workspaces.delete("bob", "luca")
    for action in (service.workspaces.files, service.workspaces.delete_specs):
        with pytest.raises(FileNotFoundError):
            action("bob", "luca")
    with pytest.raises(FileNotFoundError):
        service.workspaces.open("bob", "luca", "a")
    assert service.workspaces.usage("bob") == 0


@pytest.mark.parametrize("path", ["../1/a", "/etc/passwd", "nothing", "", "sub"])
def test_files_that_are_not_there(service, path):
    service.upload("a", "sub/b")
    with pytest.raises(FileNotFoundError):
        service.workspaces.open("alice", "luca", path)


def test_a_generation_stays_until_its_jobs_have_ended(service):
    service.upload("old")
    job, _ = jobs.create(service.engine, new_job(workspace="luca", generation=1), now=1.0)
    service.upload("new")
    assert paths(service) == ["new"]
    assert service.on_disk() == ["workspaces/alice/luca/1", "workspaces/alice/luca/2"]
    assert service.workspaces.sweep() == 0
    assert service.workspaces.delete("alice", "luca")
    assert service.on_disk() == ["workspaces/alice/luca/1"]
    assert not service.workspaces.delete("alice", "luca")
    end(service.engine, job)
    assert service.workspaces.sweep() == 1
    assert not list(service.places.data.glob("workspaces/*"))
    assert service.workspaces.usage("alice") == 0
    assert service.upload("again").generation == 3


def test_specs_are_deleted_as_the_published_call_does(service):
    service.upload("specs-ttH.json", "myspecs", "files.txt", "sub/specs.json")
    assert service.workspaces.delete_specs("alice", "luca") == 2
    assert paths(service) == ["files.txt", "sub/specs.json"]
    record = service.workspaces.get("alice", "luca")
    assert (record.generation, record.files, record.size) == (1, 2, 10)
    assert service.workspaces.delete_specs("alice", "luca") == 0


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\0b", "-a", "a" * 101, "ü", "a b", "a\n"])
def test_names_that_are_refused(service, name):
    with pytest.raises(UserError, match=r"^name: "):
        service.workspaces.store("alice", name, service.folder / "none")
    assert service.on_disk() == []


def test_archives_that_are_refused_leave_nothing(service):
    service.upload("good")
    (service.folder / "bad").write_bytes(b"no archive")
    for error, upload in (
        (ArchiveError, lambda: service.workspaces.store("alice", "luca", service.folder / "bad")),
        (ArchiveError, lambda: service.upload("a", "../evil")),
        (ArchiveError, lambda: service.upload()),
        (ArchiveError, lambda: service.upload("._only")),
    ):
        with pytest.raises(error):
            upload()
    assert service.on_disk() == ["workspaces/alice/luca/1"]
    assert paths(service) == ["good"]


def test_limits(make):
    service = make(unpacked_limit=1000, unpacked_files=3)
    with pytest.raises(TooLargeError, match="more than 1000 bytes when unpacked, which is not allowed"):
        service.upload("a", size=1001)
    with pytest.raises(TooLargeError, match="more than 3 files"):
        service.upload("a", "b", "c", "d")
    assert service.on_disk() == []


def test_the_quota_counts_workspaces_jobs_and_models(make):
    service = make(user_disk=100_000)
    service.upload("a", size=20_000, name="one")
    with pytest.raises(TooLargeError, match=r"all that is left of your 100 kB"):
        service.upload("a", size=90_000, name="two")
    job, _ = jobs.create(service.engine, new_job(), now=1.0)
    (service.places.job(job.id) / "work").mkdir(parents=True)
    (service.places.job(job.id) / "work" / "big").write_bytes(bytes(40_000))
    model = service.places.repository / "alice" / "net" / "1"
    model.mkdir(parents=True)
    (model / "model.onnx").write_bytes(bytes(40_000))
    fresh = Workspaces(service.places, service.engine, service.settings)  # what jobs and models take is remembered for a while
    assert fresh.usage("alice") > 100_000
    assert fresh.usage("bob") == 0
    service.workspaces = fresh
    with pytest.raises(ResourceError, match=r"your 100 kB of disk are full; delete"):
        service.upload("a", name="two")
    service.upload("a", name="two", tenant="bob")
    jobs.update(service.engine, job.id, purged=True)
    service.workspaces = Workspaces(service.places, service.engine, service.settings)
    service.upload("a", name="two")


def test_uploads_at_once_do_not_share_the_last_room(make):
    service = make(user_disk=2 * (20_000 + BLOCK) + 5000)
    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(service.upload, "a", name=f"w{number}", size=20_000) for number in range(5)]
        answers = [future.exception() for future in futures]
    assert [type(error) for error in answers].count(type(None)) == 2
    assert {type(error) for error in answers if error} <= {QuotaError, ResourceError, TooLargeError}
    assert len(service.on_disk()) == 2
    assert service.workspaces.usage("alice") <= service.settings.user_disk


def test_the_members_of_a_group_share_its_disk(make):
    service = make(group_limits={"cms": {"disk": "50kB"}, "/atlas": {"jobs": 3}})
    for tenant, groups in {"alice": ["/cms"], "bob": ["cms", "/atlas"], "carol": ["/atlas"]}.items():
        tenants.seen(service.engine, tenant, issuer="i", subject=tenant, groups=groups, now=1.0)
    service.upload("a", size=30_000, tenant="alice")
    service.upload("a", size=60_000, tenant="carol")
    with pytest.raises(TooLargeError, match="all that is left of the 50 kB of disk of the group /cms"):
        service.upload("a", size=20_000, tenant="bob")
    service.upload("a", size=7_000, tenant="bob")
    with pytest.raises(QuotaError):  # its four kilobytes count, too
        service.upload("a", size=2_000, tenant="bob", name="more")
    service.upload("a", size=50_000 - 30_000 - 7_000 - 3 * BLOCK, tenant="bob", name="more")
    with pytest.raises(ResourceError, match=r"of the group /cms are full; delete"):
        service.upload("a", tenant="alice")
    assert service.workspaces.delete("bob", "luca")
    service.upload("a", tenant="alice", name="small")
    with pytest.raises(UserError, match=r"^MLAAS_GROUP_LIMITS: disk: .* is not a size"):
        make(group_limits={"/cms": {"disk": "much"}})


def test_no_quota(make):
    service = make(user_disk=0)
    service.upload("a")
    assert paths(service) == ["a"]


def test_a_disk_that_must_keep_room(make):
    service = make(free_disk=10**18)
    with pytest.raises(ResourceError, match="free"):
        service.upload("a")
    assert service.on_disk() == []


def test_a_database_that_fails_while_an_upload_ends(service, monkeypatch):
    service.upload("good")

    def fail(*arguments, **more):
        raise StoreError("the database cannot be reached")

    monkeypatch.setattr(module.workspaces, "add", fail)
    with pytest.raises(StoreError):
        service.upload("new")
    assert service.on_disk() == ["workspaces/alice/luca/1"]
    monkeypatch.setattr(module.workspaces, "recorded", fail)
    with pytest.raises(StoreError):
        service.upload("new")
    assert service.on_disk() == ["workspaces/alice/luca/1", "workspaces/alice/luca/3"]  # nobody knows: sweep asks again later
    assert service.workspaces.sweep() == 0
    monkeypatch.setattr(module, "ORPHANED", -1.0)
    assert service.workspaces.sweep() == 1
    assert service.on_disk() == ["workspaces/alice/luca/1"]


def test_a_disk_that_fails_while_an_upload_ends(service, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders.os, "fsync", fail)
    with pytest.raises(ResourceError, match="No space left"):
        service.upload("a")
    monkeypatch.undo()
    assert service.on_disk() == []
    assert service.workspaces.get("alice", "luca") is None


def test_what_a_crash_left_is_swept(make):
    service = make(upload_retention=1000.0)
    service.upload("a")
    for path, old in (("uploads/unpack-1/x", True), ("uploads/upload-2", True), ("uploads/upload-3", False), ("workspaces/alice/luca/7/x", False)):
        file = service.places.data / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        if old:
            for each in (file, file.parent):
                os.utime(each, (1, 1))
    assert service.workspaces.sweep() == 0  # a rename or a new file is younger than it says
    later = time.time() + 2000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.time, "time", lambda: later)
        assert service.workspaces.sweep() == 3
        assert service.on_disk() == ["workspaces/alice/luca/1", "workspaces/alice/luca/7"]
        patch.setattr(module.time, "time", lambda: later + OLD)
        assert service.workspaces.sweep() == 1
    assert service.on_disk() == ["workspaces/alice/luca/1"]
    assert paths(service) == ["a"]


def test_readers_uploads_and_sweeps_at_once(service):
    """Whoever reads sees a whole generation; whoever submits gets one that stays."""
    service.upload("a", "b")
    stop = threading.Event()
    trouble = []

    def read():
        while not stop.is_set():
            try:
                if len(paths(service)) != 2:
                    trouble.append("half a generation")
                os.close(service.workspaces.open("alice", "luca", "b"))
            except Exception as error:
                trouble.append(error)

    def sweep():
        while not stop.is_set():
            Workspaces(service.places, service.engine, service.settings).sweep()

    threads = [threading.Thread(target=target) for target in (read, sweep)]
    for thread in threads:
        thread.start()
    submitted = []
    try:
        for _ in range(15):
            service.upload("a", "b")
            current = service.workspaces.get("alice", "luca")
            try:
                submitted.append(jobs.create(service.engine, new_job(workspace="luca", generation=current.generation), now=1.0)[0])
            except Conflict as error:
                trouble.append(error)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert trouble == []
    for job in submitted:
        folder = service.places.workspace("alice", "luca", job.generation)
        assert [entry.path for entry in walk_beneath(folder)] == ["a", "b"]
        assert jobs.get(service.engine, job.id).state == State.QUEUED
    assert len(workspaces.known(service.engine)) == len(service.on_disk()) == len(submitted)


def test_the_status_of_each_error():
    assert [error.status for error in (ArchiveError, TooLargeError, QuotaError, StoreError)] == [422, 413, 507, 503]
