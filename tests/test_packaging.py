"""What leaves the checkout: the wheel finds its recipes anywhere, the images copy what they need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    line = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("slm-*.whl")
    return built


def run(*line: str | Path, cwd: Path) -> str:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}  # not our files
    done = subprocess.run(
        [str(word) for word in line], cwd=cwd, capture_output=True, text=True, check=False, env=variables
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_holds_every_file_of_the_package_and_all_recipes(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = (
        run("git", "ls-files", "src/slm", "recipes", "configs", cwd=ROOT).split() if (ROOT / ".git").exists() else []
    )
    for name in tracked:
        packed = re.sub(r"^(recipes|configs)/", r"slm/_\1/", name.removeprefix("src/"))
        assert packed in names or not (ROOT / name).exists(), f"{name} is not in the wheel"
    assert {"slm/_recipes/smoke/config.yaml", "slm/_recipes/smoke/README.md", "slm/_configs/model/300m.yaml"} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_an_installed_wheel_finds_its_recipes_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-qq",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=tmp_path,
    )
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    told = run(environment / "bin" / "slm", "explain", "recipe=smoke", "train.tokens", cwd=elsewhere).splitlines()
    assert told[0] == "train.tokens = 131072"
    assert told[1] == f"  from {site}/slm/_recipes/smoke/config.yaml"
    assert "pretrain_300m" in run(environment / "bin" / "slm", "recipes", cwd=elsewhere)
    assert "layers: 24" in run(
        python, "-m", "slm.pipeline", "recipe=pretrain_300m", "--cfg", "job", cwd=elsewhere
    )  # the piece configs/model/300m.yaml
    assert list(elsewhere.iterdir()) == []


def stages() -> dict[str, list[str]]:
    """The Dockerfile's stages by name, with their instructions; `from` first."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    found: dict[str, list[str]] = {"": []}
    for line in filter(str.strip, lines):
        started = re.fullmatch(r"FROM (\S+) AS (\S+)", line)
        if started:
            found[started[2]] = [f"from {started[1]}"]
        else:
            found[list(found)[-1]].append(line)
    return found


def test_the_images_run_as_a_plain_user_the_command_slm() -> None:
    for target, base in (("cpu", "CPU_BASE"), ("cuda", "CUDA_BASE")):
        lines = stages()[target]
        assert lines[0] == f"from ${{{base}}}"
        assert any(line.startswith(f"ARG {base}=") for line in stages()[""])
        assert lines.index("USER 1000") > max(number for number, line in enumerate(lines) if line.startswith("RUN"))
        assert 'ENTRYPOINT ["slm"]' in lines


def test_the_images_copy_only_what_exists_and_is_not_ignored_and_the_lock_before_the_source() -> None:
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in patterns if line.startswith("!")}
    for name, lines in stages().items():
        for line in lines:
            if line.startswith("COPY --from="):
                assert line.split()[1].removeprefix("--from=") in stages()
            elif line.startswith("COPY"):
                for source in line.split()[1:-1]:
                    assert (ROOT / source).exists(), f"{name}: {source}"
                    assert source in kept, f"{name}: {source} is ignored"
        if name.startswith("packages"):
            assert "COPY pyproject.toml requirements.lock ./" in lines
            assert not [line for line in lines if "src" in line]


def test_the_images_install_what_the_project_needs() -> None:
    program = re.search(r'python3 -c "(.*?)" > wanted.txt', " ".join(stages()["packages-cpu"]))
    assert program
    wanted = run(sys.executable, "-c", program[1].replace(r"\n", "\n").replace("'\n'", r"'\n'"), cwd=ROOT).splitlines()
    assert [line for line in wanted if line.startswith("torch")]
    assert len(wanted) > 10


def test_no_file_names_a_registry() -> None:
    hosts = re.compile(
        r"(index-url|find-links|registry)[ =:\"]+https?://|(pypi|pythonhosted|download\.pytorch)\.(org|com)"
    )
    tracked = run("git", "ls-files", cwd=ROOT).split() if (ROOT / ".git").exists() else []
    files = [
        ROOT / name
        for name in tracked
        if Path(name).suffix not in (".png", ".whl") and name != "tests/test_packaging.py"
    ]
    assert not [
        str(file)
        for file in files
        if file.is_file() and hosts.search(file.read_text(encoding="utf-8", errors="replace"))
    ]
