"""The wheel holds one import package, and lives beside a project whose own modules have the same short names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"detector": "groundwire", "server": "groundwire/server", "training": "groundwire/training"}


def pip(*args: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *map(str, args)], check=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that leftovers of earlier builds cannot enter it and it leaves none behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata_file(names: set[str], ending: str) -> str:
    return next(name for name in names if name.split("/")[0].endswith(".dist-info") and name.endswith(ending))


def test_only_groundwire_and_its_metadata_land_in_site_packages(names):
    others = {name.split("/")[0] for name in names} - {"groundwire"}
    assert len(others) == 1
    assert others.pop().startswith("groundwire-")


def test_every_file_of_the_product_is_in_it(names):
    sources = {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("groundwire/")} == sources


def test_it_carries_its_types_and_its_licence(wheel, names):
    assert "groundwire/py.typed" in names
    with zipfile.ZipFile(wheel) as archive:
        licence = archive.read(metadata_file(names, "/LICENSE")).decode()
        metadata = archive.read(metadata_file(names, "/METADATA")).decode()
    assert licence == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "License-Expression: Apache-2.0" in metadata


def test_it_declares_the_command(wheel, names):
    entry_points = ConfigParser()
    with zipfile.ZipFile(wheel) as archive:
        entry_points.read_string(archive.read(metadata_file(names, "/entry_points.txt")).decode())
    assert entry_points["console_scripts"]["groundwire"] == "groundwire.cli:main"


def test_a_project_keeps_its_own_server_package_and_detector_module(wheel, tmp_path):
    site, project = tmp_path / "site", tmp_path / "project"
    pip("install", "--no-deps", "--target", site, wheel)
    (project / "server").mkdir(parents=True)
    (project / "server" / "__init__.py").write_text("owner = 'project'\n")
    (project / "detector.py").write_text("owner = 'project'\n")
    (project / "app.py").write_text(
        "import server, detector\n"
        "import groundwire, groundwire.server, groundwire.training, groundwire.types\n"
        "print(server.owner, detector.owner, hasattr(groundwire.server, 'owner'))\n"
        "print(groundwire.__file__, groundwire.server.__file__, groundwire.training.__file__, sep='\\n')\n"
    )
    run = subprocess.run(
        [sys.executable, "app.py"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    owners, *files = run.stdout.splitlines()
    assert owners == "project project False"
    assert [Path(file).parent for file in files] == [site / target for target in FOLDERS.values()]
