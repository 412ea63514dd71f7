"""From a bare machine to the running service, and on: used, backed up, destroyed, restored, upgraded; each step on what the one before left.

The times of the steps and what the finished machine looks like are written to build/tests/site.txt.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlaas.demo.generate import write_pair, write_workflow
from mlaas.demo.requests import write_requests
from mlaas.models.archive import unpack
from tests.deployment.machines import ROOT
from tests.deployment.site import NAME, OTHERS, USERS, Site, resolved, snapshot, write_report
from tests.support.origin import PASSPHRASE, docker_run, lay_out
from tests.support.vm import NEXT, golden

pytestmark = pytest.mark.timeout(1800)

VERSION, BROKEN = "0.1.0", "0.1.2"
REPORT = ROOT / "build" / "tests" / "site.txt"
VARIABLES: dict[str, Any] = {
    "mlaas_host_name": NAME,
    "mlaas_components": ["gateway", "server", "worker", "inference", "identity", "xrootd"],
    "mlaas_image_source": "build",
    "mlaas_user_groups": [USERS],
    "mlaas_admin_groups": ["/mlaas/admins"],
    "mlaas_minimum_memory": "1GB",
    "mlaas_minimum_disk": "1GB",
    "identity_address": "0.0.0.0",
    "identity_users": [
        {"name": "alice", "groups": [USERS]},
        {"name": "admin", "groups": [USERS, "/mlaas/admins"]},
        {"name": "mallory", "groups": [OTHERS]},
    ],
    "server_job_memory": "2GB",
    "server_user_jobs": 4,
    "xrootd_credential": "x509",
    "xrootd_permit": ["origin:1094"],
    "xrootd_passphrase": PASSPHRASE,
}
WAITS = """
import pathlib, time
def wait():
    while not pathlib.Path("/tmp/go").exists():
        time.sleep(0.2)
"""
WORKFLOW = {"files": "files.txt", "labels": "labels.txt", "model": "model.py", "params": "params.json", "preproc": "preproc.json"}


@pytest.fixture(scope="module")
def site(machines, tmp_path_factory) -> Iterator[Site]:
    """A bare machine, without Docker; its engine will find the images, as if they had been built there."""
    images = golden()
    machine = machines.start("mlaas-site", "debian12", golden=images, hostname=NAME)
    found = Site(machines, tmp_path_factory.mktemp("site"), dict(VARIABLES), machine)
    robot = remote_files(found)
    found.variables |= {"xrootd_certificate": str(robot / "robot.pem"), "xrootd_key": str(robot / "robot.key")}
    give_authorities(found)
    found.before = snapshot(machine)
    with resolved(machine.address):
        yield found
    write_report(REPORT, found.report())
    print(found.report())


@pytest.fixture(autouse=True)
def _in_order(request, site) -> Iterator[None]:
    """A step is nothing without those before it."""
    if site.broken:
        pytest.fail(f"the step before failed: {site.broken}", pytrace=False)
    site.broken = request.node.name
    began = time.monotonic()
    yield
    site.times.append((request.node.name.removeprefix("test_").replace("_", " "), time.monotonic() - began))
    if not getattr(request.node, "failed", False):
        site.broken = ""


def remote_files(site) -> Path:
    """The demo's events behind an origin that demands GSI; returns the folder with the robot that it knows."""
    data = site.folder / "remote"
    write_pair(data, 4000, profile="seed")
    lay_out(site.folder / "grid", "origin", files=[data / "signal.root", data / "background.root"])
    return site.folder / "grid"


def give_authorities(site) -> None:
    """The folder with the grid's authorities, which an administrator has on the machine."""
    for file in sorted((site.folder / "grid" / "certificates").iterdir()):
        site.machine.write(f"/srv/grid-security/{file.name}", file.read_bytes())
    site.variables["xrootd_certificates"] = "/srv/grid-security"


def start_origin(site) -> None:
    """The origin, in a container of its own beside the service."""
    site.machine.sh("mkdir -p /srv/origin")
    site.machine.run("tar", "-x", "--numeric-owner", "-C", "/srv/origin", stdin=(site.folder / "grid" / "origin.tar").read_bytes())
    site.machine.run(*docker_run(f"mlaas-xrootd:{VERSION}", "/srv/origin", aliases=("origin",)))
    until = time.monotonic() + 30
    while "initialization completed" not in (seen := site.machine.sh("docker logs origin 2>&1")):
        assert time.monotonic() < until, seen
        time.sleep(0.5)


def finished(client, job, within=420):
    """A job once it has ended."""
    until = time.monotonic() + within
    while not (found := client.jobs.get(job)).ended:
        assert time.monotonic() < until, found
        time.sleep(1)
    return found


