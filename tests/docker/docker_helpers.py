"""The repository's container files, as the tests read them; and images built and run by buildah."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from process_helpers import command_line

ROOT = Path(__file__).parents[2]
USER = "10001:10001"
LIBRARY = "/usr/local/lib/crossthink"
ENTRYPOINT = ("sh", f"{LIBRARY}/entrypoint.sh")
LIMIT_S = 3000.0


def compose_services() -> dict[str, dict[str, Any]]:
    """The services of compose.yaml."""
    return yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]


def package_index_options(folder: Path) -> list[str]:
    """Options of `buildah build` that have pip in the build ask the indexes that pip asks here.

    Args:
        folder: receives a pip.conf with the settings of files and environment together.
    """
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    settings = dict(re.findall(r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
    (folder / "pip.conf").write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    here = {Path(word.removeprefix("file://")) for value in settings.values() for word in value.split()}
    mounts = {str(path.parent if path.is_file() or path.name == "simple" else path) for path in here if path.exists()}
    options = [f"--volume={folder / 'pip.conf'}:/etc/pip.conf:ro"]
    options += [f"--volume={path}:{path}:ro" for path in sorted(mounts) if Path(path).is_absolute()]
    return [*options, f"--build-arg=TORCH_INDEX={os.environ.get('TORCH_INDEX', '')}"]


@dataclass(frozen=True)
class Image:
    """A built image with a container of it, in a storage of its own.

    Attributes:
        env: where buildah finds that storage.
        container: name of the container that commands run in, side by side.
    """

    env: dict[str, str]
    container: str

    def words(self, command: Sequence[str], volumes: dict[Path, str]) -> list[str]:
        """The command line that runs `command` in the container, as its user, on this machine's network."""
        mounts = [f"--volume={here}:{there}" for here, there in volumes.items()]
        return ["buildah", "run", f"--user={USER}", *mounts, self.container, "--", *command]

    def run(self, *command: str, volumes: dict[Path, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run `command` in the container to its end."""
        words = self.words(command, volumes or {})
        return subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=LIMIT_S)

    @contextlib.contextmanager
    def serving(self, words: Sequence[str], log: Path, volumes: dict[Path, str]) -> Iterator[None]:
        """`crossthink WORDS` in the container, from when the image's own check says healthy; SIGTERM ends it with 0."""
        with log.open("w") as handle:
            process = subprocess.Popen(
                self.words([*ENTRYPOINT, *words], volumes), env=self.env, stdout=handle, stderr=subprocess.STDOUT
            )
        try:
            until = time.monotonic() + 120
            while self.run("python3", f"{LIBRARY}/healthcheck.py", *words).returncode != 0:
                assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
            yield
            # buildah would kill what it runs, where a container engine passes the signal on.
            (server,) = (child for child in psutil.Process(process.pid).children(recursive=True) if serves(child))
            server.terminate()
            assert process.wait(timeout=60) == 0, log.read_text()[-3000:]
        finally:
            process.kill()
            process.wait()


def serves(process: psutil.Process) -> bool:
    """Whether a process is the server itself, neither the shell that became it nor a worker."""
    words = command_line(process)
    return any(word.endswith("/crossthink") for word in words) and any(word.startswith("serve-") for word in words)


@contextlib.contextmanager
def built_image(folder: Path, rootfs: str | None) -> Iterator[Image]:
    """The cpu image by docker/build_cpu.sh, in a storage below `folder` that is gone afterwards.

    Args:
        folder: empty.
        rootfs: a Debian root file system; None: debootstrap makes one.
    """
    storage = folder / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n')
    env = {
        **os.environ,
        "CONTAINERS_STORAGE_CONF": str(storage),
        "STORAGE_DRIVER": "vfs",
        "BUILDAH_ISOLATION": "chroot",
    }
    words = [str(ROOT / "docker/build_cpu.sh"), *(["--rootfs", rootfs] if rootfs else []), "--"]
    try:
        built = subprocess.run(
            [*words, *package_index_options(folder)], env=env, capture_output=True, text=True, timeout=LIMIT_S
        )
        assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-3000:]
        made = subprocess.run(
            ["buildah", "from", "--pull-never", "crossthink:cpu"], env=env, capture_output=True, text=True, check=True
        )
        yield Image(env, made.stdout.strip())
    finally:
        subprocess.run(["buildah", "rm", "--all"], env=env, capture_output=True, timeout=300)
        shutil.rmtree(folder)
