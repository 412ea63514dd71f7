"""What is published holds everything that the package reads at run time."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "--directory", str(folder)], cwd=ROOT, check=True, capture_output=True)
    return folder


def package_files():
    """Every file of the package that is not Python's own by-product."""
    paths = (path for path in (ROOT / "mlaas").rglob("*") if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."))
    return {str(path.relative_to(ROOT)) for path in paths}


def test_the_wheel_holds_every_file(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert package_files() <= names
        metadata = next(name for name in names if name.endswith("METADATA"))
        text = archive.read(metadata).decode()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "mlaas/demo/files/model.py" in names
    for extra in ("keras", "torch", "xgboost", "xrootd", "s3", "all"):
        assert f"Provides-Extra: {extra}" in text


def test_the_source_distribution_holds_what_the_targets_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert package_files() | {"README.md", "LICENSE", "Makefile", "bootstrap.sh", "pyproject.toml", "tests/conftest.py"} <= names


def test_the_wheel_works_from_where_it_is_unpacked(built, tmp_path):
    """Data files are found by their package, not by the place of a clone."""
    (wheel,) = built.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "site", "zip")
    run = "import mlaas.cli as cli; assert 'site' in cli.__file__; sys.exit(cli.main(['generate', 'd', '--events=20']))"
    code = f"import sys; sys.path.insert(0, 'site'); {run}"
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert {"signal.root", "background.root", "model.py", "params.json"} <= {path.name for path in (tmp_path / "d").iterdir()}
