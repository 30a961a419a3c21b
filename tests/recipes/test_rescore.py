"""`crossthink rescore`: dumps written by a run's own writer, judged again by the real rules."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.blend import BlendConfig
from conf.compose import to_yaml
from conf.reward import RescoreConfig, ShapingConfig
from conf.train import ModelConfig, TrainConfig
from crossthink.errors import ConfigError, UserError
from data_prep.rows import PoolRow
from recipes import rescore
from recipes.cli import main
from recipes.rescoring.dump import ranges
from recipes.rescoring.markdown import LONGEST, code
from recipes.rl.batch import Prompt, RolloutBatch, Sample
from recipes.rl.records import Records
from recipes.rollout.interface import Response
from recipes.run_folder import record_manifest
from reward_server.local import LocalJudge
from reward_server.verdicts import Item, rules_hash

OPTIONS = {"A": "Paris", "B": "Rome"}
# (kind, ground truth, box), and whether `exact` and `equivalent` find the box right
ANSWERS = [
    ("math", "0.5", r"\frac{1}{2}", False, True),
    ("math", "5", "5", True, True),
    ("math", "5", "6", False, False),
    ("mcq", "A", "A", True, True),
    ("mcq", "A", "Paris", False, True),
    ("open", "Rome", "rome.", False, True),
    ("math", "|a|", "a|`\n", False, False),
]


def row(kind: str, gold: str, number: int) -> PoolRow:
    options = OPTIONS if kind == "mcq" else None
    messages = [{"role": "user", "content": "?"}]
    return PoolRow(f"{number:032x}", f"source-{kind}", "math", kind, "?", options, [gold], messages)


@pytest.fixture(scope="module")
def judge():
    with LocalJudge("exact", workers=1) as judge:
        yield judge


def make_run(folder: Path, judge: LocalJudge, steps: int = 3, opening: str = "<think>") -> Path:
    """A run folder whose samples were judged by `exact`, two of each group, written as a run writes it."""
    config = TrainConfig(out=str(folder), model=ModelConfig(name="tiny"), blend=BlendConfig(name="pool", provenance=""))
    config.reward.match, config.reward.think_prefilled = "exact", not opening
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    record_manifest(folder, {"rules_hash": rules_hash("exact"), "match": "exact"})
    records = Records(folder, 0)
    for step in range(1, steps + 1):
        samples = []
        for number, (kind, gold, box, *_) in enumerate(ANSWERS):
            pool_row = row(kind, gold, number)
            for sample in range(2):
                text = f"{opening}so</think> \\boxed{{{box}}}"
                item = Item("x", kind, text, (gold,), tuple(OPTIONS.items()) if kind == "mcq" else None)
                (verdict,) = judge.score([replace(item, think_prefilled=not opening)])
                response = Response([1, 2, 3], [0.0, 0.0, 0.0], "stop", step)
                samples.append(Sample(Prompt(pool_row, "?", (7,)), sample, response, text, verdict))
        records.step({"step": step, "seconds": {}}, RolloutBatch(samples, 2))
    records.close()
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, judge: LocalJudge) -> Path:
    return make_run(tmp_path_factory.mktemp("made") / "run", judge)


@pytest.fixture
def run(tmp_path: Path, made: Path) -> Path:
    return shutil.copytree(made, tmp_path / "run")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the run itself."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "rescore" not in path.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def again(run: Path, **fields: object) -> dict:
    """Score a run again. Returns the summary."""
    config = RescoreConfig(run=str(run), workers=1, **fields)
    rescore.run(config)
    out = Path(config.out or run / "rescore" / rules_hash(config.match, config.shaping))
    return json.loads((out / "summary.json").read_text())


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]


def edit(run: Path, step: int, number: int, change: object) -> Path:
    """Change one line of a dump: by a function of its JSON object, or to a text."""
    path = run / "rollouts" / f"step_{step:06d}.jsonl"
    text = path.read_text().split("\n")
    text[number - 1] = change if isinstance(change, str) else json.dumps(change(json.loads(text[number - 1])))
    path.write_text("\n".join(text))
    return path


def without(name: str):
    return lambda line: {key: value for key, value in line.items() if key != name}


def test_exact_against_equivalent(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(run)
    summary = again(run, show=3)
    out = run / "rescore" / rules_hash("equivalent")
    won = sum(equivalent and not exact for *_, exact, equivalent in ANSWERS)
    count = 6 * len(ANSWERS)
    assert digests(run) == before and {path.name for path in run.iterdir()} >= {"rescore", "rollouts"}
    assert {path.name for path in out.iterdir()} == {"verdicts.jsonl", "summary.json", "summary.md"}
    assert (summary["samples"], summary["changed"], summary["without_old_verdict"]) == (count, 6 * won, 0)
    assert summary["status"] == [
        {"old": "wrong", "new": "wrong", "samples": 6 * 2},
        {"old": "wrong", "new": "correct", "samples": 6 * won},
        {"old": "correct", "new": "correct", "samples": 6 * 2},
    ]
    assert summary["disagreement"] == {
        "compared": count, "right_to_wrong": 0, "wrong_to_right": 6 * won, "rate": won / len(ANSWERS),
    }  # fmt: skip
    assert summary["reward"]["old"] == pytest.approx(2 / 7) and summary["reward"]["new"] == pytest.approx(5 / 7)
    assert summary["reward"]["by_step"]["2"]["samples"] == 2 * len(ANSWERS)
    assert summary["reward"]["by_kind"]["mcq"] == {"samples": 12, "old": 0.5, "new": 1.0}
    assert summary["rules_hash"] == {"old": rules_hash("exact"), "new": rules_hash("equivalent")}
    found = lines(out)
    assert [(one["step"], one["sample"]) for one in found] == [(s, n % 2) for s in (1, 2, 3) for n in range(14)]
    for one, (*_, exact, equivalent) in zip(found, [a for _ in range(3) for a in ANSWERS for _ in "ab"], strict=True):
        assert (one["old"]["accuracy"], one["new"]["accuracy"]) == (int(exact), int(equivalent))
        assert one["changed"] == (exact != equivalent)
    shown = summary["examples"]
    assert len(shown) == 3 and shown[0]["new"]["extracted"] == r"\frac{1}{2}" and shown[0]["ground_truth"] == ["0.5"]
    assert shown[0]["steps"][-1]["result"] == "correct" and len(shown[0]["steps"]) > 4
    stdout, stderr = capsys.readouterr()
    assert stdout == (out / "summary.md").read_text()
    for part in (f"{count} samples of 3 steps, {6 * won} changed", "exact and equivalent disagree on 42.9 %"):
        assert part in stdout
    assert "| wrong | correct | 18 |" in stdout and r"`\frac{1}{2}`" in stdout and "wrong → correct" in stdout
    assert "3 of 3 steps, 42 samples" in stderr


def test_the_same_rules_change_nothing(run: Path) -> None:
    summary = again(run, match="exact")
    assert summary["changed"] == 0 and summary["examples"] == [] and summary["disagreement"] is None


def test_a_finished_output_is_left_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again(run)
    out = run / "rescore" / rules_hash("equivalent")
    page = capsys.readouterr().out
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    assert main(["rescore", f"run={run}"]) == 0
    found = capsys.readouterr()
    assert found.out == page and "was finished before" in found.err
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()} == before
    with pytest.raises(ConfigError, match=r"holds the steps 1-3, and 1, 3 are asked for"):
        again(run, steps=[1, 3])
    with pytest.raises(ConfigError, match=r"made with think_prefilled=False, not True"):
        again(run, think_prefilled=True)
    edit(run, 2, 1, lambda line: {**line, "response": "another"})
    with pytest.raises(ConfigError, match=r"another dump of step 2"):
        again(run)
    assert again(run, out=str(run.parent / "elsewhere"))["samples"] == 42


def test_some_steps(run: Path) -> None:
    summary = again(run, steps=[3, 1, 3], out=str(run.parent / "some"))
    assert summary["steps"] == [1, 3] and list(summary["reward"]["by_step"]) == ["1", "3"]


def test_shaping(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shaping = ShapingConfig(format_credit=0.25, length_penalty=0.5, length_free=1, length_limit=5)
    shaping.source_weights = {"source-math": 2.0}
    words = [f"run={run}", "match=exact", "shaping.format_credit=0.25", "shaping.length_penalty=0.5"]
    words += ["shaping.length_free=1", "shaping.length_limit=5", "shaping.source_weights={source-math:2.0}"]
    assert main(["rescore", *words, "workers=1", "show=1"]) == 0
    out = run / "rescore" / rules_hash("exact", shaping)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["shaping"] == {"old": {}, "new": asdict(shaping)} and summary["changed"] == 12
    # Three tokens cost half of the penalty: 1 - 0.25 for a right answer, 0.25 - 0.25 for a wrong one.
    assert {(one["kind"], one["new"]["reward"]) for one in lines(out)} == {
        ("math", 1.5), ("math", 0.0), ("mcq", 0.75), ("mcq", 0.0), ("open", 0.0),
    }  # fmt: skip
    assert "format_credit 0.25" in capsys.readouterr().out
    for number, name, field in ((2, "token_ids", "response_tokens"), (1, "source", "source")):
        edit(run, 1, number, without(name))
        with pytest.raises(UserError, match=rf"step_000001\.jsonl:{number}: {field}: is missing, and shaping"):
            again(run, shaping=replace(shaping, format_credit=0.5))


def test_a_dump_without_verdicts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(run, 1, 1, without("verdict"))
    edit(run, 1, 2, lambda line: {**line, "verdict": None})
    summary = again(run)
    assert summary["without_old_verdict"] == 2 and summary["changed"] == 16
    assert summary["status"][0] == {"old": None, "new": "correct", "samples": 2}
    page = capsys.readouterr().out
    assert "2 of them have no verdict in the dump" in page and "| (no verdict) | correct | 2 |" in page
    one = lines(run / "rescore" / rules_hash("equivalent"))[0]
    assert one["old"] is None and one["changed"] is None


def test_prefilled_thinking_is_taken_from_the_run(tmp_path: Path, judge: LocalJudge) -> None:
    run = make_run(tmp_path / "run", judge, steps=1, opening="")
    assert again(run)["reward"]["new"] == pytest.approx(5 / 7)
    told = {"think_prefilled": False, "out": str(tmp_path / "out")}
    assert {one["new"] for one in again(run, **told)["status"]} == {"bad_format"}
    (run / "config.yaml").unlink()
    (run / "manifest.json").unlink()
    with pytest.raises(ConfigError, match=r"holds no config.yaml.*think_prefilled=true"):
        again(run)
    summary = again(run, think_prefilled=True, out=str(tmp_path / "other"))
    assert summary["rules_hash"]["old"] is None and summary["match"]["old"] is None


def test_any_text(run: Path) -> None:
    nasty = "<think>\ud800\x00</think>\\boxed{|`\u2028</script>\n}"
    edit(run, 1, 1, lambda line: {**line, "response": nasty, "ground_truth": ["|`\ud800", "\n"], "prompt_id": "`|\n"})
    path = edit(run, 1, 3, lambda line: {**line, "response": r"<think></think>\boxed{" + "9" * 5000 + "}"})
    assert path.read_bytes().count(b"\n") == 14
    assert again(run, show=1000)["samples"] == 42
    page = (run / "rescore" / rules_hash("equivalent") / "summary.md").read_text("utf-8")
    assert "\u2028" not in page and "\x00" not in page


DAMAGED = {
    "cut off": ('{"step": 1, "prom', "is not JSON"),
    "empty": ("", "is not JSON"),
    "no object": ("[1]", "expected a JSON object"),
    "bytes": ('{"step": "\\', "is not JSON"),
    "nested": ("[" * 100_000, "recursion"),
    "no response": (without("response"), "response: is missing"),
    "no ground truth": (without("ground_truth"), "ground_truth: is missing"),
    "no prompt": (without("prompt_id"), "prompt_id: is missing"),
    "no step": (without("step"), "step: is missing"),
    "another step": (lambda line: {**line, "step": 7}, "step: 7 stands in the file of step 1"),
    "a step that is none": (lambda line: {**line, "step": True}, "step: true is not a whole number"),
    "an unknown kind": (lambda line: {**line, "kind": "essay"}, 'kind: "essay" is not one of mcq, open, math'),
    "a damaged verdict": (lambda line: {**line, "verdict": {"reward": 1}}, "verdict: .* is no verdict"),
    "a verdict that cannot be": (
        lambda line: {**line, "verdict": {**line["verdict"], "status": "error"}},
        "verdict: reward: .* does not go with status error",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_line_is_named_and_nothing_is_left(run: Path, name: str) -> None:
    change, said = DAMAGED[name]
    edit(run, 1, 5, change)
    before = digests(run)
    with pytest.raises(UserError, match=rf"rollouts/step_000001\.jsonl:5: .*{said}"):
        again(run)
    assert digests(run) == before and not list((run / "rescore").iterdir())


def test_what_was_begun_before_a_damaged_step_is_removed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(run, 3, 14, "{")
    with pytest.raises(UserError, match=r"step_000003\.jsonl:14: is not JSON"):
        again(run)
    assert "2 of 3 steps" in capsys.readouterr().err and not list((run / "rescore").iterdir())


def test_too_long_for_the_rules(run: Path) -> None:
    edit(run, 1, 1, lambda line: {**line, "response": "x" * 1_000_001})
    said = r"step_000001\.jsonl, line 1 and after: items\[0\]\.response: 1000001 characters"
    with pytest.raises(UserError, match=said):
        again(run)


def test_nothing_to_score(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere does not exist"):
        again(tmp_path / "nowhere")
    (tmp_path / "empty" / "rollouts").mkdir(parents=True)
    (tmp_path / "empty" / "rollouts" / "step_one.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"empty holds no rollouts"):
        again(tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"step 4 was not dumped. Dumped are 1-3\."):
        again(run, steps=[1, 4])
    for path in (run / "config.yaml", run / "manifest.json"):
        kept = path.read_text()
        for text in ("[1]", "{"):
            path.write_text(text)
            with pytest.raises(UserError, match=rf"{path.name} (cannot be read|holds \[1\])"):
                again(run)
        path.write_text(kept)


def test_impossible_values(run: Path, tmp_path: Path) -> None:
    for fields, said in (
        ({"match": "fuzzy"}, "match=fuzzy is not one of equivalent, exact"),
        ({"show": -1}, "show=-1"),
        ({"deadline_s": 0}, "deadline_s=0"),
        ({"shaping": ShapingConfig(format_credit=2)}, "shaping.format_credit=2"),
        ({"out": str(run)}, "holds no rescore"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            again(run, **fields)
    with pytest.raises(ConfigError, match="workers=0"):
        rescore.run(RescoreConfig(run=str(run), workers=0))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="Choose another out="):
        again(run, out=str(tmp_path / "file" / "below"))


def test_no_torch_is_needed(run: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        f"from recipes.cli import main; sys.exit(main(['rescore', 'run={run}', 'steps=[1]', 'workers=1']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@given(st.text())
def test_inline_code_is_one_line_and_ends_where_it_should(text: str) -> None:
    shown = code(text)
    assert not re.search(r"[\n\r\x00-\x1f\ud800-\udfff]", shown) and len(shown) < 10 * LONGEST
    fence = re.match("`+", shown)[0]
    assert shown.endswith(fence) and fence not in re.split(f"(?<!`){fence}(?!`)", shown)[1]


@given(st.sets(st.integers(0, 30)))
def test_ranges_name_every_number_once(numbers: set[int]) -> None:
    named = []
    for part in filter(None, ranges(sorted(numbers)).split(", ")):
        first, _, last = part.partition("-")
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(numbers)
