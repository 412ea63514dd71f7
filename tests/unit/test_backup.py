"""The program that backs up and restores, on folders of its own; with real services it is tried in tests/deployment."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "roles" / "backup" / "files" / "mlaas_backup.py"
SECRET = "a secret of the service"  # noqa: S105


@pytest.fixture
def site(tmp_path):
    return make_site(tmp_path / "site")


def make_site(root: Path) -> Path:
    """A deployed service's folders; returns the project."""
    project, config, data = root / "opt", root / "etc", root / "data"
    for folder in (project / "env.d", config / "secrets", data / "models" / "alice" / "ttH" / "1", data / "cache", data / "run", root / "identity"):
        folder.mkdir(parents=True)
    values = {"MLAAS_VERSION": "0.1.0", "MLAAS_CONFIG": config, "MLAAS_DATA_FOLDER": data, "MLAAS_IDENTITY_FOLDER": root / "identity"}
    (project / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in values.items()))
    (project / "compose.yaml").write_text("name: mlaas-test\n")
    (config / "secrets" / "service-key").write_text(SECRET)
    (config / "secrets" / "service-key").chmod(0o400)
    (data / "models" / "alice" / "ttH" / "1" / "model.onnx").write_bytes(os.urandom(300_000))
    (data / "models" / "latest").symlink_to("alice/ttH/1")
    (data / "cache" / "big").write_bytes(b"0" * 1000)
    connection = sqlite3.connect(data / "mlaas.db")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    connection.execute("INSERT INTO alembic_version VALUES ('0001')")
    connection.execute("CREATE TABLE jobs (id TEXT)")
    connection.execute("INSERT INTO jobs VALUES ('first')")
    connection.commit()
    connection.close()
    return project


def run(project, *words, check=True, env=None):
    command = [sys.executable, str(PROGRAM), "--project", str(project), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | (env or {}))
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip() if check else done


def backup(project, *words):
    return Path(run(project, "create", "--folder", project.parent / "backups", *words).splitlines()[-1])


def jobs(project):
    connection = sqlite3.connect(project.parent / "data" / "mlaas.db")
    try:
        return [row[0] for row in connection.execute("SELECT id FROM jobs")]
    finally:
        connection.close()


