"""What can be checked of the GPU images without a GPU and without their bases.

    python docker/check_gpu_targets.py [--resolve]

Always: every base is a named tag or digest, everything that COPY takes is in the build context, entry points exist.
With --resolve, pip also answers what the installing steps of each image would install for its Python, with stand-ins in
place of what the base brings: names and versions without content. Exit code 1 where anything is wrong.

Not checked: that the bases hold what BASES says (each value names where it was read), and that anything runs.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from image_pins import COMPILED, pins
from packaging.specifiers import SpecifierSet
from project_requirements import canonical, read_project

ROOT = Path(__file__).parents[1]
GLIBC_MINOR = 39
"""Of glibc 2 in Ubuntu 24.04, on which all three bases stand."""
NOT_ON_PYPI = COMPILED | {"tensorrt-llm"}
"""As the images have them; stand-ins take their place."""
SOURCES = ("antlr4-python3-runtime",)
OF_NVIDIA_AND_PURE = ("nvidia-pytriton",)


@dataclass(frozen=True)
class Base:
    """What a base image is known to hold.

    Attributes:
        python: its Python.
        packages: version by canonical name, of what a resolution meets.
    """

    python: str
    packages: Mapping[str, str]


BASES = {
    # torch and Python: as users of the image print them. Transformer Engine: assumed; Megatron-LM
    # takes 2.9 to 2.11 at core_v0.16.1 (pyproject.toml), and its CI runs on this image.
    "megatron": Base("3.12.3", {"torch": "2.10.0a0+b558c986e8.nv25.11", "transformer-engine": "2.9.0"}),
    # Assumed: that NeMo 25.02 stands on pytorch:25.01-py3, whose torch this is, and what Apex and Transformer Engine
    # call themselves there. That it has them: users' Dockerfiles on top of it.
    "nemo": Base("3.12.3", {"torch": "2.6.0a0+ecf3bae40a.nv25.1", "apex": "0.1", "transformer-engine": "1.14.0"}),
    # torch: as a user of the image prints it. The others: as NeMo-RL locks them beside this release at 7ea279ab
    # (uv.lock); the image's own may differ, and then it is the build that says so.
    "rollout": Base(
        "3.12.3",
        {
            "aiohttp": "3.14.2",
            "anyio": "4.14.2",
            "click": "8.4.2",
            "fastapi": "0.139.2",
            "httpx": "0.28.1",
            "huggingface-hub": "1.24.0",
            "jinja2": "3.1.6",
            "numpy": "2.5.1",
            "omegaconf": "2.3.1",
            "packaging": "26.2",
            "prometheus-client": "0.25.0",
            "protobuf": "7.35.1",
            "psutil": "7.2.2",
            "pydantic": "2.13.4",
            "pydantic-core": "2.46.4",
            "pyyaml": "6.0.3",
            "requests": "2.34.2",
            "safetensors": "0.8.0",
            "starlette": "1.3.1",
            "tensorrt-llm": "1.3.0rc21",
            "tokenizers": "0.22.2",
            "torch": "2.12.0a0",
            "transformers": "5.5.4",
            "typing-extensions": "4.16.0",
            "uvicorn": "0.51.0",
        },
    ),
}


@dataclass
class Stage:
    """One stage of a Dockerfile.

    Attributes:
        name: after AS.
        base: after FROM, with the ARGs before the first FROM put in.
        steps: (instruction, rest), continuation lines joined.
    """

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def rests(self, instruction: str) -> list[str]:
        """The rests of one instruction's lines."""
        return [rest for word, rest in self.steps if word == instruction]