def running(client, job, within=120):
    """A job once it runs."""
    until = time.monotonic() + within
    while (found := client.jobs.get(job)).state != "running":
        assert not found.ended, "".join(client.jobs.log(job))
        assert time.monotonic() < until, found
        time.sleep(0.5)
    return found


def workflow(folder: Path, events=4000, **params) -> Path:
    """The demo's workflow with other parameters."""
    write_workflow(folder)
    write_pair(folder, events, profile="seed")
    document = json.loads((folder / "params.json").read_text()) | params
    (folder / "params.json").write_text(json.dumps(document))
    return folder


def test_a_bare_machine_becomes_the_service(site):
    done = site.play("site")
    assert done.failed == 0
    site.say(f"site.yml on a bare machine: {done.seconds:.0f} s, {done.changed} changed")


def test_the_second_run_changes_nothing(site):
    done = site.play("site")
    assert (done.changed, done.failed) == (0, 0), done.changes
    site.say(f"site.yml again: {done.seconds:.0f} s (goal 60 s)")


def test_check_mode_finds_nothing_to_change(site):
    done = site.play("site", "--check")
    assert (done.changed, done.failed) == (0, 0), done.changes


def test_smoke_through_the_gateway(site):
    done = site.play("smoke")
    assert "passed in" in done.output


@pytest.mark.parametrize("port", [4433, 8081])
def test_wrong_tokens_are_refused(site, port):
    path = "/api/v1/me" if port == 4433 else "/v2/models/any"
    good = site.token("alice")
    head, body, signature = good.split(".")
    damaged = f"{head}.{body}.{signature[:-8]}AAAAAAAA"
    for token, expected in (("", {401}), ("nonsense", {401}), (damaged, {401}), (site.token("mallory"), {403})):
        with site.http(port, token) as http:
            assert http.get(path, headers={"Accept": "application/json"}).status_code in expected, token[:9]
    with site.http(port, good) as http:
        assert http.get(path).status_code == (200 if port == 4433 else 404)


def test_nothing_else_is_open(site):
    listening = site.machine.sh("ss -Hltn | awk '{print $4}'").split()
    assert {address.rpartition(":")[2] for address in listening if not address.startswith(("127.", "[::1]"))} == {"4433", "8081", "9443"}


def test_cpus_and_memory_of_a_submission_reach_its_container(site, tmp_path):
    """By the published calls, as in the papers: upload an archive, submit."""
    folder = workflow(tmp_path / "ttH", epochs=1)
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, "ttH")
    with site.http(token=site.token("alice")) as http:
        http.post("/upload?name=ttH", files={"file": ("ttH.tar.gz", packed.getvalue())}).raise_for_status()
        document = {"name": "ttH", "device": "cpu", "memory": "3gb", "cpus": "2", **WORKFLOW}
        process = http.post("/submit", json=document).raise_for_status().json()["process_name"]
    with site.client() as client:
        job = next(found for found in client.jobs.list() if found.process_name == process)
        running(client, job.id)
        inspected = json.loads(site.machine.sh("docker ps -q --filter label=mlaas.task | xargs docker inspect"))
        limits = inspected[0]["HostConfig"]
        assert limits["NanoCpus"] == 2 * 10**9 or limits["CpuQuota"] == 2 * limits["CpuPeriod"]
        assert limits["Memory"] == 3 * 10**9
        assert limits["ReadonlyRootfs"]
        assert limits["CapDrop"] == ["ALL"]
        assert not any("docker.sock" in mount["Source"] for mount in inspected[0]["Mounts"])
        assert finished(client, job.id).state == "succeeded", "".join(client.jobs.log(job.id))
        site.model = job.model
        client.models.download(job.model, tmp_path / "model.tar.gz")
    unpack(tmp_path / "model.tar.gz", tmp_path / "model")
    write_requests(site.folder, tmp_path / "model", job.model)
    site.scores = predicted(site)
    assert all(0 <= score <= 1 for score in site.scores)


def predicted(site) -> list[float]:
    """What the model of the first job says to the same events."""
    body = (site.folder / "tensor.json").read_bytes()
    with site.http(8081, site.token("alice")) as http:
        until = time.monotonic() + 30
        while True:
            answer = http.post(f"/v2/models/{site.model}/infer", content=body, headers={"Content-Type": "application/json"})
            if answer.status_code == httpx.codes.OK:
                return answer.json()["outputs"][0]["data"]
            assert time.monotonic() < until, answer.text
            time.sleep(1)


