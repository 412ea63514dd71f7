"""Who may use which model, what references stand for, and that the small files behind it survive races and crashes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas.errors import BundleError
from mlaas.models.bundle import Bundle, read_bundle, write_bundle
from mlaas.models.catalogue import LATEST, MAX_ALIASES, Catalogue, NoModel, parse
from mlaas.models.manifest import read_manifest
from mlaas.models.repository import Repository
from tests.support import trained

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "m"
    write_bundle(folder, trained.logistic(), trained.DOCUMENTS)
    return read_bundle(folder)


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def publish(root, bundle):
    def _publish(tenant: str, model: str, versions: int = 1, job: str = "") -> None:
        for _ in range(versions):
            Repository(root).publish(bundle, tenant, model, job=job)

    return _publish


def sentence(catalogue: Catalogue, reference: str, tenant: str = "alice", groups: tuple[str, ...] = ()) -> str:
    with pytest.raises(NoModel) as caught:
        catalogue.resolve(reference, tenant, groups)
    return str(caught.value)


def test_references(root, publish):
    publish("alice", "ttH", 3)
    catalogue = Catalogue(root)
    catalogue.set_alias("alice", "ttH", "best", 2)
    for reference, version in {"ttH": 3, "ttH@1": 1, "ttH@best": 2, "alice:ttH@best": 2, "ttH@latest": 3, "alice:ttH": 3}.items():
        found = catalogue.resolve(reference, "alice", ())
        assert (found.tenant, found.model, found.version) == ("alice", "ttH", version)
        assert read_manifest(found.path).version == version
    catalogue.set_alias("alice", "ttH", "best", 3)
    assert catalogue.resolve("ttH@best", "alice", ()).version == 3


def test_what_is_not_there_and_what_is_not_yours_read_the_same(root, publish):
    publish("bob", "secret")
    catalogue = Catalogue(root)
    assert sentence(catalogue, "bob:secret").replace("secret", "X") == sentence(catalogue, "bob:nothing").replace("nothing", "X")
    assert sentence(catalogue, "bob:secret@1").replace("secret", "X") == sentence(catalogue, "nobody:secret@1").replace("secret", "X").replace(
        "nobody", "bob"
    )
    assert sentence(catalogue, "secret") == "there is no model 'secret' that you may use"
    # no version, no alias and no nearest name of a foreign model is told
    assert sentence(catalogue, "bob:secret@7") == "there is no model 'bob:secret@7' that you may use"
    assert "bob" not in sentence(catalogue, "secre")


def test_own_models_hide_shared_ones_and_several_owners_are_named(root, publish):
    for tenant in ("bob", "carol"):
        publish(tenant, "ttH")
    catalogue = Catalogue(root)
    catalogue.share("bob", "ttH", "/cms")
    assert catalogue.resolve("ttH", "alice", ["/cms"]).tenant == "bob"
    catalogue.share("carol", "ttH", "/cms/higgs")
    assert sentence(catalogue, "ttH", groups=("/cms", "/cms/higgs")) == (
        "the model 'ttH' is shared with you by several owners; say bob:ttH or carol:ttH"
    )
    assert catalogue.resolve("carol:ttH", "alice", ["/cms/higgs"]).tenant == "carol"
    assert "no model" in sentence(catalogue, "carol:ttH", groups=("/cms",))
    publish("alice", "ttH")
    assert catalogue.resolve("ttH", "alice", ["/cms", "/cms/higgs"]).tenant == "alice"
    catalogue.unshare("bob", "ttH", "/cms")
    assert "no model" in sentence(catalogue, "bob:ttH", groups=("/cms",))
    with pytest.raises(NoModel, match="not shared with the group"):
        catalogue.unshare("bob", "ttH", "/cms")


def test_administrators_see_all(root, publish):
    publish("bob", "ttH", 2)
    catalogue = Catalogue(root)
    assert catalogue.resolve("bob:ttH@1", "root", (), admin=True).version == 1
    assert [(entry.tenant, entry.model) for entry in catalogue.visible("root", (), admin=True)] == [("bob", "ttH")]
    assert catalogue.visible("root", ()) == []


def test_the_list_has_own_models_first_and_tells_groups_to_the_owner_only(root, publish):
    publish("bob", "b", 2)
    publish("alice", "z")
    catalogue = Catalogue(root)
    catalogue.share("bob", "b", "/cms")
    catalogue.set_alias("bob", "b", "prod", 1)
    mine, shared = catalogue.visible("alice", ["/cms"])
    assert (mine.model, mine.shared, mine.groups) == ("z", False, ())
    assert (shared.tenant, shared.shared, shared.groups, shared.versions, shared.aliases) == ("bob", True, (), (1, 2), {"prod": 1})
    assert catalogue.visible("bob", ())[0].groups == ("/cms",)


def test_removal_takes_aliases_and_shares_along(root, publish):
    publish("alice", "ttH", 2)
    catalogue = Catalogue(root)
    catalogue.share("alice", "ttH", "/cms")
    for alias, version in {"old": 1, "new": 2}.items():
        catalogue.set_alias("alice", "ttH", alias, version)
    catalogue.remove("alice", "ttH", 1)
    assert catalogue.aliases("alice", "ttH") == {"new": 2}
    assert json.loads((root / "alice" / "ttH" / ".aliases.json").read_text()) == {"new": 2}
    catalogue.remove("alice", "ttH")
    with pytest.raises(NoModel):
        catalogue.remove("alice", "ttH")
    publish("alice", "ttH")  # a new model of the same name is nobody else's
    assert catalogue.resolve("ttH", "alice", ()).version == 3
    assert catalogue.shares("alice", "ttH") == []
    assert catalogue.aliases("alice", "ttH") == {}
    assert "no model" in sentence(catalogue, "alice:ttH", "bob", ("/cms",))


def test_aliases_are_names_of_versions_that_are_there(root, publish):
    publish("alice", "m", 2)
    catalogue = Catalogue(root)
    for alias in ("7", LATEST, "a/b", "", "..", "x" * 101, "ä", "a\n"):
        with pytest.raises(BundleError, match=r"^alias: "):
            catalogue.set_alias("alice", "m", alias, 1)
    with pytest.raises(NoModel):
        catalogue.set_alias("alice", "m", "best", 3)
    assert "there are 1, 2" in sentence(catalogue, "m@best")
    for number in range(MAX_ALIASES):
        catalogue.set_alias("alice", "m", f"a{number}", 1)
    with pytest.raises(BundleError, match="at most 100 aliases"):
        catalogue.set_alias("alice", "m", "one-more", 1)
    catalogue.remove_alias("alice", "m", "a0")
    with pytest.raises(NoModel):
        catalogue.remove_alias("alice", "m", "a0")


@pytest.mark.parametrize("group", ["", "a b", "/cms\n", "x" * 201, "ü"])
def test_groups_that_no_token_could_name(root, publish, group):
    publish("alice", "m")
    with pytest.raises(BundleError, match=r"^group: "):
        Catalogue(root).share("alice", "m", group)


HOSTILE = [
    "",
    ":",
    "@",
    "../x",
    "a/../../b",
    "a@../1",
    "..:a",
    "a@",
    ":a",
    "/etc",
    "a\0b",
    "a\n",
    "ä",
    "a" * 500,
    ".publish",
    "a@01@2",
    "a:b:c",
    "\ud800",
]


@pytest.mark.parametrize("reference", HOSTILE)
def test_hostile_references(root, publish, reference):
    publish("alice", "a")
    assert "no model" in sentence(Catalogue(root), reference)


@given(st.text(max_size=40) | st.text("ab./@:1", max_size=12))
@settings(max_examples=300, deadline=None)
def test_no_reference_leaves_the_repository(reference):
    try:
        parts = parse(reference)
    except NoModel:
        return
    for name in (parts.tenant, parts.model, parts.version):
        assert "/" not in name
        assert not name.startswith(".")


def test_damaged_files_share_nothing(root, publish):
    publish("bob", "m")
    folder = root / "bob" / "m"
    catalogue = Catalogue(root)
    catalogue.share("bob", "m", "/cms")
    for damage in ("{", "[" * 100_000, '{"x": [1]}', "null", "[1, {}]"):
        (folder / ".shares.json").write_text(damage)
        (folder / ".aliases.json").write_text(damage)
        assert "no model" in sentence(catalogue, "bob:m", groups=("/cms",))
        assert catalogue.aliases("bob", "m") == {}
    catalogue.share("bob", "m", "/cms")  # and can be mended
    assert catalogue.resolve("m", "alice", ["/cms"]).tenant == "bob"


def test_a_job_publishes_once(root, bundle):
    repository = Repository(root)
    first = repository.publish(bundle, "alice", "m", job="j1")
    assert repository.publish(bundle, "alice", "m", job="j2").manifest.version == 2
    again = repository.publish(bundle, "alice", "m", job="j1")
    assert (again.path, again.manifest) == (first.path, first.manifest)
    assert repository.versions("alice", "m") == [1, 2]
    assert [repository.version_of_job("alice", "m", job) for job in ("j1", "j2", "j3")] == [1, 2, None]
    # what the bundle itself says of a job does not count
    assert repository.publish(first, "alice", "other").manifest.job == ""
    assert not list((root / "alice" / "m").glob(".publish*"))


def _publish_job(root: str, path: str) -> None:
    Repository(root).publish(read_bundle(path), "alice", "m", job="j")


def test_one_job_published_by_several_processes_at_once(root, bundle):
    processes = [SPAWN.Process(target=_publish_job, args=(str(root), str(bundle.path))) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert Repository(root).versions("alice", "m") == [1]


def _share_many(root: str, part: int) -> None:
    catalogue = Catalogue(root)
    for number in range(25):
        catalogue.share("alice", "m", f"/g{part}/{number}")
        catalogue.set_alias("alice", "m", f"a{part}-{number}", 1)


def test_no_change_is_lost_between_processes(root, publish):
    publish("alice", "m")
    processes = [SPAWN.Process(target=_share_many, args=(str(root), part)) for part in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(Catalogue(root).shares("alice", "m")) == 75
    assert len(Catalogue(root).aliases("alice", "m")) == 75


def _alternate(root: str) -> None:
    catalogue = Catalogue(root)
    number = 0
    while True:
        catalogue.set_alias("alice", "m", "best", 1 + number % 2)
        number += 1


def test_a_kill_leaves_the_old_or_the_new_file(root, publish):
    publish("alice", "m", 2)
    catalogue = Catalogue(root)
    catalogue.set_alias("alice", "m", "best", 1)
    for _ in range(4):
        process = SPAWN.Process(target=_alternate, args=(str(root),))
        before = (root / "alice" / "m" / ".aliases.json").stat().st_ino
        process.start()
        while (root / "alice" / "m" / ".aliases.json").stat().st_ino == before:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert catalogue.resolve("m@best", "alice", ()).version in (1, 2)
    catalogue.set_alias("alice", "m", "best", 2)  # the lock died with its holder
    assert catalogue.aliases("alice", "m") == {"best": 2}