def sql(project, *statements):
    connection = sqlite3.connect(project.parent / "data" / "mlaas.db")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def tree(folder: Path) -> dict[str, object]:
    """What is below a folder: contents, links, modes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", path.readlink())
        elif path.is_file():
            found[name] = (path.read_bytes(), path.stat().st_mode)
        else:
            found[name] = path.stat().st_mode
    return found


def test_an_archive_is_closed_to_others_and_holds_everything_but_what_is_made_again(site):
    archive = backup(site)
    assert archive.stat().st_mode & 0o777 == 0o600
    assert archive.parent.stat().st_mode & 0o777 == 0o700
    header = json.loads(run(site, "check", archive))
    assert header["version"] == "0.1.0"
    assert header["schema"] == "0001"
    names = subprocess.run(["tar", "-tzf", str(archive)], capture_output=True, text=True, check=True).stdout.splitlines()
    assert names[0] == "mlaas-backup.json"
    assert names[-1] == "manifest.json"
    assert {"config/secrets/service-key", "data/models/alice/ttH/1/model.onnx", "database/mlaas.db", "project/.env"} <= set(names)
    assert not [name for name in names if name.startswith(("data/cache", "data/run", "data/mlaas.db"))]


def test_restored_onto_a_fresh_machine_everything_is_as_it_was(site, tmp_path):
    archive = backup(site)
    before = tree(site.parent)
    moved = tmp_path / "elsewhere" / archive.name
    moved.parent.mkdir()
    shutil.move(archive, moved)
    shutil.rmtree(site.parent)
    run(site, "restore", moved)
    run(site, "settle")
    after = tree(site.parent)
    left_out = ("data/cache", "data/run", "data/mlaas.db", "backups")
    assert {name: what for name, what in after.items() if not name.startswith(left_out)} == {
        name: what for name, what in before.items() if not name.startswith(left_out)
    }
    assert jobs(site) == ["first"]


def test_a_restore_replaces_what_came_later_and_can_be_taken_back(site):
    archive = backup(site)
    sql(site, "INSERT INTO jobs VALUES ('second')")
    (site.parent / "data" / "models" / "later").mkdir()
    (site.parent / "etc" / "secrets" / "service-key").unlink()
    later = tree(site.parent)
    run(site, "restore", archive)
    assert jobs(site) == ["first"]
    assert (site.parent / "etc" / "secrets" / "service-key").read_text() == SECRET
    assert not (site.parent / "data" / "models" / "later").exists()
    assert (site.parent / "data" / "cache" / "big").exists()
    run(site, "undo")
    assert jobs(site) == ["first", "second"]
    ignored = ("data/mlaas.db-wal", "data/mlaas.db-shm")
    assert {n: w for n, w in tree(site.parent).items() if n not in ignored} == {n: w for n, w in later.items() if n not in ignored}
    assert "there is no restore" in run(site, "undo", check=False).stderr


def test_a_restore_that_is_killed_anywhere_can_be_taken_back(site, tmp_path):
    """A rename that fails at the n-th call, for every n: nothing is lost."""
    archive = backup(site)
    sql(site, "INSERT INTO jobs VALUES ('second')")
    (site.parent / "etc" / "later").write_text("x")
    later = {name: what for name, what in tree(site.parent).items() if not name.startswith("data/mlaas.db")}
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib\nleft = [int(os.environ['RENAMES'])]\nreal = pathlib.Path.rename\n"
        "def rename(self, target):\n    left[0] -= 1\n    if left[0] < 0: os._exit(9)\n    return real(self, target)\npathlib.Path.rename = rename\n"
    )
    killed = 0
    for count in range(60):
        done = run(site, "restore", archive, check=False, env={"RENAMES": str(count), "PYTHONPATH": str(tmp_path)})
        if done.returncode == 0:
            break
        killed += 1
        if (site / "restore.json").exists():
            run(site, "undo")
        assert jobs(site) == ["first", "second"], count
        passed_over = ("data/mlaas.db", "opt/restore.part")
        found = {n: w for n, w in tree(site.parent).items() if not n.startswith(passed_over) and ".mlaas-restore" not in n}
        assert found == later, count
    assert killed > 8
    assert jobs(site) == ["first"]


@pytest.mark.parametrize("place", [20, 2000, -2000, -6])
def test_a_damaged_archive_is_refused_before_anything_is_touched(site, place):
    archive = backup(site)
    content = bytearray(archive.read_bytes())
    content[place] ^= 0x40
    archive.write_bytes(content)
    before = tree(site.parent)
    done = run(site, "restore", archive, check=False)
    assert done.returncode == 1
    assert "damaged" in done.stderr or "no backup" in done.stderr
    assert tree(site.parent) == before


@pytest.mark.parametrize("kept", [0, 100, 5000, -1, -600])
def test_a_truncated_archive_is_refused(site, kept):
    archive = backup(site)
    archive.write_bytes(archive.read_bytes()[:kept])
    done = run(site, "restore", archive, check=False)
    assert done.returncode == 1
    assert "damaged" in done.stderr or "no backup" in done.stderr
    assert not (site / "restore.json").exists()


def test_an_archive_of_a_newer_version_is_refused(site):
    archive = backup(site)
    assert "is newer than 0.0.9" in run(site, "restore", archive, "--newest=0.0.9", check=False).stderr
    for newest in ("0.1.0", "0.1.1", "0.10.0", "1.0.0"):
        run(site, "check", archive, f"--newest={newest}")
    assert "newer" in run(site, "check", archive, "--newest=0.1.0rc1", check=False).stderr


def test_an_archive_that_would_write_elsewhere_is_refused(site, tmp_path):
    evil = tmp_path / "evil.tar.gz"
    (tmp_path / "x").write_text("x")
    subprocess.run(["tar", "-czPf", str(evil), "--transform=s|.*|../../escaped|", str(tmp_path / "x")], check=True)
    done = run(site, "restore", evil, check=False)
    assert done.returncode == 1
    assert "escaped" in done.stderr


def test_the_database_only_when_its_schema_changed(site):
    archive = backup(site, "--areas=project,config", "--label=upgrade")
    sql(site, "INSERT INTO jobs VALUES ('second')")
    run(site, "restore", archive, "--areas=project,config", "--database=changed")
    run(site, "settle")
    assert jobs(site) == ["first", "second"]
    sql(site, "UPDATE alembic_version SET version_num = '0002'")
    run(site, "restore", archive, "--areas=project,config", "--database=changed")
    run(site, "settle")
    assert jobs(site) == ["first"]
    assert (site.parent / "data" / "models" / "latest").is_symlink()


@pytest.mark.skipif(not shutil.which("gpg"), reason="the program gpg is missing")
def test_an_encrypted_archive_opens_with_its_passphrase_only(site, tmp_path):
    passphrase, wrong = tmp_path / "passphrase", tmp_path / "wrong"
    passphrase.write_text("correct horse\n")
    wrong.write_text("battery staple\n")
    archive = Path(run(site, "--passphrase-file", passphrase, "create", "--folder", site.parent / "backups").splitlines()[-1])
    assert archive.suffix == ".gpg"
    assert SECRET.encode() not in archive.read_bytes()
    assert "encrypted" in run(site, "check", archive, check=False).stderr
    assert run(site, "--passphrase-file", wrong, "check", archive, check=False).returncode == 1
    assert json.loads(run(site, "--passphrase-file", passphrase, "check", archive))["version"] == "0.1.0"
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    assert run(site, "--passphrase-file", passphrase, "check", archive, check=False).returncode == 1


def test_old_archives_go_those_of_other_labels_stay(site):
    folder = site.parent / "backups"
    folder.mkdir(mode=0o700)
    for day in range(1, 6):
        (folder / f"mlaas-2026010{day}T000000Z.tar.gz").touch()
        (folder / f"mlaas-2026010{day}T000000Z-upgrade.tar.gz").touch()
    (folder / "thesis.tar.gz").touch()
    made = backup(site, "--keep=2")
    left = sorted(path.name for path in folder.iterdir())
    assert [name for name in left if "upgrade" not in name] == ["mlaas-20260105T000000Z.tar.gz", made.name, "thesis.tar.gz"]
    assert len([name for name in left if "upgrade" in name]) == 5


def test_nothing_half_written_stays_when_the_disk_is_full(site, tmp_path):
    (site.parent / "data" / "models" / "big").write_bytes(os.urandom(3_000_000))
    limited = f"ulimit -f 1000; exec {sys.executable} {PROGRAM} --project {site} create --folder {site.parent / 'backups'}"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "mlaas-backup:" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((site.parent / "backups").iterdir()) == []


def test_without_a_service_it_says_so(tmp_path):
    done = run(tmp_path, "create", "--folder", tmp_path / "b", check=False)
    assert done.returncode == 1
    assert "holds no deployed service" in done.stderr


def test_a_restore_that_was_not_ended_is_not_replaced_by_another(site):
    archive = backup(site)
    run(site, "restore", archive)
    assert "a restore was not ended" in run(site, "restore", archive, check=False).stderr
    run(site, "settle")
    run(site, "restore", archive)


def test_other_folders_than_the_inventorys_are_refused(site):
    archive = backup(site)
    folders = {"project": str(site), "config": f"{site.parent}/etc/", "data": str(site.parent / "data")}
    run(site, "check", archive, "--folders", json.dumps(folders))
    said = run(site, "check", archive, "--folders", json.dumps(folders | {"data": "/srv/other"}), check=False).stderr
    assert f"the folder data of {archive.name} is {site.parent / 'data'}, that of the inventory /srv/other" in said


def test_an_archive_without_room_is_refused_before_anything_is_touched(site, tmp_path):
    archive = backup(site)
    (tmp_path / "sitecustomize.py").write_text(
        "import shutil\nreal = shutil.disk_usage\nshutil.disk_usage = lambda path: real(path)._replace(free=200_000)\n"
    )
    before = tree(site.parent)
    for words in (["check", archive, "--room=data"], ["restore", archive]):
        done = run(site, *words, check=False, env={"PYTHONPATH": str(tmp_path)})
        assert done.returncode == 1
        assert "MB there: free some" in done.stderr
    assert tree(site.parent) == before
    run(site, "check", archive, "--room=data")


def test_one_at_a_time_and_nobody_else_can_hold_the_lock(site, tmp_path):
    backup(site)
    lock = site / "backup.lock"
    assert lock.stat().st_mode & 0o777 == 0o600
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = run(site, "create", "--folder", tmp_path / "b", check=False, env={"TMPDIR": str(tmp_path)})
    assert "another backup or restore is under way" in done.stderr
    archive = backup(site)
    run(site, "restore", archive)
    run(site, "settle")
    assert lock.exists()


def test_an_archive_without_the_database_leaves_it_alone(site):
    archive = backup(site, "--areas=project,config", "--no-database")
    sql(site, "INSERT INTO jobs VALUES ('second')")
    run(site, "restore", archive, "--areas=project,config", "--database=never")
    run(site, "settle")
    assert jobs(site) == ["first", "second"]