def test_jobs_read_remote_files_without_a_credential_while_it_is_renewed(site, tmp_path):
    """The origin demands GSI; only the renewer has the robot's key, only the proxy its credential."""
    start_origin(site)
    folder = workflow(tmp_path / "remote", epochs=40)
    (folder / "files.txt").write_text("root://origin:1094//store/signal.root\nroot://origin:1094//store/background.root\n")
    for name in ("signal.root", "background.root"):
        (folder / name).unlink()
    direct = "import uproot; uproot.open({'root://origin:1094//store/signal.root': 'events'}, timeout=10)"
    seen = site.machine.run("docker", "run", "--rm", "--network=mlaas_storage", f"mlaas-trainer:{VERSION}", "python", "-c", direct, check=False)
    assert "Error" in seen, "the origin gives its files to anybody"
    with site.client() as client:
        client.workspaces.upload("remote", folder)
        before = serial(site)
        jobs = [client.jobs.submit({"workspace": "remote", "name": "remote", **WORKFLOW}).id]
        running(client, jobs[0])
        site.machine.sh("docker kill --signal HUP mlaas-renewer-1")  # what a short rest of its life does, too: tests/xrootd
        until = time.monotonic() + 60
        while serial(site) == before:
            assert time.monotonic() < until, site.machine.sh("docker logs mlaas-renewer-1 2>&1")
            time.sleep(2)
        assert finished(client, jobs[0]).state == "succeeded", "".join(client.jobs.log(jobs[0]))
        other = workflow(tmp_path / "other", epochs=1, chunk_size=500)
        (other / "files.txt").write_text((folder / "files.txt").read_text())
        client.workspaces.upload("other", other)
        jobs.append(client.jobs.submit({"workspace": "other", "name": "other", **WORKFLOW}).id)
        assert finished(client, jobs[1]).state == "succeeded", "".join(client.jobs.log(jobs[1]))
    assert "login as mlaas" in site.machine.sh("docker logs origin 2>&1")
    holders = "docker ps -q | xargs docker inspect -f '{{.Name}} {{range .Mounts}}{{.Source}} {{end}}'"
    lines = [line.split() for line in site.machine.sh(holders).splitlines()]
    assert {line[0] for line in lines if any("secrets/xrootd" in source for source in line[1:])} == {"/mlaas-renewer-1"}
    assert {line[0] for line in lines if any(source.endswith("/credential") for source in line[1:])} == {"/mlaas-renewer-1", "/mlaas-xrootd-1"}
    site.machine.sh("docker rm -f origin && rm -r /srv/origin")


def serial(site) -> str:
    """Which credential the proxy has now."""
    return site.machine.sh("sha256sum /var/lib/mlaas-xrootd/credential/x509up")


def test_no_secret_is_seen(site):
    secrets_seen(site)


def secrets_seen(site) -> None:
    secrets, visible = site.secrets(), site.visible()
    assert len(secrets) > 8
    assert all(len(text) > 100 for text in visible.values()), {name: len(text) for name, text in visible.items()}
    assert not [(name, place) for name, secret in secrets.items() for place, text in visible.items() if secret in text]


def test_what_the_finished_machine_looks_like(site):
    site.show()


def test_backup(site):
    done = site.play("backup", backup_fetch=str(site.folder))
    assert done.failed == 0
    archive = next(site.folder.glob("mlaas-*.tar.gz"))
    assert archive.stat().st_mode & 0o077 == 0
    site.archive = archive
    site.say(f"the archive: {archive.stat().st_size / 1e6:.1f} MB")


def test_destroy_asks_first(site):
    done = site.play("destroy", check=False)
    assert done.status != 0
    assert f"-e destroy={NAME}" in done.output
    with site.http() as http:
        assert http.get("/healthz").status_code == 200


def test_destroy_leaves_nothing(site):
    during = snapshot(site.machine)
    site.changes = {kind: set(site.strangers(kind, during)) for kind in during}
    done = site.play("destroy", destroy=NAME, destroy_docker=True)
    assert done.failed == 0
    after = snapshot(site.machine)
    left = {kind: site.strangers(kind, after) for kind in ("files", "users", "groups", "units")}
    assert left == {"files": ["/etc/networks"], "users": [], "groups": [], "units": []}  # that of a package that stays: netbase
    assert site.machine.sh("find /var/lib/docker -mindepth 1 | head") == ""
    assert set(site.machine.sh("ls /sys/class/net").split()) == {"eth0", "lo"}


def test_every_change_is_on_the_page(site):
    page = (ROOT / "playbooks" / "CHANGES-TO-THE-HOST.md").read_text()
    told = re.findall(r"`([^`\n]+)`", page)
    kinds = ("files", "users", "groups", "units", "packages")
    untold = [name for kind in kinds for name in sorted(site.changes[kind]) if not any(fits(name, text) for text in told)]
    assert untold == []


