"""Refits by files: what is written is read back; what was changed, or is none of a trainer's, is refused untouched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from refit_helpers import SHAPES, sums, weights

from recipes.rollout.interface import RefitError
from recipes.rollout.refit import files
from recipes.rollout.refit.checksums import digest
from recipes.rollout.refit.files import FilesWriter
from recipes.rollout.refit.offer import DTYPES, Offer
from recipes.rollout.refit.source import Groups, read


def written(folder: Path, bucket_bytes: int = 4 * 2**20) -> FilesWriter:
    writer = FilesWriter(folder, bucket_bytes, "xxh3")
    for name, tensor in weights(1):
        writer.send(name, tensor)
    writer.finish(sums(1))
    return writer


def offer(writer: FilesWriter, announced: bool = True) -> Offer:
    specs = [(name, dtype, shape) for name, (dtype, shape) in SHAPES.items()]
    return Offer(1, "files", 1, "xxh3", specs if announced else None, 5.0, folder=str(writer.folder))


def test_what_is_written_is_read_in_place_or_anew(tmp_path: Path) -> None:
    writer = written(tmp_path)
    assert writer.folder.stat().st_mode & 0o777 == 0o700
    own = {name: torch.zeros(shape, dtype=DTYPES[dtype]) for name, (dtype, shape) in SHAPES.items()}
    own["norm"] = own["norm"].float()
    del own["scale"]
    reading = read(offer(writer), 0, own, Groups())
    found = dict(reading)
    expected = dict(weights(1))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert {name for name in found if found[name] is own.get(name)} == own.keys() - {"norm"}
    assert reading.checksum == digest(sums(1))
    assert (reading.tensors, reading.bytes) == (len(expected), sum(tensor.nbytes for tensor in expected.values()))
    assert len(list(writer.folder.glob("shard-*"))) > 2
    writer.remove()
    assert list(tmp_path.iterdir()) == [] and torch.equal(found["scale"], expected["scale"])


def flip(writer: FilesWriter) -> None:
    path = sorted(writer.folder.glob("shard-*"))[1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut_off(writer: FilesWriter) -> None:
    path = sorted(writer.folder.glob("shard-*"))[1]
    path.write_bytes(path.read_bytes()[:-8])


def link_shard(writer: FilesWriter) -> None:
    path = sorted(writer.folder.glob("shard-*"))[1]
    outside = path.rename(writer.folder.parent / "outside.safetensors")
    path.symlink_to(outside)


def edit(change: Callable[[dict], None]) -> Callable[[FilesWriter], None]:
    def apply(writer: FilesWriter) -> None:
        manifest = json.loads((writer.folder / "manifest.json").read_text())
        change(manifest)
        (writer.folder / "manifest.json").write_text(json.dumps(manifest))

    return apply


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (flip, "checksum"),
        (cut_off, "safetensors"),
        (link_shard, "no plain file"),
        (lambda writer: (writer.folder / "manifest.json").unlink(), "manifest"),
        (edit(lambda m: m["shards"].update({"../outside": []})), "no name of a shard"),
        (edit(lambda m: m["shards"].popitem()), "did not come|is not there"),
        (edit(lambda m: m["sums"].popitem()), "was not sent"),
        (edit(lambda m: m.update(shards=[])), "shards"),
        (edit(lambda m: m.update(sums=3)), "sums"),
        (edit(lambda m: m["shards"]["shard-00000.safetensors"].__setitem__(0, ["embed", "float32", [9]])), "embed"),
        (edit(lambda m: m["shards"]["shard-00000.safetensors"].append(["ghost", "float32", [9]])), "ghost"),
    ],
)  # fmt: skip
def test_damage_is_found_before_anything_is_touched(
    tmp_path: Path, damage: Callable[[FilesWriter], None], why: str
) -> None:
    writer = written(tmp_path)
    damage(writer)
    own = {name: torch.full(shape, 7.0, dtype=DTYPES[dtype]) for name, (dtype, shape) in SHAPES.items()}
    for announced in (True, False):
        with pytest.raises(RefitError, match=why):
            read(offer(writer, announced), 0, own, Groups())
    assert all(bool((tensor == 7.0).all()) for tensor in own.values())
    writer.remove()


def test_a_folder_that_is_none_of_a_trainers_is_refused(tmp_path: Path) -> None:
    writer = written(tmp_path)
    (tmp_path / "weights").symlink_to(writer.folder)
    (tmp_path / "crossthink-refit-link").symlink_to(writer.folder)
    for name in ("weights", "crossthink-refit-link", "crossthink-refit-none"):
        with pytest.raises(RefitError, match="folder"):
            read(Offer(1, "files", 1, "xxh3", None, 5.0, folder=str(tmp_path / name)), 0, None, Groups())
    writer.remove()


def test_folders_of_trainers_that_are_gone_are_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from pathlib import Path
from recipes.rollout.refit.files import FilesWriter
print(FilesWriter(Path({str(tmp_path)!r}), 1, "xxh3").folder, flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None and child.stdout is not None
    theirs = Path(child.stdout.readline().strip())
    mine = FilesWriter(tmp_path, 1, "xxh3")
    assert theirs.is_dir() and mine.folder.is_dir()
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    reused = theirs.with_name(f"{mine.folder.name.rsplit('-', 2)[0]}-1-{'0' * 32}")  # our id, another start
    reused.mkdir()
    foreign = tmp_path / f"crossthink-refit-{'0' * 12}-1-1-{'0' * 32}"  # of another machine
    foreign.mkdir()
    files.remove_abandoned(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine.folder, foreign])
    assert str(theirs) in capsys.readouterr().err
    mine.remove()


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(files.SafetensorsWriter, "write", full)
    with pytest.raises(Exception, match="No space left"):
        written(tmp_path)
