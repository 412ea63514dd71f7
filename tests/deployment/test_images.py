"""The images on a machine with Docker and nothing else: started from one folder as on a laptop, used, looked at, and attacked by a model."""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import foreign, vm

ROOT = Path(__file__).parents[2]
FOLDER = "/srv/mlaas"
NAME = "laptop.test"
SERVICES = ("server", "worker", "inference", "gateway", "identity")
OTHER = f"{FOLDER}/data/inference/of-another"  # what the service itself may read
UP = 240  # s; all parts at once on two cores
CURL = f"curl --silent --show-error --cacert {FOLDER}/config/tls/ca.pem"
pytestmark = [pytest.mark.needs("dockerd", "mmdebstrap"), pytest.mark.timeout(1500)]


@dataclass
class Laptop:
    """The machine, and what its engine says of the service's containers."""

    machine: vm.Machine
    seconds: float

    def inside(self, service: str, script: str, *, check: bool = True) -> str:
        """Run a shell script in a part's container, as its user."""
        return self.machine.run("docker", "exec", f"mlaas-{service}-1", "sh", "-euc", script, check=check).strip()

    def inspected(self) -> list[dict[str, Any]]:
        """What the engine tells of every container."""
        found: list[dict[str, Any]] = json.loads(self.machine.sh("docker inspect $(docker ps -aq)"))
        return found

    def token(self, user: str = "user") -> str:
        """A user's token, by name and password."""
        password = dict(line.split(" ") for line in self.machine.sh(f"cat {FOLDER}/passwords").splitlines())[user]
        form = f"grant_type=password client_id=mlaas-cli username={user} password={password}".split(" ")
        flags = " ".join(f"--data-urlencode {word}" for word in form)
        return str(json.loads(self.machine.sh(f"{CURL} {flags} https://{NAME}:9443/token"))["access_token"])

    def smoke(self) -> str:
        """Use it once, whole."""
        return self.machine.sh(f"/src/images/smoke {FOLDER}", timeout=600)


