"""The TOSCA templates are what the table of inputs gives, and every known mistake is refused with its line and its reason."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlaas.cli import main, parser
from mlaas.settings import Settings
from mlaas.tosca import checks, render
from mlaas.tosca.document import read
from mlaas.tosca.table import PLAY, project, table
from mlaas.tosca.values import misfits

ROOT = Path(__file__).parents[2]
TOSCA = ROOT / "tosca"
STEMS = sorted(table(project()).templates)
TABLE = table(project())
PORTS = """
    ports:
      type: map
      description: Ports that are open
      default:
        - {protocol: tcp, source: 22}
"""
INPUT = """
    flavour:
      type: string
      description: Flavour of the machine
      default: small
"""

# where: the text that is changed, into what, a part of the line that is named, a part of the reason
MISTAKES = {
    "another version": ("tosca_simple_yaml_1_0", "tosca_simple_yaml_1_2", "tosca_definitions_version", "all readers know tosca_simple_yaml_1_0 only"),
    "version 2.0": ("tosca_simple_yaml_1_0", "tosca_2_0", "tosca_definitions_version", "'tosca_2_0'"),
    "a relative import": (
        "- mlaas4hep: https://mlaas4hep.example.org/v0.1.0/tosca/",
        "- mlaas4hep: ",
        "types.yaml",
        "IM takes absolute addresses only",
    ),
    "a plain import": ("- mlaas4hep: https", "- https", "types.yaml", "the INDIGO orchestrator takes no plain string"),
    "an import without a version": ("/v0.1.0/tosca/types", "/main/tosca/types", "types.yaml", "names no version"),
    "an import as a long form": ("- mlaas4hep: https", "- mlaas4hep:\n      file: https", "- mlaas4hep:", "one name to one address"),
    "two imports": ("\nmetadata:", "  - more: https://example.org/v1.0.0/more.yaml\n\nmetadata:", "imports:", "one element"),
    "nested metadata": ("  display_name:", "  tabs: {Service: [version]}\n  display_name:", "tabs:", "dodas refuses"),
    "metadata that are no text": ("template_version: 0.1.0", "template_version: 1.0", "template_version", "put it in quotes"),
    "no name": ("  template_name: mlaas4hep_vm\n", "", "metadata:", "template_name is missing"),
    "a key of a form": ("    host_name:\n", "    host_name:\n      display_name: Name\n", "display_name: Name", "belongs into its parameters file"),
    "a misspelt key": ("    host_name:\n", "    host_name:\n      requried: true\n", "requried", "did you mean 'required'?"),
    "a list of ports": ("  inputs:\n", f"  inputs:{PORTS}", "default:", "a list of maps, which dodas refuses"),
    "a map of ports": ("  inputs:\n", f"  inputs:{PORTS.replace('- {', 'ssh: {')}", "default:", "a map of maps, which dodas refuses"),
    "a type for lists": ("  inputs:\n", f"  inputs:{INPUT.replace('string', 'list')}", "type: list", "'list'; all readers"),
    "an input without default": ("  inputs:\n", f"  inputs:{INPUT.replace('      default: small', '')}", "flavour:", "has no default"),
    "an input without description": ("  inputs:\n", f"  inputs:{re.sub('.*description.*', '', INPUT)}", "flavour:", "no description"),
    "an input that nobody uses": ("  inputs:\n", f"  inputs:{INPUT}", "flavour:", "used nowhere"),
    "a number as text": ('default: "0.1.0"', "default: 0.1", "default: 0.1", "is no string"),
    "text as a number": ("default: 86400", 'default: "a day"', "a day", "is no integer"),
    "a default that a constraint forbids": ('default: "self-signed"', 'default: "acme"', '"acme"', "does not allow"),
    "a default out of range": ("default: 86400", "default: 5", "default: 5", "in_range"),
    "an unknown constraint": ("{in_range: [60, 2592000]}", "{between: [60, 2592000]}", "between", "unknown"),
    "a pattern that is none": (r"'^[A-Za-z0-9.-]*$'", "'^[a-'", "'^[a-'", "no regular expression"),
    "an input that is none": ("{get_input: host_name}", "{get_input: hostname}", "hostname}", "did you mean 'host_name'?"),
    "ports in the wrong order": (
        "order: 1",
        "order: 0",
        "order: 0\n      requirements:\n        - binding: machine\n        - link: public",
        "0 is private, 1 is public",
    ),
    "a port to nowhere": (
        "- link: public_network",
        "- link: network",
        "requirements:\n        - binding: machine\n        - link: network",
        "no network here",
    ),
    "no private network": ("- link: private_network", "- link: public_network", "order: 0", "0 is private"),
    "a fixed image": ("image: {get_input: image}", "image: ost://cloud.example.org/1", "ost://cloud.example.org/1", "must be an input"),
    "an output that is a list": (", public_address, 0]}", ", public_address]}", "public_address]}", "public_address is a list"),
    "an output that is a map": (", credential, 0, user]}", ", credential, 0]}", "credential, 0]}", "take its user"),
    "an output that is no text": ("value: {get_attribute: [machine, public_address, 0]}", "value: [1, 2]", "value: [1, 2]", "no string"),
    "an unknown property": (
        "        host_name: {get",
        "        host: {get_input: version}\n        host_name: {get",
        "host: {get",
        'contains unknown field "host"',
    ),
    "an unknown type": ("tosca.nodes.mlaas.Service", "tosca.nodes.mlaas.Servant", "tosca.nodes.mlaas.Servant", "tosca-parser"),
    "a key given twice": ("  outputs:\n", "  outputs:\n    node_ip:\n      value: text\n", "node_ip:\n      description", "given twice"),
    "broken YAML": ("topology_template:", "topology_template: [", "", "no YAML"),
}


@pytest.fixture
def folder(tmp_path):
    """A copy of the rendered files."""
    return Path(shutil.copytree(TOSCA, tmp_path / "tosca"))


def changed(path, old, new):
    text = path.read_text()
    assert old in text, old
    text = text.replace(old, new, 1)
    path.write_text(text)
    return text


def line_of(text, part):
    return text[: text.index(part)].count("\n") + 1


def test_the_files_are_what_the_table_gives():
    assert not render.stale(render.render(project()), TOSCA), "write them again: mlaas tosca render"


def test_all_files_are_good(capsys):
    assert main(["tosca", "validate", str(TOSCA)]) == 0
    assert capsys.readouterr().out.startswith("good: ")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_with_line_and_reason(mistake, folder, capsys):
    old, new, part, reason = MISTAKES[mistake]
    path = folder / "vm.yaml"
    text = changed(path, old, new)
    assert main(["tosca", "validate", str(path)]) == 2
    out, err = capsys.readouterr()
    assert "mistake" in err
    told = [line for line in out.splitlines() if reason in line]
    assert told, out
    assert all(re.fullmatch(rf"{re.escape(str(path))}:\d+: .+", line) for line in out.splitlines())
    if part:
        assert any(line.startswith(f"{path}:{line_of(text, part)}: ") for line in told), (line_of(text, part), told)


TYPES = {
    "an import": (
        "capability_types:",
        "imports:\n  - more: https://example.org/v1.0.0/more.yaml\n\ncapability_types:",
        "imports:",
        "imports nothing",
    ),
    "a relative play": (
        "implementation: https://mlaas4hep.example.org/v0.1.0/tosca/",
        "implementation: ",
        "implementation",
        "absolute addresses only",
    ),
    "a play of no version": ("/v0.1.0/tosca/artifacts", "/main/tosca/artifacts", "implementation", "names no version"),
    "a role": (
        "    interfaces:",
        "    artifacts:\n      ours: {type: tosca.artifacts.AnsibleGalaxy.role, file: mlaas.role}\n    interfaces:",
        "ours:",
        "ship a collection",
    ),
    "ports by default": (
        "      host_name:\n        type: string",
        "      ports:\n        type: list\n        default:\n          - {source: 22}\n      host_name:\n        type: string",
        "default:\n          - {source",
        "a list of maps, which dodas refuses",
    ),
}


@pytest.mark.parametrize("mistake", TYPES)
def test_a_mistake_in_the_types_is_refused(mistake, folder, capsys):
    old, new, part, reason = TYPES[mistake]
    path = folder / "types.yaml"
    text = changed(path, old, new)
    assert main(["tosca", "validate", str(path)]) == 2
    told = [line for line in capsys.readouterr().out.splitlines() if reason in line]
    assert any(line.startswith(f"{path}:{line_of(text, part)}: ") for line in told), told


FORMS = {
    "an input that is none": ("  host_name:", "  hostname:", "  hostname:", "did you mean 'host_name'?"),
    "an input that is missing": ("  dns_domain:", "  dns:", "inputs:", "dns_domain of vm.yaml is missing"),
    "an unknown tab": ("    tab: Data", "    tab: Date", "tab: Date", "would not be shown"),
    "a tab of two words": ("- Machine", "- The machine", "- The machine", "must be one word"),
    "an unknown type": ("type: hostname", "type: hostnam", "type: hostnam", "did you mean 'hostname'?"),
    "an unknown key": ("    placeholder: mlaas", "    palceholder: mlaas", "palceholder", "did you mean 'placeholder'?"),
    "a secret that is shown": ("    type: password", "    type: text", None, "use the type password or random_password"),
    "a choice that the template forbids": ("value: provided", "value: acme", "- value: acme", "does not allow"),
    "a choice without labels": ("label: my own", "name: my own", "constraints:", "value and label"),
    "a choice of a group that the template forbids": ("value: 16GB", "value: 16", "- value: 16", "is 16, which is no string"),
}


@pytest.mark.parametrize("mistake", FORMS)
def test_a_mistake_in_a_form_is_refused(mistake, folder, capsys):
    old, new, part, reason = FORMS[mistake]
    path = folder / "catalogue/tosca-parameters/vm.parameters.yml"
    text = changed(path, old, new)
    assert main(["tosca", "validate", str(folder / "vm.yaml"), f"--parameters={path}"]) == 2
    told = [line for line in capsys.readouterr().out.splitlines() if reason in line]
    assert told
    if part:
        assert any(line.startswith(f"{path}:{line_of(text, part)}: ") for line in told), (line_of(text, part), told)


def test_the_catalogue_names_templates_that_exist(folder, capsys):
    path = folder / "catalogue/tosca-metadata/metadata.yml"
    changed(path, "mlaas4hep_vm", "mlaas4hep")
    assert main(["tosca", "validate", str(folder)]) == 2
    assert "is the template_name of no template (did you mean 'mlaas4hep_vm'?)" in capsys.readouterr().out


def test_two_templates_of_one_name_are_refused(folder, capsys):
    changed(folder / "private-vm.yaml", "template_name: mlaas4hep_private_vm", "template_name: mlaas4hep_vm")
    assert main(["tosca", "validate", str(folder)]) == 2
    assert "has the same template_name" in capsys.readouterr().out


def test_a_template_alone_is_not_called_good(folder, tmp_path, capsys):
    alone = tmp_path / "alone" / "vm.yaml"
    alone.parent.mkdir()
    shutil.move(folder / "vm.yaml", alone)
    shutil.rmtree(folder)
    assert main(["tosca", "validate", str(alone)]) == 2
    assert "there is no copy of https://mlaas4hep.example.org/v0.1.0/tosca/types.yaml" in capsys.readouterr().out


def test_what_is_no_template_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("a: 1\n")
    assert main(["tosca", "validate", str(tmp_path / "x.yaml")]) == 2
    assert main(["tosca", "validate", str(tmp_path / "y.yaml")]) == 2
    assert main(["tosca", "validate"]) == 2
    assert "tosca does not exist" in capsys.readouterr().err


def test_a_site_can_publish_its_own(tmp_path, capsys):
    out = tmp_path / "tosca"
    arguments = ["tosca", "render", f"--output={out}", "--files=https://site.example.org/{version}/", "--release=1.2.3"]
    assert main([*arguments, "--collection=https://site.example.org/{version}.tar.gz", "--check"]) == 2
    assert main([*arguments, "--collection=https://site.example.org/{version}.tar.gz"]) == 0
    written = capsys.readouterr().out.split()
    assert str(out / "vm.yaml") in written
    text = (out / "vm.yaml").read_text()
    assert "mlaas4hep: https://site.example.org/1.2.3/tosca/types.yaml" in text
    assert yaml.safe_load(text)["topology_template"]["inputs"]["collection"]["default"] == "https://site.example.org/{version}.tar.gz"
    assert main(["tosca", "validate", str(out)]) == 0
    assert main([*arguments, "--collection=https://site.example.org/{version}.tar.gz", "--check"]) == 0
    (out / "vm.yaml").write_text("changed")
    assert main([*arguments, "--collection=https://site.example.org/{version}.tar.gz", "--check"]) == 2


@pytest.mark.parametrize("stem", STEMS)
def test_only_the_ports_of_the_service_are_open(stem):
    nodes = yaml.safe_load((TOSCA / f"{stem}.yaml").read_text())["topology_template"]["node_templates"]
    for node in nodes.values():
        ports = node.get("capabilities", {}).get("endpoint", {}).get("properties", {}).get("ports", {})
        assert {port["source"] for port in ports.values()} in ({22, 4433, 8081}, set())


@pytest.mark.parametrize("stem", STEMS)
def test_the_variant_for_im_dashboard_differs_in_metadata_only(stem):
    plain, variant = (yaml.safe_load((TOSCA / name).read_text()) for name in (f"{stem}.yaml", f"catalogue/im-dashboard/{stem}.yaml"))
    tabs = variant["metadata"].pop("tabs")
    shown = [name for entries in tabs.values() for entry in entries for name in (entry if isinstance(entry, dict) else [entry])]
    assert sorted(shown) == sorted(plain["topology_template"]["inputs"])
    assert {**variant, "metadata": plain["metadata"]} == plain


# --- form = role = setting


def arguments():
    """Every variable that a role of the repository declares."""
    found = {}
    for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"):
        found |= yaml.safe_load(path.read_text())["argument_specs"]["main"].get("options", {})
    return found


ARGUMENTS = arguments()
OTHERWISE = {"site_ca": "one of a list of certificates", "cluster_secret": "the password of the database, which the play makes"}
ROLES = {path.parents[1].name for path in (ROOT / "roles").glob("*/meta/argument_specs.yml")}


@pytest.mark.parametrize("name", sorted(TABLE.inputs))
def test_an_input_becomes_a_role_variable_and_a_setting_of_its_name(name):
    entry = TABLE.inputs[name]
    if not entry.variable:
        assert name in PLAY or entry.tab == "Machine"
        return
    role = entry.variable.split("_")[0]
    assert entry.variable in {f"{role}_{name}", name} or name in OTHERWISE
    if role in ROLES:
        assert entry.variable in ARGUMENTS, f"role {role} has no argument {entry.variable}"
        option = ARGUMENTS[entry.variable]
        assert (option["type"] == "list") == entry.many
        assert set(entry.values) <= set(option.get("choices", entry.values))
        if not entry.optional and not entry.required and not entry.many and "default" in option and "{{" not in str(option["default"]):
            assert str(entry.default) == str(option["default"]), f"the form says {entry.default!r}, the role {option['default']!r}"
        assert not entry.secret or option.get("no_log") or role != "mlaas"
    if entry.setting:
        field = Settings.model_fields[entry.setting]
        assert {entry.setting, entry.setting.removesuffix("s")} & {name, f"oidc_{name}"}
        if not entry.many and entry.default != "" and not isinstance(field.default, list | tuple):
            known = Settings.model_validate({entry.setting: entry.default})
            assert getattr(known, entry.setting) == field.get_default(call_default_factory=True), f"{name} is not the setting's default"


@pytest.mark.parametrize("name", sorted(TABLE.properties))
def test_an_input_reaches_the_variables_of_the_play(name):
    """Template -> type -> input of the operation -> variable of the play, each by its name."""
    types = read(TOSCA / "types.yaml")
    operation = types.mapping("node_types", "tosca.nodes.mlaas.Service", "interfaces", "Standard", "configure", "inputs")
    assert operation[f"tosca_{name}"] == {"get_property": ["SELF", name]}
    for stem, template in TABLE.templates.items():
        if name in template.inputs:
            service = read(TOSCA / f"{stem}.yaml").mapping("topology_template", "node_templates", "service", "properties")
            assert service[name] == {"get_input": name}
    play = yaml.safe_load((TOSCA / "artifacts/deploy.yml").read_text())[0]
    entry = TABLE.inputs[name]
    if entry.variable and name != "host_name":
        (value,) = re.findall(rf"'{entry.variable}': (.*?),(?= '|\s*}})", play["vars"]["deploy_given"])
        assert re.search(rf"\btosca_{name}\b", value)
    else:
        assert f"tosca_{name}" in json.dumps(play)


def test_the_play_fits_into_that_of_im():
    """IM writes `hosts` and `become` itself, and makes a list of a key that is there twice."""
    (play,) = yaml.safe_load((TOSCA / "artifacts/deploy.yml").read_text())
    assert play.keys() == {"name", "hosts", "connection", "gather_facts", "vars", "tasks"}


def variables_of_the_play(tmp_path: Path, **more: str) -> dict[str, Any]:
    """What the play of the artifact gives to site.yml, for these inputs beside the defaults."""
    (play,) = yaml.safe_load((TOSCA / "artifacts/deploy.yml").read_text())
    types = read(TOSCA / "types.yaml").mapping("node_types", "tosca.nodes.mlaas.Service", "properties")
    given = {f"tosca_{name}": entry["default"] for name, entry in types.items()}
    given |= more
    task = {"name": "Write", "ansible.builtin.copy": {"content": "{{ deploy_variables | to_json }}", "dest": str(tmp_path / "out"), "mode": "0600"}}
    own = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": play["vars"] | given | {"deploy_name": "h", "deploy_addresses": ["192.0.2.1"]},
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([own | {"name": "Try", "tasks": [task]}]))
    environment = {
        "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
        "ANSIBLE_HOME": str(tmp_path),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
    }
    command = [
        Path(sys.executable).parent / "ansible-playbook",
        "--inventory=localhost,",
        f"--extra-vars=ansible_python_interpreter={sys.executable}",
        tmp_path / "play.yml",
    ]
    done = subprocess.run(command, env=environment | {"LC_ALL": "C.UTF-8"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "out").read_text())
    return found


def test_each_machine_that_trains_has_a_worker_of_its_own_name(tmp_path):
    found = variables_of_the_play(tmp_path, tosca_part="worker", tosca_front_end="10.0.0.2", IM_NODE_PRIVATE_IP="10.0.0.17")
    assert found["server_worker_name"] == "worker-10-0-0-17"
    assert Settings(worker_name=found["server_worker_name"])
    assert found["mlaas_components"] == ["worker"]
    assert found["server_database"] == "postgresql+psycopg://mlaas@10.0.0.2/mlaas"


def test_the_play_gives_the_roles_values_of_their_types(tmp_path):
    given = {
        "tosca_user_groups": "/cms, /atlas,",
        "tosca_oidc_client_secret": "a \"b\" 'c'",
        "tosca_user_jobs": "3",
        "tosca_xrootd": "True",
        "tosca_site_ca": "A\nB\n",
    }
    found = variables_of_the_play(tmp_path, **given)
    assert found["mlaas_user_groups"] == ["/cms", "/atlas"]
    assert found["mlaas_admin_groups"] == []
    assert found["mlaas_oidc_client_secret"] == given["tosca_oidc_client_secret"]
    assert found["server_user_jobs"] == 3
    assert found["mlaas_components"] == ["gateway", "server", "worker", "inference", "xrootd"]
    assert found["mlaas_site_cas"] == ["A\nB\n"]
    assert found["mlaas_host_name"] == "h"
    assert found["xrootd_cache"] is False
    assert not {"tls_key", "server_redirector", "server_worker_name", "server_database_password", "server_database"} & found.keys(), (
        "what is empty is left to the roles"
    )


def test_secrets_are_hidden_everywhere():
    play = (TOSCA / "artifacts/deploy.yml").read_text()
    assert "no_log: true" in play
    for name in (name for name, entry in TABLE.inputs.items() if entry.secret):
        assert TABLE.inputs[name].form["type"] in {"password", "random_password", "hidden", "textarea"}
        for stem in (stem for stem, template in TABLE.templates.items() if name in template.inputs):
            tabs = yaml.safe_load((TOSCA / f"catalogue/im-dashboard/{stem}.yaml").read_text())["metadata"]["tabs"]
            assert any(
                isinstance(entry, dict) and entry.get(name, {}).get("tag_type") == "password" for entries in tabs.values() for entry in entries
            )


@pytest.mark.parametrize(
    ("value", "kind", "constraints", "reason"),
    [
        (3, "integer", [{"in_range": [1, 2]}], "in_range"),
        (3, "integer", [{"in_range": [1, "UNBOUNDED"]}], ""),
        (3, "integer", [{"greater_than": 3}], "greater_than"),
        (3, "integer", [{"less_or_equal": 3}], ""),
        (True, "integer", None, "no integer"),
        (3, "float", None, ""),
        ("x", "boolean", None, "neither true nor false"),
        ("8 GB", "scalar-unit.size", [{"greater_or_equal": "8 GiB"}], "greater_or_equal"),
        ("8", "scalar-unit.size", None, "no size"),
        ("abc", "string", [{"max_length": 2}], "max_length"),
        ("abc", "string", [{"equal": "abc"}, {"pattern": "^[a-c]+$"}, {"valid_values": ["abc"]}, {"min_length": 3}, {"length": 3}], ""),
    ],
)
def test_values_and_constraints(value, kind, constraints, reason):
    found = list(misfits(value, kind, constraints))
    assert (reason in found[0]) if reason else not found


def test_the_checks_of_a_folder_are_those_of_its_files(folder):
    together = checks.check([folder])
    assert {path.name for path in together.checked} >= {"vm.yaml", "private-vm.yaml", "types.yaml", "vm.parameters.yml", "metadata.yml"}
    assert together.findings == []


def test_the_links_of_the_page_lead_somewhere():
    text = (TOSCA / "README.md").read_text()
    assert all((TOSCA / target).exists() for target in re.findall(r"\]\(([^):]+)\)", text))
    for command in re.findall(r"^ *mlaas (tosca .*)$", text, re.MULTILINE):
        parser().parse_args(command.split())


def test_the_form_of_the_service_docker_compose_opens_what_the_compose_file_publishes():
    form = yaml.safe_load((TOSCA / "catalogue/docker-compose/docker-compose.parameters.yml").read_text())
    assert form["inputs"].keys() == {"num_cpus", "mem_size", "service_ports", "docker_compose_file_url", "project_name", "environment_variables"}
    assert {entry["tab"] for entry in form["inputs"].values()} == set(form["tabs"])
    opened = {port["source"] for port in form["inputs"]["service_ports"]["required_ports"].values()}
    compose = (ROOT / "images/compose.yaml").read_text()
    assert opened - {22} == {int(port) for port in re.findall(r"MLAAS_GATEWAY_(?:INFERENCE_)?PORT:-(\d+)", compose)}
    told = form["inputs"]["environment_variables"]["info_box"]
    for name in re.findall(r"MLAAS_\w+", told):
        assert f"${{{name}:-" in compose