def read_dockerfile(text: str) -> dict[str, Stage]:
    """The stages of a Dockerfile by name: what a check of this one needs, no heredocs and no escapes."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    args: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage = None
    for line in re.sub(r"\s*\\\n\s*", " ", lines).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = Stage(name or str(len(stages)), re.sub(r"\$\{(\w+)\}", lambda found: args[found[1]], base))
            stages[stage.name] = stage
        elif word == "ARG" and stage is None:
            name, _, default = rest.partition("=")
            args[name] = default
        elif word and stage is not None:
            stage.steps.append((word, rest))
    return stages


def ignored(path: str, patterns: Iterable[str]) -> bool:
    """Whether .dockerignore keeps a path out: the last pattern that takes it, or a folder above it, decides."""
    parts = path.split("/")
    within = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    found = False
    for pattern in patterns:
        plain = re.escape(pattern.removeprefix("!").strip("/")).replace(r"\?", "[^/]")
        plain = plain.replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
        if any(re.fullmatch(plain, each) for each in within):
            found = not pattern.startswith("!")
    return found


def ignore_patterns(text: str) -> list[str]:
    """The patterns of a .dockerignore, in order."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def check_files(root: Path) -> list[str]:
    """What is wrong with the Dockerfile as a file of this repository; empty where nothing is."""
    stages = read_dockerfile((root / "Dockerfile").read_text("utf-8"))
    patterns = ignore_patterns((root / ".dockerignore").read_text("utf-8"))
    wrong = []
    for stage in stages.values():
        if stage.base not in stages and not re.search(r":(?!latest$)[\w][\w.-]*$|@sha256:[0-9a-f]{64}$", stage.base):
            wrong.append(f"{stage.name}: {stage.base} names no tag")
        for instruction, rest in stage.steps:
            for source in re.findall(r"(?:^--|,)from=([\w-]+)", rest):
                if source not in stages:
                    wrong.append(f"{stage.name}: {instruction} from={source} is no stage")
        for rest in stage.rests("COPY"):
            *sources, _ = [word for word in rest.split() if not word.startswith("--")]
            if "--from=" in rest:
                continue
            for source in sources:
                if not (root / source).exists():
                    wrong.append(f"{stage.name}: COPY {source} does not exist")
                elif ignored(source, patterns):
                    wrong.append(f"{stage.name}: COPY {source} is kept out by .dockerignore")
        for script in re.findall(r"/usr/local/lib/crossthink/([\w.]+)", " ".join(stage.rests("ENTRYPOINT"))):
            if not any(f"docker/{script}" in rest for rest in stage.rests("COPY")):
                wrong.append(f"{stage.name}: ENTRYPOINT {script} is not copied")
    if "crossthink" not in read_project(root / "pyproject.toml")["scripts"]:
        wrong.append("pyproject.toml has no script crossthink, which docker/entrypoint.sh runs")
    return wrong