def packed() -> bytes:
    """What images/laptop needs of the repository."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for path in ("images", "roles/gateway", "roles/mlaas", "pyproject.toml"):
            archive.add(ROOT / path, path)
    return made.getvalue()


@pytest.fixture(scope="module")
def laptop(machines: vm.Machines) -> Iterator[Laptop]:
    """The service, started by `docker compose up` in the folder of images/laptop."""
    machine = machines.start("images", "debian12", with_docker=True, golden=vm.golden())
    try:
        machine.sh(f"mkdir /src && echo '127.0.0.1 {NAME}' >>/etc/hosts && systemctl start docker")
        machine.sh("apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends curl")
        machine.run("tar", "-x", "-C", "/src", stdin=packed())
        machine.sh(f"/src/images/laptop {FOLDER} {NAME}")
        began = time.monotonic()
        machine.sh(f"cd {FOLDER} && docker compose up --detach --wait --wait-timeout {UP} 2>&1", timeout=UP + 60)
        yield Laptop(machine, time.monotonic() - began)
    except AssertionError:
        print(machine.journal())
        raise
    finally:
        machines.remove("images")


def test_the_service_works(laptop):
    told = laptop.smoke()
    print(f"up after {laptop.seconds:.0f} s\n{told}")
    assert "passed in" in told


@pytest.mark.parametrize("service", SERVICES)
def test_each_part_is_shut_in(laptop, service):
    status = dict(line.split(":\t", 1) for line in laptop.inside(service, "cat /proc/self/status").splitlines())
    assert status["Uid"].split()[0] == {"gateway": "10002", "identity": "10004"}.get(service, "10001")
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    for place in ("/x", "/usr/x", "/opt/x", "/etc/x", "/run/secrets/x"):
        assert laptop.inside(service, f"touch {place} 2>/dev/null && echo written || true") == ""
    assert laptop.inside(service, "touch /tmp/x && echo written") == "written"


def test_only_the_worker_has_the_engine_and_it_listens_on_nothing(laptop):
    for service in SERVICES:
        assert (laptop.inside(service, "ls /var/run/docker.sock 2>/dev/null || true") != "") == (service == "worker")
    listening = laptop.inside("worker", "cat /proc/net/tcp /proc/net/tcp6")
    # 0A: listening; 0B00007F: the engine's resolver, inside of the container
    assert not [line for line in listening.splitlines() if " 0A " in line and "0B00007F" not in line]


def test_the_inference_service_sees_models_only(laptop):
    data = f"{FOLDER}/data"
    assert laptop.inside("inference", f"ls {data}").split() == ["inference", "models"]
    assert "mlaas.db" in laptop.inside("server", f"ls {data}")


def test_secrets_are_in_no_image_and_in_nothing_that_the_engine_tells(laptop):
    names = laptop.machine.sh(f"ls {FOLDER}/secrets").split()
    texts = [laptop.machine.sh(f"cat {FOLDER}/secrets/{name}").strip() for name in names]
    secret = [word for text in texts for word in re.findall(r"[A-Za-z0-9_$=/+-]{20,}", text)]
    secret += [line.split(" ")[1] for line in laptop.machine.sh(f"cat {FOLDER}/passwords").splitlines()]
    assert len(secret) >= len(names)
    ids = laptop.machine.sh("docker images --quiet").split()
    told = json.dumps(laptop.inspected()) + laptop.machine.sh(f"docker inspect {' '.join(ids)}")
    told += laptop.machine.sh(f"for id in {' '.join(ids)}; do docker history --no-trunc $id; done")
    told += laptop.machine.sh("for id in $(docker ps -aq --filter label=com.docker.compose.project=mlaas); do docker logs $id 2>&1; done")
    told += laptop.machine.sh("cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'", check=False)
    assert not [word for word in secret if word in told]


def test_strangers_and_others_are_refused(laptop):
    status = f"{CURL} --output /dev/null --write-out %{{http_code}}"
    assert laptop.machine.sh(f"{status} https://{NAME}:4433/api/v1/jobs") == "401"
    assert laptop.machine.sh(f"{status} --header 'Authorization: Bearer nonsense' https://{NAME}:4433/api/v1/jobs") == "401"
    assert laptop.machine.sh(f"{status} --header 'Authorization: Bearer {laptop.token()}' https://{NAME}:4433/api/v1/jobs") == "200"
    assert laptop.machine.sh(f"{status} --header 'Authorization: Bearer {laptop.token()}' https://{NAME}:4433/metrics") == "404"
    wrong = f"{status} --data grant_type=password --data client_id=mlaas-cli --data username=user --data password=wrong https://{NAME}:9443/token"
    assert laptop.machine.sh(wrong) == "400"


def test_options_of_a_submission_are_the_containers(laptop):
    """CPU and memory as asked for, the network and rights as the site says."""
    machine = laptop.machine
    folder = "/tmp/work"  # noqa: S108  of the machine
    machine.write(f"{folder}/model.py", b"import time\ndef model(idim):\n    time.sleep(60)\n")
    machine.write(f"{folder}/token", laptop.token().encode(), 0o444)
    image = machine.sh("docker images mlaas-server --format '{{.Repository}}:{{.Tag}}' | head -1").strip()
    mounts = f"--volume {folder}:{folder} --volume {FOLDER}/config/tls:/etc/tls:ro"
    client = f"docker run --rm --network host --user 0:0 {mounts} --env HOME=/tmp {image} sh -euc"
    machine.sh(f"{client} 'mlaas generate {folder}/toys --events=2000 && cp {folder}/model.py {folder}/toys/'")
    submit = "mlaas submit --files=files.txt --labels=labels.txt --model=model.py --params=params.json --cpus=1.5 --memory=3GB"
    where = f"--server=https://{NAME}:4433 --ca-file=/etc/tls/ca.pem --token-file={folder}/token"
    machine.sh(f"{client} 'cd {folder}/toys && {submit} {where}'")
    until = time.monotonic() + 60
    while not (found := machine.sh("docker ps --quiet --filter label=mlaas.task").split()) and time.monotonic() < until:
        time.sleep(0.5)
    (job,) = json.loads(machine.sh(f"docker inspect {found[0]}"))
    host = job["HostConfig"]
    machine.sh(f"docker rm --force {found[0]}")
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (1_500_000_000, 3 * 10**9, 3 * 10**9)
    assert (host["CapDrop"], host["CapAdd"], host["SecurityOpt"], host["ReadonlyRootfs"]) == (["ALL"], None, ["no-new-privileges"], True)
    assert (host["NetworkMode"], host["Privileged"], job["Config"]["User"]) == ("none", False, "10001:10001")
    mounted = {mount["Source"] for mount in job["Mounts"]}
    assert all(re.match(rf"{FOLDER}/data/(jobs|workspaces|cache)/", path) for path in mounted)
    assert not [line for line in job["Config"]["Env"] if re.search("TOKEN|SECRET|PASSWORD", line)]


def test_a_hostile_model_reaches_nothing(laptop, tmp_path):
    """Landlock and seccomp hold inside the container: the model runs code of its author's, and finds every door shut."""
    secrets = [
        Path("/run/secrets/service-key"),
        Path("/run/secrets/metrics-token"),
        Path(f"{FOLDER}/data/models"),
        Path("/proc/1/environ"),
        Path("/etc/shadow"),
    ]
    foreign.evil_bundle(tmp_path / "evil", secrets, 10)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        archive.add(tmp_path / "evil", "evil")
    laptop.inside("inference", f"mkdir -p {Path(OTHER).parent} && echo mine >{OTHER}")
    laptop.machine.write("/tmp/evil.tar.gz", made.getvalue())  # noqa: S108  of the machine
    asked = f"{CURL} --fail-with-body --header 'Authorization: Bearer {laptop.token()}' https://{NAME}:8081"
    laptop.machine.sh(f"{asked}/bundle?name=evil --header 'Content-Type: application/gzip' --data-binary @/tmp/evil.tar.gz")
    assert int(laptop.inside("inference", "python3 -c 'from mlaas.sandbox import landlock; print(landlock.abi())'")) > 0

    def scores(first: float) -> Any:
        values = [first] + [0.0] * (foreign.trained.WIDTH - 1)
        body = json.dumps({"model": "evil", "values": values})
        return json.loads(laptop.machine.sh(f"{asked}/json --header 'Content-Type: application/json' --data '{body}'"))

    assert scores(0) == [0.5]
    assert scores(6) == [0.0], "it reached something outside of its sandbox"
    assert (
        laptop.inside("inference", "test -r /run/secrets/service-key && echo readable") == "readable"
    )  # for the service itself: the row above can fail


def test_a_second_start_changes_nothing(laptop):
    before = sorted(found["Id"] for found in laptop.inspected())
    laptop.machine.sh(f"/src/images/laptop {FOLDER} {NAME} && cd {FOLDER} && docker compose up --detach --wait --wait-timeout {UP}")
    assert sorted(found["Id"] for found in laptop.inspected()) == before
