"""The files around the package agree with each other and name nothing of the machine they were written on."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def conda_dependencies() -> list[Any]:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    dependencies: list[Any] = environment["dependencies"]
    return dependencies


def locked() -> dict[str, set[str]]:
    """Each locked package with the versions that the lock chooses from by marker."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(
        r"^([\w.-]+)==([^\s;\\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    ):
        versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions


def tracked_files() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    listed = subprocess.run(
        [git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_conda_asks_for_the_same_python() -> None:
    """environment.yml and pyproject.toml state the same lowest Python."""
    pythons = [
        entry for entry in conda_dependencies() if isinstance(entry, str) and entry.startswith("python")
    ]
    assert pythons == [f"python{project()['requires-python']}"]


def test_conda_installs_the_package_with_its_notebook_extra() -> None:
    """Only Python and pip come from conda; pip brings this package with an extra that exists."""
    names = [
        entry for entry in conda_dependencies() if isinstance(entry, str) and not entry.startswith("python")
    ]
    assert names == ["pip"]
    assert [entry for entry in conda_dependencies() if isinstance(entry, dict)] == [
        {"pip": ["-e .[notebook]"]}
    ]
    assert "notebook" in project()["optional-dependencies"]


def test_lock_satisfies_every_dependency() -> None:
    """requirements.lock fits all that pyproject.toml asks for, extras and build backend too."""
    versions = locked()
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    wanted = [*project()["dependencies"], *build]
    for extra in project()["optional-dependencies"].values():
        wanted += extra
    for requirement in map(Requirement, wanted):
        chosen = versions.get(canonicalize_name(requirement.name), set())
        assert chosen, f"{requirement.name} is not in requirements.lock: run `make lock`"
        assert all(version in requirement.specifier for version in chosen), (
            f"{requirement} but locked {chosen}"
        )


def test_dependencies_have_lower_bounds_only() -> None:
    """An upper bound would keep readers from installing paylab beside newer packages."""
    extras = project()["optional-dependencies"]
    for text in [*project()["dependencies"], *(text for extra in extras.values() for text in extra)]:
        assert [bound.operator for bound in Requirement(text).specifier] == [">="], text


def test_stubs_are_made_with_the_oldest_tools() -> None:
    """The grpcio-tools of `make protos` are the lower bound of grpcio, or older grpcio would be refused."""
    made_with = re.search(r"grpcio-tools==(\d+\.\d+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert made_with
    assert f"grpcio>={made_with[1]}" in project()["dependencies"]


def test_contributing_says_why_each_dependency() -> None:
    """Each dependency and each package of an extra is named in CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    extras = project()["optional-dependencies"]
    for requirement in map(
        Requirement, [*project()["dependencies"], *(r for extra in extras.values() for r in extra)]
    ):
        assert f"`{requirement.name}`" in text, requirement.name


def test_commands_of_the_readme_exist() -> None:
    """Every `make` command that README.md and CONTRIBUTING.md show is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    readme = set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    contributing = set(re.findall(r"`make (\w+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert {"lab", "test"} <= readme
    assert readme | contributing <= targets


def test_version_is_in_the_changelog() -> None:
    """CHANGELOG.md opens with the version that pyproject.toml states."""
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == project()["version"]


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "requirements.lock", "environment.yml", "Makefile", ".ci/run"]
)
def test_build_files_name_no_address(name: str) -> None:
    """Where packages come from is the business of the reader's own configuration."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.findall(r"\w+://\S*|--(?:extra-)?index-url\b.*|--find-links\b.*|--trusted-host\b.*", text)


def test_no_file_names_a_folder_of_some_machine() -> None:
    """No tracked file holds an absolute path into someone's home or work folder."""
    private = re.compile(r"(?<![\w.})])/(?:work|root|home|Users|opt|tmp)/\w")
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in private.finditer(text)]
    assert not found
