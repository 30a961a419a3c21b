import functools
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossthink.errors import UserError
from data_prep.pool import GROUP_ROWS, Pool, SourceWriter, rows_file, write_manifest
from data_prep.rows import POOL_SCHEMA, PoolRow, to_record_batch


def make_row(source, n):
    kind = "mcq" if source == "mmlu_train" else "math"
    options = {"A": f"{n}", "B": "\u00e9\n\u2028"} if kind == "mcq" else None
    return PoolRow(
        id=f"{source} {n}",
        source=source,
        domain="gpr",
        kind=kind,
        question=f"question {n}",
        options=options,
        ground_truth=["A"],
        prompt=[{"role": "user", "content": f"question {n}"}],
        prompt_tokens=n if n % 2 else None,
        meta='{"licence": "MIT"}',
    )


def write_source(path, rows, sizes):
    """Write a record batch in batches of these sizes, again and again."""
    at = 0
    with SourceWriter(path) as writer:
        while at < rows.num_rows:
            for size in sizes:
                writer.add(rows.slice(min(at, rows.num_rows), size))
                at += size


def write(folder, counts):
    folder.mkdir()
    for source, count in counts.items():
        write_source(folder / rows_file(source), to_record_batch([make_row(source, n) for n in range(count)]), [100])
    write_manifest(folder, counts, {"seed": 0})
    return folder


COUNTS = {"mmlu_train": GROUP_ROWS + 7, "math": 2 * GROUP_ROWS, "syn_qa": 3}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return Pool.open(write(tmp_path_factory.mktemp("pools") / "pool", COUNTS))


def test_rows_by_source_and_index(pool):
    assert pool.counts == COUNTS and list(pool.counts) == list(COUNTS) and len(pool) == sum(COUNTS.values())
    for source, count in COUNTS.items():
        for n in (0, 1, count // 2, count - 1):
            assert pool.row(source, n) == make_row(source, n)
    assert list(pool.rows("syn_qa")) == [make_row("syn_qa", n) for n in range(3)]
    assert [row.source for row in pool.rows()] == [source for source, count in COUNTS.items() for _ in range(count)]


def test_rows_that_are_not_there(pool):
    with pytest.raises(IndexError, match="row 3 of syn_qa, which has 3"):
        pool.row("syn_qa", 3)
    with pytest.raises(IndexError):
        pool.row("syn_qa", -1)
    with pytest.raises(KeyError):
        pool.row("numina_math", 0)


def test_the_schema_and_the_layout_are_the_contract(pool):
    assert sorted(path.name for path in pool.path.iterdir()) == [
        *("manifest.json", "math.parquet", "mmlu_train.parquet", "syn_qa.parquet")
    ]
    for source in COUNTS:
        assert pq.read_schema(pool.path / rows_file(source)).equals(POOL_SCHEMA)
    assert POOL_SCHEMA.names == [
        *("id", "source", "domain", "kind", "question", "options", "ground_truth", "prompt", "prompt_tokens", "meta")
    ]
    described = json.loads((pool.path / "manifest.json").read_text())
    assert (described["format"], described["version"], described["seed"]) == ("crossthink-pool", 2, 0)
    facts = described["pool"]
    assert (facts["sha256"], facts["rows"], facts["sources"]) == (pool.sha256, len(pool), COUNTS)
    assert list(facts["files"]) == list(COUNTS) and all(len(digest) == 64 for digest in facts["files"].values())


def test_columns_and_groups(pool):
    batches = list(pool.columns("math", ["question", "kind"]))
    assert sum(batch.num_rows for batch in batches) == COUNTS["math"]
    assert batches[0].to_pylist()[1] == {"question": "question 1", "kind": "math"}
    assert pool.groups == {"mmlu_train": ("gpr", "mcq"), "math": ("gpr", "math"), "syn_qa": ("gpr", "math")}


@functools.cache
def many_rows():
    return to_record_batch([make_row("mmlu_train", n) for n in range(17 * GROUP_ROWS + 5)])


@settings(deadline=None, max_examples=15)
@given(sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=6).filter(any))
def test_the_bytes_do_not_depend_on_how_the_rows_come(tmp_path_factory, sizes):
    folder = tmp_path_factory.mktemp("writer")
    rows = many_rows()
    write_source(folder / "whole.parquet", rows, [rows.num_rows])
    write_source(folder / "parts.parquet", rows, sizes)
    assert (folder / "parts.parquet").read_bytes() == (folder / "whole.parquet").read_bytes()
    file = pq.ParquetFile(folder / "parts.parquet")
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert sizes == [GROUP_ROWS] * 17 + [5]
    assert file.read().equals(pa.Table.from_batches([rows]))


def test_the_identity_covers_every_file_and_their_order(pool, tmp_path):
    again = Pool.open(write(tmp_path / "again", COUNTS))
    assert again.sha256 == pool.sha256
    turned = Pool.open(write(tmp_path / "turned", dict(reversed(COUNTS.items()))))
    fewer = Pool.open(write(tmp_path / "fewer", COUNTS | {"syn_qa": 2}))
    assert len({pool.sha256, turned.sha256, fewer.sha256}) == 3


def test_an_interrupted_writer_lets_go_of_its_file(tmp_path):
    with pytest.raises(RuntimeError, match="midway"), SourceWriter(tmp_path / "a.parquet") as writer:
        writer.add(to_record_batch([make_row("math", n) for n in range(10)]))
        raise RuntimeError("midway")
    assert pq.ParquetFile(tmp_path / "a.parquet").metadata.num_rows == 0  # what waited was not written as if whole


def test_what_is_no_pool_is_named(tmp_path):
    with pytest.raises(UserError, match="none is not a pool: no such folder"):
        Pool.open(tmp_path / "none")
    with pytest.raises(UserError, match="is not a pool: it has no manifest.json"):
        Pool.open(tmp_path)
    path = write(tmp_path / "pool", {"math": 2})
    manifest = json.loads((path / "manifest.json").read_text())
    for version, facts in ((1, {"file": "pool.parquet", "sources": {"math": 2}}), (99, None)):
        (path / "manifest.json").write_text(json.dumps({"version": version, "pool": facts}))
        with pytest.raises(UserError, match=f"is a pool of version {version}; this release reads 2"):
            Pool.open(path)
    for broken in ("{", "[]", "{}", '{"pool": {}}', '{"version": 2, "pool": {"sources": {"math": 2}}}'):
        (path / "manifest.json").write_text(broken)
        with pytest.raises(UserError, match="manifest.json is not the manifest of a pool"):
            Pool.open(path)
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert len(Pool.open(path)) == 2
    (path / "math.parquet").write_bytes((path / "math.parquet").read_bytes() + b"x")
    with pytest.raises(UserError, match=r"math.parquet is not the file that manifest.json describes \(SHA-256"):
        Pool.open(path)
    (path / "math.parquet").unlink()
    with pytest.raises(UserError, match="it has no math.parquet"):
        Pool.open(path)


def test_columns_of_an_empty_batch_keep_their_types():
    batch = to_record_batch([])
    assert batch.num_rows == 0 and batch.schema.equals(POOL_SCHEMA)
    assert pa.Table.from_batches([batch]).num_rows == 0


def test_a_blend_of_the_pool(pool):
    draws = pool.sampler({"math": 1.0, "syn_qa": 1.0}, seed=3).draw(200)
    assert all(pool.row(draw.source, draw.index).source == draw.source for draw in draws)
    with pytest.raises(
        UserError, match=f"draws from numina_math, which has no rows in {pool.path}. Its sources are mmlu_"
    ):
        pool.sampler({"numina_math": 1.0}, seed=0)
