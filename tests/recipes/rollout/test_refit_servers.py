"""Refits of real server processes over gloo and by files: all at once, with some of them failing in every way."""

from __future__ import annotations

import datetime
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from refit_helpers import BUCKET, SHAPES, Receiver, run_actor, sums, weights

from recipes.rollout.interface import RefitError
from recipes.rollout.refit.checksums import digest
from recipes.rollout.refit.sender import RefitReport, WeightSender

pytestmark = pytest.mark.timeout(120)
BYTES = sum(tensor.nbytes for _, tensor in weights(0))


@pytest.fixture(scope="module")
def receivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Receiver]]:
    """Two servers; a test that ends one starts it again."""
    folder = tmp_path_factory.mktemp("receivers")
    started = [Receiver(folder / f"{number}.txt") for number in range(2)]
    try:
        yield [receiver.up() for receiver in started]
    finally:
        for receiver in started:
            receiver.end()


@pytest.fixture(scope="module", autouse=True)
def lone_rank() -> Iterator[None]:
    dist.init_process_group(
        "gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=datetime.timedelta(seconds=60)
    )
    yield
    dist.destroy_process_group()


@pytest.fixture
def sender(receivers: list[Receiver]) -> Iterator[WeightSender]:
    sender = WeightSender([receiver.url for receiver in receivers], bucket_bytes=BUCKET, deadline_s=20.0)
    yield sender
    sender.close()


def refit(sender: WeightSender, version: int) -> RefitReport:
    return sender.refit(lambda: weights(version), version)


def has(receiver: Receiver, version: int) -> bool:
    state = receiver.state()
    return state["version"] == version and state["sums"] == sums(version)


def back(sender: WeightSender, stopped: Receiver) -> None:
    """Let a server that was stopped go on, and refit it; it may first be busy with giving up."""
    stopped.process.send_signal(signal.SIGCONT)
    if refit(sender, 3).lost:
        assert refit(sender, 3).lost == {}


def test_refits_share_a_group_and_write_in_place(receivers: list[Receiver], sender: WeightSender) -> None:
    urls = [receiver.url for receiver in receivers]
    first, second = refit(sender, 1), refit(sender, 2)
    assert first.servers == second.servers == urls and first.lost == second.lost == {}
    assert second.transport == dict.fromkeys(urls, "collective")
    assert (first.version, first.bytes, first.checksum) == (1, BYTES, digest(sums(1)))
    assert second.checksum == digest(sums(2))
    for receiver in receivers:
        assert has(receiver, 2)
        state = receiver.state()
        assert set(state["in_place"]) == SHAPES.keys() - {"norm"} and len(state["groups"]) == 1
    before = receivers[0].state()["groups"]
    refit(sender, 3)
    assert [receiver.state()["groups"] for receiver in receivers] == [before, before]


def test_the_others_go_on_without_a_server_that_is_killed_and_take_it_back(
    receivers: list[Receiver], sender: WeightSender, capfd: pytest.CaptureFixture[str]
) -> None:
    victim, other = receivers
    refit(sender, 1)
    group = other.state()["groups"]
    victim.tell(die_after=2)
    calls = 0

    def counted() -> object:
        nonlocal calls
        calls += 1
        return weights(2)

    report = sender.refit(counted, 2)  # type: ignore[arg-type]
    assert report.servers == [other.url] and list(report.lost) == [victim.url] and has(other, 2)
    assert calls == 2 and report.bytes == BYTES
    assert f"{victim.url} is left out from version 2 on" in capfd.readouterr().err
    assert victim.process.wait(20) == -signal.SIGKILL
    report = refit(sender, 3)  # while it is down
    assert report.servers == [other.url] and "ConnectError" in report.lost[victim.url]
    victim.end()
    victim.start()
    victim.up()
    report = refit(sender, 4)
    assert report.lost == {} and has(victim, 4) and has(other, 4)
    assert f"{victim.url} takes part again with version 4" in capfd.readouterr().err
    groups = [receiver.state()["groups"] for receiver in receivers]
    assert groups[0] == groups[1] != group


def test_a_server_that_hangs_is_left_out_after_the_deadline(receivers: list[Receiver]) -> None:
    victim, other = receivers
    sender = WeightSender([receiver.url for receiver in receivers], bucket_bytes=BUCKET, deadline_s=3.0)
    refit(sender, 1)
    victim.tell(stop_after=1)
    report = refit(sender, 2)
    assert report.servers == [other.url] and list(report.lost) == [victim.url] and has(other, 2)
    back(sender, victim)
    assert has(victim, 3) and has(other, 3)
    sender.close()


