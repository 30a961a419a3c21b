"""The checker of TensorRT-LLM's signatures, on small source trees: each kind of difference is found at its line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.rollout.trtllm import check_contract
from recipes.rollout.trtllm.contract import ANY, FILE, Entry, load
from recipes.rollout.trtllm.source_tree import NO_DEFAULT
from recipes.rollout.trtllm.wanted import ATTRIBUTES, CLASS, ENUM, FUNCTION, WANTED


def write_tree(root: Path, contract: dict[str, Entry]) -> Path:
    """A source tree that says what a contract says: every class at its place."""
    classes: dict[tuple[str, str], list[str]] = {}
    for entry in contract.values():
        owner, _, method = entry.name.partition(".")
        lines = classes.setdefault((entry.path, owner), [])
        defaults = {part: "None" if value == ANY else value for part, value in entry.parts.items()}
        if entry.kind == FUNCTION:
            words = ["self"]
            for part, value in defaults.items():
                words += ["*"] * (entry.kinds.get(part) == "keyword" and "*" not in words)
                words.append(part if value == NO_DEFAULT else f"{part}={value}")
            words += ["**kwargs"] * entry.open
            lines += [f"    {'async ' * entry.is_async}def {method}({', '.join(words)}):", "        pass"]
        elif entry.kind == CLASS:
            for part, value in defaults.items():
                lines.append(f"    {part}: object" + ("" if value == NO_DEFAULT else f" = Field(default={value})"))
        elif entry.kind == ENUM:
            lines += [f"    {part} = {value}" for part, value in defaults.items()]
        elif entry.kind == ATTRIBUTES:
            lines += [f"    {part}: object" for part in defaults]
    files: dict[str, str] = {}
    for (path, owner), lines in classes.items():
        files[path] = files.get(path, "") + "\n".join([f"class {owner}:", *lines, "    pass", "", ""])
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def edit(root: Path, name: str, old: str, new: str) -> tuple[Path, int]:
    """Change one place in the file of a wanted name. Returns the file and the line."""
    path = root / next(wanted.path for wanted in WANTED if wanted.name == name)
    text = path.read_text()
    at = text.index(old, text.index(f"class {name.partition('.')[0]}"))
    path.write_text(text[:at] + new + text[at + len(old) :])
    return path, text[:at].count("\n") + 1


def run(capsys: pytest.CaptureFixture, *words: object) -> tuple[int, str]:
    code = check_contract.main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_equal_tree(tmp_path, capsys):
    code, said = run(capsys, write_tree(tmp_path, load()))
    assert code == 0, said
    assert said.count("| equal |") == len(load()) and "differs" not in said


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("AsyncLLM.collective_rpc", "method, args=()", "method, arguments=()", "has no args"),
        ("AsyncLLM.collective_rpc", "method, args=()", "method, args=None", "args has the default None, not ()"),
        ("AsyncLLM.collective_rpc", "method, args=()", "method, *, args=()", "args is keyword, not either"),
        ("AsyncLLM.collective_rpc", "method, args=()", "method, where, args=()", "needs the parameter where"),
        ("AsyncLLM.collective_rpc", "async def collective_rpc", "def collective_rpc", "no longer a coroutine function"),
        ("PyExecutor.control_action", "*, drain=True", "drain=True", "drain is either, not keyword"),
        ("BaseLLM.generate_async", "def generate_async", "async def generate_async", "is now a coroutine function"),
        ("KvCacheConfig", "enable_block_reuse: object", "block_reuse: object", "has no enable_block_reuse"),
        ("KvCacheConfig", "    dtype: object", "    size: int\n    dtype: object", "needs the field size"),
        ("CapacitySchedulerPolicy", "MAX_UTILIZATION =", "MOST =", "has no MAX_UTILIZATION"),
        ("CompletionOutput", "logprobs: object", "log_probs: object", "has no logprobs"),
        ("SleepConfig", "class SleepConfig", "class Sleep", "is not there"),
        ("GenerationResult.abort", "def abort(self)", "def cancel(self)", "is not there"),
    ],
)  # fmt: skip
def test_a_difference_is_named_at_its_line(tmp_path, capsys, name, old, new, says):
    path, line = edit(write_tree(tmp_path, load()), name, old, new)
    code, said = run(capsys, tmp_path)
    assert code == 1
    found = [text for text in said.splitlines() if says in text and f": {name}: " in text]
    assert len(found) == 1, said
    place = re.match(r"(.+\.py)(?::(\d+))?: ", found[0])
    assert place and tmp_path / place[1] == path
    if place[2]:
        lines = path.read_text().splitlines()
        start = max(n for n in range(line) if lines[n].startswith("class ") or "def " in lines[n])
        assert start <= int(place[2]) - 1 <= line + 1, "the class or method, or the line itself"
    assert said.count("| differs |") == 1


def test_open_keywords_take_what_is_not_listed(tmp_path, capsys):
    """AsyncLLM hands further keywords on, so that one more or less in its own list is no difference."""
    root = write_tree(tmp_path, load())
    edit(root, "AsyncLLM.__init__", "placement_groups=None, ", "")
    assert run(capsys, root)[0] == 0


def test_inherited_moved_and_imported_names(tmp_path, capsys):
    root = write_tree(tmp_path, load())
    path = root / "tensorrt_llm/llmapi/llm_args.py"
    text = path.read_text()
    start = text.index("class TorchLlmArgs")
    end = text.index("class KvCacheConfig")
    fields = text[start:end].splitlines()
    base = "\n".join(["class BaseLlmArgs:", *fields[1:4]])
    rest = "class TorchLlmArgs(BaseLlmArgs):\n" + "\n".join(fields[4:]) + "\n"
    path.write_text(text[:start] + rest + text[end:])
    code, said = run(capsys, root)
    assert code == 1 and "has no dtype" in said, "a base class of unknown origin is nobody's"
    path.write_text("from .base import BaseLlmArgs\n" + text[:start] + rest + text[end:])
    (root / "tensorrt_llm/llmapi/base.py").write_text(base + "\n")
    assert run(capsys, root)[0] == 0, "the base class's fields count, wherever it is"

    text = path.read_text()
    start = text.index("class ExecutorMemoryType")
    path.write_text(text[:start])
    (root / "tensorrt_llm/memory.py").write_text(text[start:])
    code, said = run(capsys, root)
    assert (
        code == 1 and "tensorrt_llm/memory.py:1: ExecutorMemoryType: moved from tensorrt_llm/llmapi/llm_args.py" in said
    )
    path.write_text("from ..memory import ExecutorMemoryType\n" + path.read_text())
    assert run(capsys, root)[0] == 0, "what is imported there can be imported from there"


def test_a_name_for_another_class(tmp_path, capsys):
    root = write_tree(tmp_path, load())
    path, _ = edit(root, "CudaGraphConfig", "class CudaGraphConfig", "class DecodeCudaGraphConfig")
    code, said = run(capsys, root)
    assert code == 1 and "CudaGraphConfig: is not there" in said
    path.write_text(path.read_text() + "CudaGraphConfig = DecodeCudaGraphConfig\n")
    assert run(capsys, root)[0] == 0
    path.write_text(path.read_text().replace("enable_padding", "padding"))
    code, said = run(capsys, root)
    assert code == 1 and "CudaGraphConfig: has no enable_padding" in said


def test_what_the_tree_does_not_have_is_no_difference(tmp_path, capsys):
    """A file that is missing says nothing; what is there is compared all the same."""
    root = write_tree(tmp_path, load())
    missing = next(wanted.path for wanted in WANTED if wanted.name == "PyExecutor")
    names = [name for name, entry in load().items() if entry.path == missing]
    (root / missing).unlink()
    code, said = run(capsys, root)
    assert code == 3 and "differs" not in said
    assert said.count("| not in this tree |") == len(names) > 1
    assert f"{len(load()) - len(names)} of {len(load())} names" in said and f"{len(names)} not in this tree." in said
    edit(root, "AsyncLLM.release", "release(self, tags)", "release(self, names)")
    code, said = run(capsys, root)
    assert code == 1 and said.count("| differs |") == 1 and said.count("| not in this tree |") == len(names)


def test_optional_names(tmp_path, capsys):
    """Absent: no difference. There, but called otherwise: one."""
    root = write_tree(tmp_path, load())
    name = "ModelLoader.abort_update_weights"
    edit(root, name, "    def reload", "    def abort_update_weights(self):\n        pass\n    def reload")
    assert run(capsys, root)[0] == 0
    edit(root, name, "abort_update_weights(self)", "abort_update_weights(self, why)")
    code, said = run(capsys, root)
    assert code == 1 and "needs the parameter why" in said


def test_write_makes_the_contract_of_a_tree(tmp_path, capsys):
    contract, made = load(), tmp_path / "contract.json"
    root = write_tree(tmp_path / "tree", contract)
    assert run(capsys, root, "--write", "--contract", made)[0] == 0
    written = load(made)
    assert run(capsys, root, "--contract", made)[0] == 0
    assert written.keys() == contract.keys()
    for name, entry in contract.items():
        known = {part: value if value != ANY else "None" for part, value in entry.parts.items()}
        assert replace(written[name], sources=(), kinds={}) == replace(entry, parts=known, sources=(), kinds={})
    edit(root, "AsyncLLM.release", "release(self, tags)", "release(self, names)")
    assert run(capsys, root, "--contract", made)[0] == 1


def test_nothing_of_the_tree_runs(tmp_path, capsys):
    root = write_tree(tmp_path, load())
    edit(root, "SamplingParams", "class SamplingParams", "raise SystemExit('run')\nclass SamplingParams")
    assert run(capsys, root)[0] == 0


def test_what_is_no_tree(tmp_path, capsys):
    assert run(capsys, tmp_path) == (
        2,
        f"{tmp_path} holds no folder tensorrt_llm: it is not a source tree of TensorRT-LLM.\n",
    )
    (write_tree(tmp_path, load()) / WANTED[0].path).write_text("def (")
    code, said = run(capsys, tmp_path)
    assert code == 2 and "is no Python source" in said


def test_the_contract_covers_all_that_is_wanted():
    contract = load()
    for wanted in WANTED:
        if not wanted.optional:
            assert set(contract[wanted.name].parts) == set(wanted.uses)
            assert contract[wanted.name].sources, "where it was read"
    assert FILE.stat().st_size < 50_000