def stand_in(folder: Path, name: str, version: str) -> Path:
    """A wheel with a name and a version and nothing else, for pip to meet in place of what a base image has."""
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    info = f"{stem}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def run_step(stage: Stage, base: Base, scratch: Path, step: str) -> list[dict[str, Any]]:
    """Do what one command of a RUN does to the files in `scratch`, or ask pip what it would install.

    Args:
        step: one command, without the `&&` that stood between it and the next. That which installs the sources' own
            wheel, mounted from its stage, asks no index for anything and is passed over.

    Returns:
        metadata (name, version, requires_python) of all that pip would install; empty where nothing is installed.

    Raises:
        subprocess.CalledProcessError: pip finds no way to do it, or a script refuses its arguments.
    """
    words = shlex.split(step)
    if "image_pins.py" in words:
        source = words[words.index("image_pins.py") + 1]
        given = (ROOT / copied(stage, source)).read_text("utf-8").splitlines()
        lines = pins(given, base.packages, base.packages if "--all" in words else COMPILED)
        (scratch / words[words.index(">") + 1]).write_text("\n".join(lines) + "\n")
    elif "project_requirements.py" in words:
        given_words = words[words.index("project_requirements.py") + 1 : words.index(">")]
        given_words[0] = str(ROOT / copied(stage, given_words[0]))
        done = subprocess.run(
            [sys.executable, str(ROOT / "docker/project_requirements.py"), *given_words],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        (scratch / words[words.index(">") + 1]).write_text(done.stdout)
    elif words[1:4] == ["-m", "pip", "install"]:
        for name in stage_files(stage):
            shutil.copy(ROOT / name, scratch)
        return would_install(base, scratch, [word for word in words[4:] if word != "--no-cache-dir"])
    return []


def stage_files(stage: Stage) -> list[str]:
    """The files of the repository that a stage copies before it installs."""
    return [word for rest in stage.rests("COPY") for word in rest.split()[:-1] if (ROOT / word).is_file()]


def copied(stage: Stage, name: str) -> str:
    """The file of the repository that a stage has under this name in its build folder."""
    return next(source for source in stage_files(stage) if Path(source).name == name)


def would_install(base: Base, scratch: Path, words: Sequence[str]) -> list[dict[str, Any]]:
    """What `pip install WORDS` would install for a base's Python on 64-bit Linux. Raises CalledProcessError."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--dry-run", "--ignore-installed"]
    command += ["--report", "report.json", "--target", "target", "--find-links", "wheels"]
    # pip compares Requires-Python with the Python that it runs on, whatever --python-version says.
    command += ["--python-version", base.python, "--implementation", "cp", "--ignore-requires-python"]
    older = ("manylinux2014", "manylinux2010", "manylinux1", "linux")
    platforms = [*(f"manylinux_2_{minor}" for minor in range(GLIBC_MINOR, 4, -1)), *older]
    command += [f"--platform={platform}_x86_64" for platform in platforms]
    if "--no-deps" not in words:  # pip's condition for another Python than its own
        command += ["--only-binary=:all:"]
    subprocess.run([*command, *words], cwd=scratch, capture_output=True, text=True, check=True, timeout=1800)
    report = json.loads((scratch / "report.json").read_text())
    return [item["metadata"] for item in report["install"]]


def check_resolution(stage: Stage, base: Base) -> tuple[list[str], int]:
    """Have pip answer for every installing step of a stage: what is wrong, and how many packages it would add."""
    wrong, added = [], 0
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "wheels").mkdir()
        brought = {name: base.packages[name] for name in base.packages if name in NOT_ON_PYPI}
        for name, version in brought.items():
            stand_in(scratch / "wheels", name, version)
        # On PyPI as source only, which pip does not take for another Python than its own; pure Python.
        pip_wheel = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
        sources = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if canonical(line) in SOURCES]
        subprocess.run([*pip_wheel, "--wheel-dir", str(scratch / "wheels"), *sources], check=True, timeout=600)
        for step in " && ".join(stage.rests("RUN")).split("&&"):
            try:
                found = run_step(stage, base, scratch, step.strip())
            except subprocess.CalledProcessError as error:
                lines = (error.stdout + error.stderr).strip().splitlines()
                says = [line for line in lines if not line.startswith("WARNING:")][-20:]
                return ["\n".join([f"{stage.name}: {step.strip()}:", *says])], added
            for item in found:
                name = canonical(item["name"])
                if base.python not in SpecifierSet(item.get("requires_python", "")):
                    wrong.append(f"{stage.name}: {name} {item['version']} needs Python {item['requires_python']}")
                if name in base.packages:
                    if item["version"] != base.packages[name]:
                        wrong.append(f"{stage.name}: {name} {base.packages[name]} would give way to {item['version']}")
                elif name in COMPILED or (name.startswith("nvidia-") and name not in OF_NVIDIA_AND_PURE):
                    wrong.append(f"{stage.name}: {name} {item['version']} would come beside the image's own")
                else:
                    added += 1
    return wrong, added


def main(argv: Sequence[str] | None = None) -> int:
    """Print what is wrong, a line each. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--resolve", action="store_true", help="ask pip too: several hundred MB from the package index")
    options = parser.parse_args(argv)
    wrong = check_files(ROOT)
    if options.resolve and not wrong:
        stages = read_dockerfile((ROOT / "Dockerfile").read_text("utf-8"))
        for target, base in BASES.items():
            found, added = check_resolution(stages[target], base)
            wrong += found
            print(f"{target}: {stages[target].base}, Python {base.python}: {added} packages on top, {len(found)} wrong")
    print("\n".join(wrong) or "nothing wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
