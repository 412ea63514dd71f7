"""What the images are made of and how Compose wires them: pinned, without root, with no more than each part needs."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mlaas.settings import Settings
from tests.support.programs import find_program

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "images"
DOCKERFILES = {path.parent.name: path.read_text() for path in sorted(IMAGES.glob("*/Dockerfile"))}
STEPS = {"base", "tools", "core", "frameworks"}
DEPLOYED = sorted(set(DOCKERFILES) - STEPS)
RENAMED = {"tensorflow": "tensorflow-cpu", "xgboost": "xgboost-cpu"}
COMPOSE = yaml.safe_load((IMAGES / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SOCKET = "docker.sock"


def stages(name: str) -> list[str]:
    """The stages of a Dockerfile, each from its FROM on; what precedes the first one is left out."""
    joined = DOCKERFILES[name].replace("\\\n", " ")
    return re.split(r"^(?=FROM )", joined, flags=re.MULTILINE)[1:]


def words(text: str, instruction: str) -> list[str]:
    """The arguments of an instruction, one per occurrence."""
    return re.findall(rf"^{instruction}\s+(.*)$", text, re.MULTILINE)


def user(name: str) -> str:
    """Who runs in the image: its own USER, or that of the image below it."""
    final = stages(name)[-1]
    own = words(final, "USER")
    if own:
        return own[-1]
    parent = re.search(r"FROM \$\{(\w+)\}", final)
    assert parent, f"{name} stands on {final.splitlines()[0]}"
    return user(parent[1].lower())


def pins(path: str) -> dict[str, str]:
    """The packages of a file of requirements, by name."""
    text = (IMAGES / path).read_text()
    found = re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==(\S+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


# ---- Dockerfiles


def test_every_image_is_built_by_the_script():
    order = re.search(r"^ORDER=\((.*)\)$", (IMAGES / "build").read_text(), re.MULTILINE)
    assert order
    assert set(DOCKERFILES) <= set(order[1].split())


@pytest.mark.parametrize("name", sorted(DOCKERFILES))
def test_no_image_runs_as_root(name):
    assert re.fullmatch(r"1000[1-4]:1000[1-4]", user(name))


@pytest.mark.parametrize("name", DEPLOYED)
def test_deployed_images_are_labelled_and_tell_their_health(name):
    final = stages(name)[-1]
    labels = " ".join(words(final, "LABEL"))
    for label in ("title", "description", "version", "licenses"):
        assert f"org.opencontainers.image.{label}=" in labels
    assert words(final, "HEALTHCHECK")
    assert words(final, "CMD")[-1].startswith("[")


@pytest.mark.parametrize("name", sorted(DOCKERFILES))
def test_images_take_nothing_unpinned_from_outside(name):
    text = DOCKERFILES[name]
    for source in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        assert re.match(r"\$\{(BASE_IMAGE|BASE|TOOLS|CORE|FRAMEWORKS)\}|readers$", source), source
    assert not re.search(r"^ADD |https?://|curl |wget |:latest", text, re.MULTILINE)
    for line in re.findall(r"(?:pip install|(?<!apt-get )\binstall --).*", text.replace("\\\n", " ")):
        assert "--require-hashes" in line or "--offline --no-deps" in line, line


def test_the_base_is_pinned_by_digest():
    assert re.search(r"^ARG BASE_IMAGE=debian:bookworm-slim@sha256:[0-9a-f]{64}$", DOCKERFILES["base"], re.MULTILINE)


@pytest.mark.parametrize("name", sorted(DOCKERFILES))
def test_nothing_secret_is_an_argument_of_a_build(name):
    arguments = [argument.split("=")[0] for instruction in ("ARG", "ENV") for argument in words(DOCKERFILES[name], instruction)]
    assert not [argument for argument in arguments if re.search("SECRET|PASSWORD|TOKEN|KEY", argument)]


# ---- pins


def test_the_pins_are_what_the_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = ("service", "keras", "xgboost", "xrootd", "s3")
    held = pins("core/requirements.txt") | pins("frameworks/requirements-cpu.txt") | pins("trainer/requirements.txt")
    for line in [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]:
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({"python_version": "3.11"}):
            continue
        name = canonicalize_name(RENAMED.get(wanted.name, wanted.name))
        assert Version(held[name]) in wanted.specifier, f"{line}: images/update-constraints has not been run"


def test_no_layer_repeats_what_is_below_it():
    core, cpu, gpu = pins("core/requirements.txt"), pins("frameworks/requirements-cpu.txt"), pins("frameworks/requirements-gpu.txt")
    trainer = pins("trainer/requirements.txt")
    assert not core.keys() & (cpu.keys() | gpu.keys() | trainer.keys())
    assert not cpu.keys() & trainer.keys()
    assert "tensorflow-cpu" in cpu
    assert not [name for name in (*core, *cpu, *trainer) if name.startswith("nvidia")]


@pytest.mark.parametrize("path", sorted(str(path.relative_to(IMAGES)) for path in IMAGES.glob("*/requirements*.txt")))
def test_every_pin_has_hashes(path):
    blocks = re.split(r"\n(?=[a-z])", (IMAGES / path).read_text().strip())[1:]
    assert blocks
    for block in blocks:
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+", block)
        assert "--hash=sha256:" in block


def test_the_lock_of_the_provider_has_digests_and_names_no_host():
    packages = json.loads((IMAGES / "identity/package-lock.json").read_text())["packages"]
    for name, package in packages.items():
        assert not name or package["integrity"].startswith("sha512-")
        assert "resolved" not in package


# ---- Compose


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_shut_in(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "devices", "network_mode", "pid", "ipc", "userns_mode"}
    assert re.fullmatch(r"1000[1-4]:1000[1-4]", service["user"])
    assert service["mem_limit"]
    assert service["pids_limit"] <= 2048
    assert service["init"] is True
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["options"].keys() >= {"max-size", "max-file"}
    assert any(place.startswith("/tmp:") for place in service["tmpfs"])  # noqa: S108


def test_only_the_worker_reaches_the_engine_and_nobody_reaches_the_worker():
    assert [name for name, service in SERVICES.items() if SOCKET in json.dumps(service)] == ["worker"]
    assert [name for name, service in SERVICES.items() if "DOCKER_GID" in json.dumps(service.get("group_add"))] == ["worker"]
    assert SERVICES["worker"]["networks"] == ["database"]
    assert not SERVICES["worker"].keys() & {"ports", "expose"}


def test_what_is_published():
    published = {name: [re.sub(r".*:", "", port) for port in service["ports"]] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"gateway", "gateway-server", "gateway-inference", "identity"}
    assert published["gateway"] == ["4433", "8081"]
    assert (published["gateway-server"], published["gateway-inference"]) == (["4433"], ["8081"])
    assert SERVICES["identity"]["ports"][0].startswith("${MLAAS_IDENTITY_ADDRESS:-127.0.0.1}")


def test_who_meets_whom():
    members: dict[str, set[str]] = {network: set() for network in COMPOSE["networks"]}
    for name, service in SERVICES.items():
        for network in service["networks"]:
            members[network].add(name)
    gateways = {"gateway", "gateway-server", "gateway-inference"}
    assert members == {
        "front": gateways | {"identity"},
        "back": gateways | {"server", "inference"},
        "outside": {"server", "inference", "identity"},
        "database": {"server", "worker"},
        "storage": {"xrootd", "renewer"},
        "jobs": {"xrootd"},
    }
    assert COMPOSE["networks"]["back"]["internal"] is True
    assert COMPOSE["networks"]["jobs"]["internal"] is True
    assert COMPOSE["networks"]["jobs"]["driver_opts"] == {"com.docker.network.bridge.inhibit_ipv4": "true"}


def test_who_sees_which_secret():
    seen: dict[str, set[str]] = {secret: set() for secret in COMPOSE["secrets"]}
    for name, service in SERVICES.items():
        for secret in service.get("secrets", []):
            seen[secret].add(name)
    gateways = {"gateway", "gateway-server", "gateway-inference"}
    assert seen == {
        "service-key": {"server", "worker", "inference"},
        "metrics-token": {"server", "worker", "inference"},
        "database-password": {"server", "worker"},
        "gateway-client-secret": gateways,
        "gateway-cookie-secret": gateways,
        "identity-users": {"identity"},
        "identity-clients": {"identity"},
    }


def test_the_inference_service_has_its_part_of_the_data_folder_only():
    sources = {mount["source"] for mount in SERVICES["inference"]["volumes"]}
    data = "${MLAAS_DATA_FOLDER:-/var/lib/mlaas}"
    assert sources == {f"{data}/models", f"{data}/inference", "${MLAAS_CONFIG:-/etc/mlaas}/trust"}
    assert not [name for name in SERVICES["inference"]["environment"] if "DATABASE" in name]


def test_mounts_are_made_by_who_deploys_never_by_the_engine():
    for service in SERVICES.values():
        for mount in service["volumes"]:
            assert mount["type"] == "bind"
            assert mount["bind"] == {"create_host_path": False}
            assert not mount["source"].endswith(".pem"), "a renewal replaces files: mount their folder"


@pytest.mark.parametrize("name", ["server", "worker", "inference"])
def test_the_environment_is_made_of_settings(name):
    environment = SERVICES[name]["environment"]
    known = {f"MLAAS_{field.upper()}" for field in Settings.model_fields} | {"NUMBA_CACHE_DIR"}
    assert environment.keys() <= known
    for variable, value in environment.items():
        if re.search("SECRET|PASSWORD|TOKEN|KEY", variable):
            assert value.startswith("/run/secrets/")


def test_every_variable_has_a_default():
    text = (IMAGES / "compose.yaml").read_text()
    assert "${MLAAS_" in text
    assert re.findall(r"\$\{\w+\}", text) == []


# ---- programs


def test_hadolint():
    command = [Path(sys.executable).with_name("hadolint"), "--no-color", "--config", IMAGES / "hadolint.yaml", *IMAGES.glob("*/Dockerfile")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--bse", "pull"], "--bse: there is no such option"),
        (["--base", "hub"], "--base: auto, pull or bootstrap, not hub"),
        (["--device", "tpu"], "--device: cpu or gpu, not tpu"),
        (["--only", "serber"], "--only: there is no image serber; there are base tools core"),
        (["--only"], "--only: it needs a value"),
        (["--version"], "--version: it needs a value"),
        (["--ca", "/no/such.crt"], "--ca: /no/such.crt cannot be read"),
    ],
)
def test_build_says_what_is_wrong(arguments, sentence):
    found = subprocess.run([IMAGES / "build", *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert found.returncode == 1
    assert f"images/build: {sentence}" in found.stderr


@pytest.mark.parametrize("name", ["localhost", "mlaas.localhost"])
def test_the_laptop_has_a_name_that_containers_can_use(name, tmp_path):
    found = subprocess.run([IMAGES / "laptop", tmp_path / "folder", name], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert (found.returncode, found.stderr) == (1, f"images/laptop: {name} means to each container itself: name another, such as mlaas.internal\n")
    assert not (tmp_path / "folder").exists()


@pytest.mark.needs("node")
@pytest.mark.parametrize(
    ("issuer", "allowed"),
    [
        ("https://localhost:9443", True),
        ("https://vm:9443", True),
        ("https://mlaas.example.test:9443", True),
        ("https://mlaas.internal:9443", True),
        ("https://192.168.1.20:9443", True),
        ("https://[fd00::1]:9443", True),
        ("http://localhost:9443", False),
        ("https://mlaas.example.org:9443", False),
        ("https://internal.example.org:9443", False),
        ("https://193.205.1.1:9443", False),
        ("https://[2001:760::1]:9443", False),
        ("nonsense", False),
    ],
)
def test_the_provider_refuses_public_names(issuer, allowed):
    code = f"import {{ refusal }} from {json.dumps(str(IMAGES / 'identity/names.mjs'))}; console.log(refusal({json.dumps(issuer)}) ?? '');"
    found = subprocess.run([find_program("node"), "--input-type=module", "--eval", code], capture_output=True, text=True, check=True)
    assert (found.stdout == "\n") == allowed
    assert allowed or "ISSUER: " in found.stdout


@pytest.mark.needs("node")
def test_passwords_are_hashed_as_the_provider_reads_them():
    stored = laptop().hashed("correct horse")
    assert "correct" not in stored
    code = f"""import {{ Users }} from {json.dumps(str(IMAGES / "identity/users.mjs"))};
    const users = new Users([{{ name: 'ada', groups: ['/mlaas/users'], password: {json.dumps(stored)} }}]);
    const tried = [['ada', 'correct horse'], ['ada', 'wrong'], ['bob', 'correct horse'], ['ada', ''], [undefined, undefined]];
    console.log(JSON.stringify(await Promise.all(tried.map(([name, password]) => users.check(name, password)))));"""
    found = subprocess.run([find_program("node"), "--input-type=module", "--eval", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == [True, False, False, False, False]


def test_the_laptop_gets_the_gateway_that_the_role_makes():
    """images/laptop reads the role's templates without Ansible: what comes out must be the same."""
    site = {"mlaas_host_name": "laptop.test", "mlaas_oidc_issuer": "https://laptop.test:9443", "mlaas_oidc_client_id": "mlaas-gateway"}
    loader = DataLoader()
    values: dict[str, Any] = {}
    for path in ("mlaas/defaults", "gateway/defaults", "gateway/vars"):
        values |= loader.load_from_file(str(ROOT / "roles" / path / "main.yml"), trusted_as_template=True)
    values |= site | {"mlaas_image_hub": False, "ansible_managed": "written by images/laptop"}
    made = laptop().gateway(ROOT / "roles", site)
    assert {"apache.conf", "provider.json"} <= made.keys()
    for item in values["_gateway_templates"]["apache"]:
        source = trust_as_template((ROOT / "roles/gateway/templates" / item["src"]).read_text())
        templar = Templar(loader=loader, variables=values | {"item": item}).copy_with_new_env()
        text = templar.template(source, escape_backslashes=False)  # as the module `template` does
        found = made[item["dest"]]
        assert (json.loads(found) if isinstance(text, dict) else found) == text


def laptop() -> Any:
    """The program of images/laptop as a module."""
    spec = importlib.util.spec_from_file_location("laptop", IMAGES / "laptop.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["laptop"] = module
    spec.loader.exec_module(module)
    return module
