"""The playbooks: their documents, and what they have in common."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "playbooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yml"))
README = (FOLDER / "README.md").read_text()
ROLES = {path.name for path in (FOLDER.parent / "roles").iterdir() if path.is_dir()}


def load(path):
    return yaml.safe_load(path.read_text())


def test_upgrade_and_restore_run_the_roles_of_the_site_in_its_order():
    site = [(role["role"], role.get("when")) for role in load(FOLDER / "site.yml")[0]["roles"]]
    tasks = [(task["ansible.builtin.import_role"]["name"], task.get("when")) for task in load(FOLDER / "tasks" / "site.yml")]
    assert [pair for pair in site if pair in tasks] == tasks
    assert {name.rpartition(".")[2] for name, _ in site} - {name.rpartition(".")[2] for name, _ in tasks} <= {"backup"}


@pytest.mark.parametrize("name", NAMES)
def test_each_playbook_has_its_line_and_nothing_is_run_as_a_user_by_default(name):
    assert f"[{name}]({name}.yml)" in README
    for play in load(FOLDER / f"{name}.yml"):
        assert play["become"] is True
        assert play["gather_subset"] == ["!all", "!min", "distribution", "platform", "network"]


def test_each_variable_of_a_playbook_is_told_and_each_that_is_told_is_one():
    text = "".join(path.read_text() for path in FOLDER.rglob("*.yml"))
    prefixes = "|".join(set(NAMES) - ROLES)
    used = set(re.findall(rf"(?<![\w.])((?:{prefixes})(?:_[a-z]+)+)\b(?=\s*(?:\||\}}|!=|==|and\b|\n))", text)) - {"restore_archive.yml"}
    told = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) - {"destroy"}
    assert used - {"restore_undo", "restore_archive_yml"} == told


def test_the_readme_has_a_section_for_each_playbook_but_the_first():
    assert re.findall(r"^## (\w+)$", README, re.MULTILINE)[:-1] == ["smoke", "backup", "restore", "upgrade", "destroy"]
