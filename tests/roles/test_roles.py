"""The roles have one shape, and their documents, defaults and settings say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlaas import __version__
from mlaas.settings import Settings
from mlaas.sizes import read_size
from tests import roles_readme
from tests.xrootd.render import Values

ROOT = Path(__file__).parents[2]
ROLES = roles_readme.ROLES
PARTS = ["preflight", "install", "configure", "run"]
named = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def options(role: Path) -> dict[str, Any]:
    return roles_readme.spec(role)["main"]["options"]


def tasks(role: Path) -> list[dict[str, Any]]:
    """All tasks of a role, those in blocks, too."""
    found = []

    def add(listed: list[dict[str, Any]]) -> None:
        for task in listed:
            found.append(task)
            for part in ("block", "rescue", "always"):
                add(task.get(part, []))

    for file in [*(role / "tasks").glob("*.yml"), *(role / "handlers").glob("*.yml")]:
        add(read(file) or [])
    return found


def test_there_are_the_roles_that_were_asked_for():
    assert {"docker", "tls", "gateway", "server", "inference", "xrootd", "identity"} <= {role.name for role in ROLES}


def test_every_folder_of_roles_has_a_document():
    assert sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir()) == [role.name for role in ROLES]


@named
def test_defaults_are_those_of_the_document(role):
    defaults = read(role / "defaults" / "main.yml") or {}
    documented = {name: option.get("default") for name, option in options(role).items() if not option.get("required")}
    assert defaults == documented


@named
def test_every_variable_is_typed_and_described(role):
    for name, option in options(role).items():
        assert option.get("type"), name
        assert roles_readme.sentences(option["description"]), name
        assert option["type"] != "list" or "elements" in option, name
        assert name.startswith(f"{role.name}_"), name


@named
def test_the_readme_is_current(role):
    assert (role / "README.md").read_text() == roles_readme.readme(role), "make docs"


@named
def test_the_role_has_the_same_parts_as_all(role):
    main = read(role / "tasks" / "main.yml")
    parts = [task["name"].lower() for task in main]
    expected = {"mlaas": ["preflight", "install", "configure"], "smoke": ["preflight", "run"]}.get(role.name, PARTS)
    assert [part for part in parts if part in PARTS] == expected
    for task in main:
        imported = (task.get("ansible.builtin.import_tasks") or task["ansible.builtin.include_tasks"]["file"]).removesuffix(".yml")
        assert imported == task["name"].lower()
        assert "always" in task["tags"] or {role.name} < set(task["tags"])
        assert "always" in task["tags"] or imported in task["tags"] or "install" in task["tags"]


@named
def test_internals_and_registers_say_that_they_are(role):
    for name in read(role / "vars" / "main.yml") or {}:
        assert name.startswith(f"_{role.name}_"), name
    for task in tasks(role):
        if "register" in task:
            assert task["register"].startswith(f"__{role.name}_"), task["name"]


@named
def test_modules_are_named_in_full(role):
    known = {
        "name",
        "when",
        "loop",
        "loop_control",
        "register",
        "vars",
        "tags",
        "become",
        "notify",
        "no_log",
        "changed_when",
        "failed_when",
        "check_mode",
    }
    known |= {"delegate_to", "run_once", "block", "rescue", "always", "listen", "until", "retries", "delay", "async", "poll", "environment", "diff"}
    known |= {"ignore_errors", "throttle", "args"}
    for task in tasks(role):
        modules = set(task) - known
        assert len(modules) == (0 if "block" in task else 1), task
        assert all(module.count(".") == 2 for module in modules), task


SECRET = re.compile(r"(secret|password|passphrase|_token|(?<!oidc)_key)$")


@named
def test_secrets_are_never_shown(role):
    """A variable that is a secret is marked as one; a task that has one in hand is silent, or its module hides it."""
    hiding = {"mlaas4hep.mlaas.secret", "ansible.builtin.validate_argument_spec"}
    marked = {name for name, option in options(role).items() if option.get("no_log")}
    for name, option in options(role).items():
        if SECRET.search(name) and option["type"] == "str" and "address" not in roles_readme.sentences(option["description"]).lower():
            assert name in marked, f"{name} is a secret: no_log"
    for task in tasks(role):
        held = [name for name in marked if re.search(rf"\b{name}\b", str({key: value for key, value in task.items() if key != "when"}))]
        if held and not hiding & set(task) and "ansible.builtin.fail" not in task and not set(task) & {"block", "ansible.builtin.import_tasks"}:
            assert task.get("no_log"), f"{task['name']} shows {held}"


# ---- the settings of the service


NOT_OF_ROLES = {
    "cache": "of the commands; the worker gives jobs theirs",
    "memory_limit": "of the commands; a job has the memory of its container",
    "progress": "of the commands",
    "server": "of the commands",
    "ca_file": "of the commands",
    "oidc_agent": "of the commands",
    "data": "mlaas_data_folder",
    "models": "below mlaas_data_folder",
    "host": "the containers' own",
    "port": "the containers' own; the public one is mlaas_server_port",
    "inference_port": "the containers' own; the public one is mlaas_inference_port",
    "grpc_port": "the containers' own, closed from outside",
    "trusted_proxies": "mlaas_back_subnet",
    "tls_certificate": "the gateway ends TLS",
    "tls_key": "the gateway ends TLS",
    "public_url": "mlaas_host_name and mlaas_server_port",
    "inference_public_url": "mlaas_host_name and mlaas_inference_port",
    "inference_url": "the containers' own",
    "service_key_file": "made by the role mlaas",
    "metrics_token_file": "made by the role mlaas",
    "database_password_file": "server_database_password",
    "auth": "always oidc",
    "token_file": "always oidc",
    "local_data": "jobs read through XRootD; folders of the machine are not in the containers",
    "runner": "always docker",
    "sandbox": "of the process runner",
    "job_uid_base": "of the process runner",
    "docker_url": "the engine of the machine",
    "docker_image": "mlaas_images and mlaas_version",
}


def setting_of(role: str, name: str) -> str | None:
    """The setting that a variable of a role stands for."""
    if role == "inference" and name in Settings.model_fields:
        return name
    short = name.removeprefix(f"{role}_")
    return short if short in Settings.model_fields else None


def variables() -> dict[str, dict[str, str]]:
    return {
        role: {setting: name for name in options(ROOT / "roles" / role) if (setting := setting_of(role, name))} for role in ("server", "inference")
    }


def test_every_setting_is_a_variable_or_has_a_reason_not_to_be():
    covered = {setting for settings in variables().values() for setting in settings}
    assert covered | set(NOT_OF_ROLES) == set(Settings.model_fields)
    assert not covered & set(NOT_OF_ROLES)


@pytest.mark.parametrize("role", ["server", "inference"])
def test_variables_that_are_no_settings_are_few(role):
    own = {"server": {"server_database_password", "server_memory", "server_worker_memory"}, "inference": {"inference_container_memory"}}
    assert set(options(ROOT / "roles" / role)) - set(variables()[role].values()) == own[role]


@pytest.mark.parametrize("role", ["server", "inference"])
def test_variables_have_the_defaults_and_words_of_the_settings(role):
    for setting, name in variables()[role].items():
        option, field = options(ROOT / "roles" / role)[name], Settings.model_fields[setting]
        value = option["default"]
        if isinstance(value, str) and "{{" in value:
            continue  # from another variable
        assert option["description"] == field.description or setting == "group_limits", name
        if isinstance(field.default, int) and isinstance(value, str):
            assert (read_size(value) if value else 0) == field.default, name
        elif setting != "oidc_ca_file":
            assert (value or None) == (field.default or None), name


@pytest.mark.parametrize(("role", "elsewhere"), [("server", {"docker_gpu_image", "worker_name"}), ("inference", set())])
def test_every_variable_reaches_its_service(role, elsewhere):
    written = read(ROOT / "roles" / role / "vars" / "main.yml")[f"_{role}_settings"]
    for setting, name in variables()[role].items():
        if setting not in elsewhere:
            assert written[f"MLAAS_{setting.upper()}"] == f"{{{{ {name} }}}}"
    assert {name.removeprefix("MLAAS_").lower() for name in written} <= set(Settings.model_fields)


def test_the_settings_that_the_services_share_come_from_the_server():
    found = variables()
    defaults = read(ROOT / "roles" / "inference" / "defaults" / "main.yml")
    for setting in set(found["server"]) & set(found["inference"]):
        assert f"server_{setting}" in str(defaults[found["inference"][setting]]) or setting.startswith("inference_"), setting


@pytest.mark.parametrize(
    ("components", "host", "name"),
    [
        (["gateway", "server", "worker", "inference"], "mlaas.example.org", ""),
        (["worker", "xrootd"], "Train-1.example.org", "train-1-example-org"),
        (["worker"], "10.0.0.5", "10-0-0-5"),
        (["worker"], "fe80::1", "fe80-1"),
        (["worker"], f"_{'x' * 62}.example.org", "x" * 62),
    ],
)
def test_a_worker_that_is_not_beside_its_server_is_called_as_its_machine(components, host, name):
    values = Values(mlaas_components=components, inventory_hostname=host)
    assert values.of("server_worker_name") == name
    assert Settings(worker_name=name).worker_name == name
    compose = (ROOT / "images" / "compose.yaml").read_text()
    found = values.of("_server_fragment.MLAAS_WORKER_LOCK")
    assert found == (f"worker-{name}.lock" if name else "worker.lock")
    assert "/run/${MLAAS_WORKER_LOCK:-worker.lock}" in compose
    assert values.of("_server_fragment.MLAAS_WORKER_NAME") == name


# ---- the collection


def test_there_is_one_version():
    galaxy = read(ROOT / "galaxy.yml")
    assert galaxy["version"] == __version__
    assert read(ROOT / "roles" / "mlaas" / "defaults" / "main.yml")["mlaas_version"] == __version__


def test_the_collection_holds_what_images_are_built_from():
    ignored = read(ROOT / "galaxy.yml")["build_ignore"]
    assert not {"images", "mlaas", "pyproject.toml", "README.md", "LICENSE", "roles", "playbooks", "plugins"} & set(ignored)


def test_the_playbook_runs_every_role_of_the_service():
    (play,) = read(ROOT / "playbooks" / "site.yml")
    assert [entry["role"] for entry in play["roles"]] == [
        f"mlaas4hep.mlaas.{name}" for name in ["docker", "mlaas", "tls", "identity", "xrootd", "server", "inference", "gateway"]
    ]


# ---- the inventories


@pytest.mark.parametrize("file", sorted((ROOT / "inventories").glob("*/group_vars/all/main.yml")), ids=lambda file: file.parts[-4])
def test_inventories_name_variables_that_exist(file):
    known = {name for role in ROLES for name in options(role)}
    named = re.findall(r"^(?:# )?([a-z]\w*):", file.read_text(), re.MULTILINE)
    assert len(named) > 30
    assert set(named) <= known


@pytest.mark.parametrize("file", sorted((ROOT / "inventories").glob("*/group_vars/all/main.yml")), ids=lambda file: file.parts[-4])
def test_inventories_show_the_defaults(file):
    """The first line of a variable that is a comment shows its default, unless the file itself sets it."""
    text = file.read_text()
    defaults = {name: option.get("default") for role in ROLES for name, option in options(role).items()}
    shown: dict[str, Any] = {}
    for name, value in re.findall(r"^# ([a-z]\w*): (.*?)(?:  +#.*)?$", text, re.MULTILINE):
        shown.setdefault(name, yaml.safe_load(value))
    examples = {"gateway_engine", "tls_source", "tls_acme_terms_agreed", "tls_acme_email", "tls_certificate", "tls_key", "server_database_password"}
    examples |= {"gateway_login_parameters", "xrootd_permit", "xrootd_certificate", "xrootd_key", "xrootd_passphrase", "xrootd_voms"}
    for name, value in shown.items():
        if name not in examples:
            assert value == defaults[name], name


@pytest.mark.parametrize("file", sorted((ROOT / "inventories").glob("*/group_vars/all/vault.yml.example")), ids=lambda file: file.parts[-4])
def test_the_vault_holds_what_the_inventory_takes_from_it(file):
    taken = set(re.findall(r"\bvault_\w+", (file.parent / "main.yml").read_text()))
    assert taken == set(re.findall(r"^(?:# )?(vault_\w+):", file.read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("components", "services", "fragments"),
    [
        (["gateway", "server", "worker", "inference", "xrootd", "identity"], [], []),
        (["gateway", "server", "worker", "inference"], ["identity", "xrootd", "renewer"], ["40-identity", "50-xrootd"]),
        (
            ["server", "xrootd"],
            ["gateway", "gateway-server", "gateway-inference", "identity", "inference", "worker"],
            ["40-identity", "70-inference", "80-gateway"],
        ),
    ],
)
def test_what_is_no_component_any_more_is_ended(components, services, fragments):
    values = Values(mlaas_components=components)
    assert values.of("_mlaas_services_gone") == services
    assert values.of("_mlaas_fragments_gone") == fragments


def test_what_can_be_ended_is_all_there_is():
    values = Values()
    named = values.of("_mlaas_services_of.values() | flatten")
    assert sorted(named) == sorted(read(ROOT / "images" / "compose.yaml")["services"])
    written = {name for path in (ROOT / "roles").glob("*/tasks/configure.yml") for name in re.findall(r"env\.d/([\w-]+)\.env", path.read_text())}
    assert set(values.of("_mlaas_fragment_of.values() | list")) == written


def test_authorities_that_are_wanted():
    values = Values(ansible_facts={"os_family": "Debian"}, mlaas_site_cas=["a", "b"])
    assert values.of("_mlaas_anchors_wanted") == [f"/usr/local/share/ca-certificates/mlaas-site-{number}.crt" for number in (0, 1)]


def test_the_settings_of_jobs_are_for_root_alone():
    tasks = [task["mlaas4hep.mlaas.layout"] for task in read(ROOT / "roles/server/tasks/configure.yml")]
    assert {name: task.get("mode") for task in tasks for name in task["files"]} == {"server.env": "0600", "env.d/60-server.env": None}


@pytest.mark.parametrize(
    ("origin", "credential", "address"),
    [
        ("origin.example.org", "x509", "root://origin.example.org:1094"),
        ("origin.example.org", "token", "roots://origin.example.org:1094"),
        ("root://origin.example.org", "token", "root://origin.example.org:1094"),
        ("roots://origin.example.org:1095", "x509", "roots://origin.example.org:1095"),
        ("10.0.0.1:2094", "none", "root://10.0.0.1:2094"),
    ],
)
def test_an_origin_has_a_scheme_and_a_port(origin, credential, address):
    assert Values(xrootd_origin=origin, xrootd_credential=credential).of("_xrootd_origin_url").strip() == address