def test_a_server_that_fails_or_refuses_says_why(receivers: list[Receiver], sender: WeightSender) -> None:
    victim, other = receivers
    refit(sender, 1)
    victim.tell(fail_after=3)
    report = refit(sender, 2)
    assert report.lost == {victim.url: "answered 500: told to fail"} and has(other, 2)
    assert victim.state()["version"] is None
    refit(sender, 3)
    victim.tell(busy=True)
    report = refit(sender, 4)
    assert report.lost == {victim.url: "answered 409: busy"} and has(other, 4) and has(victim, 3)
    for receiver in receivers:
        receiver.tell(busy=True)
    with pytest.raises(RefitError, match=r"version 5.*busy.*busy") as raised:
        refit(sender, 5)
    assert raised.value.exit_code == 75 and has(other, 4)
    assert refit(sender, 6).lost == {}


def test_weights_that_fail_in_the_middle_are_called_off(receivers: list[Receiver], sender: WeightSender) -> None:
    refit(sender, 1)

    def failing() -> Iterator:
        for number, pair in enumerate(weights(2)):
            if number == 8:
                raise ValueError("out of memory")
            yield pair

    with pytest.raises(ValueError, match="out of memory"):
        sender.refit(failing, 2)
    groups = receivers[0].state()["groups"]
    assert refit(sender, 3).lost == {} and has(receivers[0], 3)
    assert receivers[0].state()["groups"] == groups  # in step with each other still


def test_versions_that_differ_go_by_files_and_that_is_said(
    receivers: list[Receiver], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    old, new = receivers
    about = old.about()
    old.tell(about={"torch": "2.0.0", "weights_dir": str(tmp_path)})
    try:
        settings = {"bucket_bytes": BUCKET, "deadline_s": 20.0}
        sender = WeightSender([old.url, new.url], **settings)
        for version in (1, 2):
            report = refit(sender, version)
            assert report.transport == {old.url: "files", new.url: "collective"}
            assert has(old, version) and has(new, version) and list(tmp_path.iterdir()) == []
        sender.close()
        said = capfd.readouterr().err
        assert said.count("by files") == 1 and "2.0.0" in said and old.url in said
        strict = WeightSender([old.url, new.url], transport="collective", **settings)
        with pytest.raises(RefitError, match="2.0.0"):
            refit(strict, 3)
        strict.close()
    finally:
        old.tell(about=about)


def test_files_for_all_and_some_fail(receivers: list[Receiver], tmp_path: Path) -> None:
    victim, other = receivers
    urls = [receiver.url for receiver in receivers]
    sender = WeightSender(urls, transport="files", weights_dir=str(tmp_path), bucket_bytes=BUCKET, deadline_s=3.0)
    report = refit(sender, 1)
    assert report.lost == {} and report.transport == dict.fromkeys(urls, "files") and has(victim, 1) and has(other, 1)
    victim.tell(stop_after=1)
    report = refit(sender, 2)
    assert report.lost == {victim.url: "no answer within 3 s"} and has(other, 2) and list(tmp_path.iterdir()) == []
    back(sender, victim)
    assert has(victim, 3)
    sender.close()
    nowhere = WeightSender(
        urls, transport="files", weights_dir=str(tmp_path / "none"), bucket_bytes=BUCKET, deadline_s=3.0
    )
    with pytest.raises(RefitError, match="could not be written") as raised:
        refit(nowhere, 4)
    assert raised.value.exit_code == 75 and has(other, 3)


def test_two_actor_ranks_agree_when_a_server_dies_and_when_none_is_left(
    receivers: list[Receiver], tmp_path: Path
) -> None:
    victim, other = receivers
    victim.tell(die_after=1)
    other.tell(skip=2, busy=True)  # after the pass that breaks off and the one that does not
    first, second = run_actor(tmp_path, 2, [victim.url, other.url], deadline_s=20.0)
    assert first == second and first["passes"] == 2
    assert [report["servers"] for report in first["reports"]] == [[other.url]] and has(other, 1)
    why, code = first["error"]
    assert code == 75 and victim.url in why and f"{other.url}: answered 409: busy" in why
