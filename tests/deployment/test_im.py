"""The templates in the hands of the Infrastructure Manager and of dodas."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mlaas import __version__
from mlaas.cli import main
from mlaas.tosca import render
from mlaas.tosca.table import project, table
from tests.support.orchestrator import DUMMY, Manager, manager, published

STEMS = sorted(table(project()).templates)
DODAS = os.environ.get("MLAAS_TEST_DODAS", "")
MACHINES = {"vm": [(4, 8000)], "private-vm": [(4, 8000)], "cluster": [(4, 8000), (8, 16000)]}


@pytest.fixture(scope="module")
def im(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """A running IM."""
    with manager(tmp_path_factory.mktemp("im")) as found:
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The rendered files, published."""
    folder = tmp_path_factory.mktemp("published")
    with published(folder) as address:
        where = project("", f"{address}/v{{version}}", f"{address}/v{{version}}/mlaas4hep-mlaas-{{version}}.tar.gz")
        render.write(render.render(where), folder / f"v{__version__}" / "tosca")
        yield folder / f"v{__version__}" / "tosca"


@pytest.mark.parametrize("folder", [".", "catalogue/im-dashboard"])
@pytest.mark.parametrize("stem", STEMS)
def test_im_takes_a_template(stem, folder, im, files):
    asked = im.dry_run((files / folder / f"{stem}.yaml").read_text())
    assert [(machine["cpuCores"], machine["memoryInMegabytes"]) for machine in asked] == MACHINES[stem]
    assert [machine.get("publicIP", 0) for machine in asked] == ([0] if stem == "private-vm" else [1, 0][: len(asked)])


@pytest.mark.parametrize("stem", STEMS)
def test_im_makes_of_a_template_what_was_meant(stem, im, files):
    path = im.create((files / f"{stem}.yaml").read_text(), DUMMY)
    try:
        radl = im.request("GET", f"{path}/radl", DUMMY).text
        open_ports = {port.split("-")[0] for ports in re.findall(r"outports = '([^']*)'", radl) for port in ports.split(",")}
        assert open_ports == {"22/tcp", "4433/tcp", "8081/tcp"}
        assert "mlaas4hep.mlaas.site" in radl
        assert "tosca_version: 0.1.0".replace("0.1.0", __version__) in radl.replace('"', "").replace("'", "")
        outputs = im.outputs(path, DUMMY)
        assert {"server_endpoint", "inference_endpoint", "ssh_user", "node_ip"} <= outputs.keys()
        assert all(isinstance(value, str | None) for value in outputs.values()), outputs
    finally:
        assert im.request("DELETE", path, DUMMY).status_code == 200


@pytest.mark.parametrize(
    ("old", "new"), [("mlaas4hep: http", "mlaas4hep: types.yaml # http"), ("      type: integer", "      type: integer\n      display_name: x")]
)
def test_im_refuses_what_the_checks_refuse(old, new, im, files, tmp_path):
    template = (files / "vm.yaml").read_text()
    assert old in template
    answer = im.request("POST", "/infrastructures", DUMMY, template.replace(old, new, 1), dry_run="true")
    assert answer.status_code == 400, answer.text
    changed = tmp_path / "vm.yaml"
    changed.write_text(template.replace(old, new, 1))
    assert main(["tosca", "validate", str(changed)]) == 2


@pytest.fixture
def dodas(im: Manager, tmp_path: Path) -> list[str]:
    """The command of dodas with a configuration for this IM."""
    if not DODAS:
        pytest.skip("no dodas (name its program in MLAAS_TEST_DODAS; its public repository builds it)")
    example = yaml.safe_load((Path(__file__).parents[2] / "tosca/dodas/dodas.yaml").read_text())
    cloud = example["cloud"] | {"type": "Dummy"}
    config = tmp_path / "dodas.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "cloud": cloud,
                "im": {"id": "im", "type": "InfrastructureManager", "host": f"{im.url}/infrastructures", "username": "test", "password": "test"},
            }
        )
    )
    return [DODAS, "--config", str(config)]


@pytest.mark.parametrize("stem", STEMS)
def test_dodas_takes_a_template(stem, dodas, files):
    def run(*words: str) -> str:
        done = subprocess.run([*dodas, *words], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    template = str(files / f"{stem}.yaml")
    assert "Template OK" in run("validate", template)
    made = run("create", template).split("InfrastructureID:")[1].split()[0]
    assert made in run("list", "infIDs")
    assert "server_endpoint" in run("get", "output", made)
    assert f"Removed infrastracture ID:  {made}" in run("destroy", made)
