"""The documentation says what the code does."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from mlaas.cli import parser
from mlaas.workflow import Params, Workflow, parse
from tests import reference

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "mlaas").rglob("*.md"), *(ROOT / "tests").rglob("*.md")])


def test_the_reference_is_current():
    assert reference.PATH.read_text() == reference.reference(), "mlaas/REFERENCE.md is not current: make docs"


def test_every_flag_parameter_and_setting_is_explained():
    for stage in reference.commands():
        assert stage.description
        assert "example" in (stage.epilog or "")
        assert all(action.help for action in reference.shown(stage)), stage.prog
    assert all(field.description for field in Params.model_fields.values())


@pytest.mark.parametrize("stage", reference.commands(), ids=lambda stage: stage.prog)
def test_the_example_of_each_command_parses(stage):
    example = stage.epilog.removeprefix("example:\n").strip()
    assert f"{example} ".startswith(f"{stage.prog} ")
    assert parser().parse_args(shlex.split(example)[1:]).command == stage.prog.split()[1]


def test_the_commands_in_the_readme_parse():
    lines = [line.split("   ")[0] for line in re.findall(r"^    (mlaas .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)]
    assert len(lines) >= 4
    for line in lines:
        parser().parse_args(shlex.split(line)[1:])


def test_the_workflow_in_the_readme_is_valid():
    text = (ROOT / "README.md").read_text()
    params, preproc = re.search(r'\{"branch"[^}]*\}', text), re.search(r'\{"new_branch"[^`]*?\}\}\}', text)
    assert params
    assert preproc
    workflow = parse(
        {"files": ["a"], "labels": [1], "model": "model.py", "params": json.loads(params.group()), "preproc": json.loads(preproc.group())}
    )
    assert isinstance(workflow, Workflow)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
        file = (page.parent / target) if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_in_the_map_exist(page):
    for name in re.findall(r"^    ((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:md|sh|py))\s{2,}", page.read_text(), re.MULTILINE):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_the_make_targets_in_the_docs_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"\bmake ([a-z]+)\b(?=`|   )", page.read_text())) <= targets, page.name
