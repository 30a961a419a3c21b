"""docs/data.md shows how to add a source: what stands there must work as it stands."""

import json
import re
from pathlib import Path

import yaml

from conf.prep import PrepConfig, SourceConfig
from data_prep import prep
from data_prep.pool import Pool
from data_prep.sources import SOURCES

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")


def code(language: str) -> str:
    """The page's last block in `language`."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[-1]


def test_the_source_of_the_docs(monkeypatch, tmp_path):
    namespace: dict = {}
    exec(code("python"), namespace)
    monkeypatch.setitem(SOURCES, "gsm8k", namespace["SOURCE"])
    assert list(yaml.safe_load(code("yaml"))) == list(SourceConfig.__dataclass_fields__)
    rows = [{"question": "2+2?", "answer": "Add.\n#### 4"}, {"question": "Why?", "answer": "because"}]
    file = tmp_path / "gsm8k.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prep.run(PrepConfig(out=str(tmp_path / "pool"), sources={"gsm8k": SourceConfig(path=str(file))}))
    pool = Pool.open(tmp_path / "pool")
    assert [(row.kind, row.ground_truth) for row in pool.rows()] == [("math", ["4"])]
    assert pool.manifest["sources"]["gsm8k"]["steps"][0]["dropped"] == {"no_final_answer": 1}
