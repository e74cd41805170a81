"""The repository as a whole: what is installed, what is named twice, what a wheel carries."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import notebooks
import pytest
import yaml

import diffbook

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "diffbook"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
IGNORED = {".git", ".venv", "_build", "build", "dist", "runs", "__pycache__", "vendor"}


def own_files(*suffixes: str) -> list[Path]:
    """The repository's files by suffix, without what is built, installed or vendored."""
    return [
        path
        for path in ROOT.rglob("*")
        if path.suffix in suffixes
        and not IGNORED & set(path.relative_to(ROOT).parts)
        and not any(part.endswith((".egg-info", "_cache")) for part in path.parts)
    ]


def names(lines: list[str]) -> dict[str, str]:
    """Requirement lines as {normalized name: rest}."""
    found = {}
    for line in lines:
        match = re.match(r"([A-Za-z0-9][\w.-]*)(?:\[[\w,]+\])?\s*(.*)", line.split("#")[0].strip())
        if match:
            found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2].strip()
    return found


def requirements(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return names([line for line in lines if not line.startswith(("-", "#"))])


# ---------------------------------------------------------------- one place for each fact


def test_repository_and_site_address_are_the_configured_ones():
    url, site = CONFIG["repository"]["url"], CONFIG["html"]["baseurl"]
    repository = url.removeprefix("https://github.com/")
    name = repository.split("/")[1]
    wrong, seen = [], 0
    for path in own_files(".md", ".toml", ".yml", ".cff", ".ipynb", ".py"):
        text = path.read_text(encoding="utf-8")
        for found in re.findall(rf"github(?:\.com)?/([\w-]+/{name})\b", text):
            seen += 1
            wrong += [(path.name, found)] if found != repository else []
        for found in re.findall(rf"https://[\w-]+\.github\.io/{name}/", text):
            seen += 1
            wrong += [(path.name, found)] if found != site else []
    assert wrong == [] and seen > 10


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["project"]["version"] == diffbook.__version__ == str(citation["version"])


def test_pins_are_exact_and_agree():
    pinned = requirements("requirements.txt") | requirements("requirements-test.txt")
    held = requirements("constraints.txt")
    loose = {n: rest for n, rest in (pinned | held).items() if not re.fullmatch(r"==[\w.]+", rest)}
    assert loose == {}
    assert set(pinned) & set(held) == set(), "pinned in two places"
    assert pinned["torch"] == "==2.13.0"


def test_what_the_package_declares_is_what_it_imports():
    declared = set(names(PROJECT["project"]["dependencies"]))
    groups = PROJECT["project"]["optional-dependencies"].values()
    optional = {name for group in groups for name in names(group)}
    imported = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    alias = {"PIL": "pillow"}
    foreign = {alias.get(n, n).replace("_", "-").lower()
               for n in imported - set(sys.stdlib_module_names)}
    foreign -= {"diffbook", "ipython", "cycler"}  # come with ipywidgets and matplotlib
    assert foreign - declared - optional == set(), "imported but not declared"
    assert declared - foreign - {"huggingface-hub"} == set(), "declared but not imported"
    assert declared <= set(requirements("requirements.txt"))


def test_package_imports_go_one_way():
    """mechanism -> model -> run -> measure -> record -> page: nothing lower imports higher."""
    order = [
        {"attention", "blockwise", "rope", "signals"},
        {"model"},
        {"data", "tasks"},
        {"train"},
        {"measure"},
        {"records"},
        {"experiments"},
        {"check"},
        {"grade"},
        {"show"},
        {"cli", "__main__", "__init__"},
    ]
    level = {name: number for number, layer in enumerate(order) for name in layer}
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [f"{node.module}.{a.name}" for a in node.names]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            for module in modules:
                parts = module.split(".")
                if parts[0] == "diffbook" and len(parts) > 1:
                    other = parts[1]
                    if own in level and other in level and level[other] > level[own]:
                        wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert wrong == []


# ---------------------------------------------------------------- what gets installed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel that pip builds from the repository (from a copy, so that nothing is left here)."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-text"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE, source / "diffbook", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
               "--wheel-dir", str(folder), str(source)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_wheel_holds_all_of_the_package(wheel):
    inside = set(wheel.namelist())
    files = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files - inside == set()
    assert {name for name in inside if name.startswith("diffbook/")} - files == set()


def test_wheel_holds_texts_records_and_checkpoints(wheel):
    inside = wheel.namelist()
    for pattern in (
        r"diffbook/data/corpus/.*\.xz",
        r"diffbook/records/[\w-]+\.json",
        r"diffbook/records/checkpoints/.*\.safetensors",
    ):
        assert any(re.fullmatch(pattern, name) for name in inside), pattern


def test_installed_wheel_finds_its_own_files(wheel, tmp_path):
    """As on Colab: outside of the repository, from the unpacked wheel alone."""
    wheel.extractall(tmp_path / "site")
    script = """
import diffbook, pathlib, sys
from diffbook import records
from diffbook.tasks.text import TextTask
assert pathlib.Path(diffbook.__file__).is_relative_to(sys.argv[1]), diffbook.__file__
shipped = 0
for name in records.available():
    for run in records.load(name).runs:
        if run.checkpoint:
            records.model(f"{name}/{run.variant}-{run.seed}")
            shipped += 1
assert shipped >= 2 and TextTask(seq_len=32) is not None
print("fine")
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "site")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "fine\n", done.stderr


def test_wheel_brings_nothing_else(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"diffbook", f"diffbook-{diffbook.__version__}.dist-info"}
    metadata = wheel.read(f"diffbook-{diffbook.__version__}.dist-info/METADATA").decode()
    assert "Requires-Python: >=3.11" in metadata
    assert re.search(r"^Requires-Dist: torch>=2", metadata, re.M)  # Colab's own torch stays


# ---------------------------------------------------------------- the rest


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "LICENSE-text"])
def test_relative_links_of_the_front_matter(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
    links += re.findall(r"(?<![\w/.])((?:_extra|diffbook|scripts|tests|book)/[\w/.]*\w)", text)
    assert [link for link in links if "NN_name" not in link and not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "book/course.md"])
def test_every_chapter_is_named_where_readers_choose(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [p.name for p in notebooks.chapters() if f"{p.name})" not in text] == []


def test_every_make_target_is_explained():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split())
    explained = set(re.findall(r"^([a-z-]+):.*## \w", makefile, re.M))
    assert targets == explained


def test_site_colors_are_the_figures_colors():
    from diffbook import show

    logo = (ROOT / "_static" / "logo.svg").read_text(encoding="utf-8")
    assert show.COLORS["diff"] in logo and show.COLORS["transformer"] in logo


def test_repository_stays_light():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout: nothing says which files belong to the repository")
    sizes = {
        n: (ROOT / n).stat().st_size for n in listed.stdout.split("\0") if (ROOT / n).is_file()
    }
    assert max(sizes.values()) < 6 * 2**20, max(sizes, key=sizes.get)
    assert sum(sizes.values()) < 48 * 2**20


def test_source_parses_on_the_oldest_python():
    for path in own_files(".py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 11))
    assert PROJECT["project"]["requires-python"] == ">=3.11"