def fits(name: str, told: str) -> bool:
    """Whether what the page tells stands for a name: itself, a folder that holds it, or a pattern."""
    name = name.split(":")[0] if not name.startswith("/") else name
    return fnmatch(name, told) or (name.startswith(f"{told.rstrip('/')}/") and told.startswith("/"))


def test_restore_on_a_fresh_machine(site):
    site.machines.remove(site.machine.name)
    images = golden()
    site.machine = site.machines.start("mlaas-fresh", "debian12", golden=images, hostname=NAME)
    give_authorities(site)
    with resolved(site.machine.address):
        done = site.play("restore", restore_archive=str(site.archive))
        assert done.failed == 0
        site.say(f"restored on a bare machine: {done.seconds:.0f} s")


@pytest.fixture
def fresh(site) -> Iterator[Site]:
    """The second machine."""
    with resolved(site.machine.address):
        yield site


def test_everything_is_there_again(fresh):
    assert predicted(fresh) == fresh.scores
    with fresh.client() as client:
        assert client.workspaces.get("ttH").files > 0
        assert [job.state for job in client.jobs.list(model=fresh.model)] == ["succeeded"]
    done = fresh.play("smoke")
    assert "passed in" in done.output


def test_a_damaged_archive_is_refused_and_the_service_goes_on(fresh):
    content = bytearray(fresh.archive.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = fresh.folder / "damaged.tar.gz"
    damaged.write_bytes(content)
    done = fresh.play("restore", check=False, restore_archive=str(damaged), restore_replace=True)
    assert done.status != 0
    assert "damaged" in done.output
    assert predicted(fresh) == fresh.scores


def test_an_upgrade_with_a_job_running_across(fresh, tmp_path):
    with fresh.client() as client:
        folder = workflow(tmp_path / "long", epochs=1)
        (folder / "model.py").write_text(WAITS + (folder / "model.py").read_text().replace("    net =", "    wait()\n    net =", 1))
        client.workspaces.upload("long", folder)
        job = client.jobs.submit({"workspace": "long", "name": "long", **WORKFLOW})
        running(client, job.id)
        container = fresh.machine.sh("docker ps -q --filter label=mlaas.task").strip()
        fresh.variables["mlaas_version"] = NEXT
        done = fresh.play("upgrade")
        assert done.failed == 0
        fresh.say(f"upgrade with smoke: {done.seconds:.0f} s")
        assert client.jobs.get(job.id).state == "running"
        fresh.machine.sh(f"docker exec {container} touch /tmp/go")  # it is the same container still
        found = finished(client, job.id)
        assert (found.state, found.attempt) == ("succeeded", 1), "".join(client.jobs.log(job.id))
    assert fresh.versions() == {NEXT}
    assert predicted(fresh) == fresh.scores


def test_an_upgrade_that_fails_is_taken_back(fresh):
    """A version whose server cannot start."""
    for name in ("server", "inference", "trainer", "gateway", "identity", "xrootd"):
        broken = 'CMD ["python", "-c", "raise SystemExit(\'this version is broken\')"]\\nENTRYPOINT []' if name == "inference" else ""
        fresh.machine.sh(f"printf 'FROM mlaas-{name}:{NEXT}\\n{broken}\\n' | docker build -q -t mlaas-{name}:{BROKEN} -")
    done = fresh.play("upgrade", check=False, mlaas_version=BROKEN, mlaas_health_timeout=60)
    assert done.status != 0
    assert f"The upgrade to {BROKEN} failed and was taken back: {NAME} runs {NEXT} as before" in done.output
    assert fresh.versions() == {NEXT}
    assert predicted(fresh) == fresh.scores
    again = fresh.play("site", "--check")
    assert again.changed == 0, again.changes


def test_an_older_version_is_no_upgrade(fresh):
    done = fresh.play("upgrade", check=False, mlaas_version=VERSION)
    assert done.status != 0
    assert "which is newer than mlaas_version" in done.output


def test_a_run_that_is_killed_can_be_repeated(fresh):
    fresh.variables["server_user_jobs"] += 1
    process = subprocess.Popen(
        fresh.command("site"), env=fresh.environment(), cwd=fresh.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(12)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert fresh.play("site").failed == 0
    done = fresh.play("site")
    assert (done.changed, done.failed) == (0, 0), done.changes
    assert predicted(fresh) == fresh.scores


def test_no_secret_is_seen_at_the_end(fresh):
    secrets_seen(fresh)
