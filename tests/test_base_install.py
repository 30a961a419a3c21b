"""The bare install: data preparation and the reward server, without torch."""

from __future__ import annotations

import json
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
MATH_ROW = {"problem": "1+1?", "level": 3, "type": "Algebra", "solution": "$\\boxed{2}$"}


def test_base_install_alone(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    bin_folder = tmp_path / "venv" / "bin"

    def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [bin_folder / words[0], *words[1:]], capture_output=True, text=True, cwd=tmp_path, timeout=240
        )
        assert done.returncode == code, done.stderr[-2000:]
        return done

    run("pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt"), str(ROOT))
    installed = run("pip", "list", "--format=freeze").stdout.lower()
    assert "torch==" not in installed and "transformers==" not in installed and "megatron" not in installed
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(MATH_ROW) + "\n")
    run("crossthink", "prep", "sources=[math]", f"sources.math.path={rows}", "out=pool")
    assert (tmp_path / "pool" / "math.parquet").is_file()
    assert "pip install 'crossthink[train]'" in run("crossthink", "train", "recipe=tiny", "out=run", code=1).stderr
    asked = run("crossthink", "eval", "endpoint=http://127.0.0.1:9/v1", "data=pool", "out=eval", code=1)
    assert "pip install 'crossthink[eval]'" in asked.stderr
    run("crossthink", "doctor")
    judged = run("python", "-c", JUDGE)  # the server's log shares its stderr
    assert json.loads(judged.stdout.splitlines()[-1]) == ["correct", "wrong"]


JUDGE = """
import json, os, subprocess, sys, pathlib
port_file = pathlib.Path("port")
server = subprocess.Popen(
    [str(pathlib.Path(sys.executable).parent / "crossthink"), "serve-reward", "port=0"],
    stdout=subprocess.PIPE, text=True, env={**os.environ, "CROSSTHINK_PORT_FILE": "port"})
try:
    server.stdout.readline()
    from reward_server.client import RewardClient
    from reward_server.verdicts import Item
    with RewardClient([f"http://127.0.0.1:{port_file.read_text().strip()}"], 30) as client:
        items = [Item(str(n), "math", r"<think>x</think>\\boxed{\\frac{%d}{4}}" % n, ("0.5",)) for n in (2, 3)]
        print(json.dumps([verdict.status for verdict in client.score(items)]))
finally:
    server.terminate()
    server.wait()
"""
