"""Secrets given as they are, or by the file that holds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossthink.errors import ConfigError
from crossthink.secret import read_secret


@pytest.mark.parametrize("token, secret", [(None, None), ("", None), ("word", "word"), ("a@b", "a@b"), (" x ", " x ")])
def test_given_as_it_is(token: str | None, secret: str | None) -> None:
    assert read_secret(token) == secret


@pytest.mark.parametrize("text", ["s3cret", "s3cret\n", "\n  s3cret \r\n"])
def test_from_a_file_without_the_blanks_around_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a token"
    path.write_text(text)
    assert read_secret(f"@{path}") == "s3cret"


def test_files_that_hold_none(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(ConfigError, match=f"reward.token=@{path}: {path} cannot be read: No such file"):
        read_secret(f"@{path}", "reward.token")
    path.write_text(" \n")
    with pytest.raises(ConfigError, match="is empty. It must hold the secret"):
        read_secret(f"@{path}")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it is no text"):
        read_secret(f"@{path}")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_secret(f"@{tmp_path}")


def test_a_secret_never_stands_in_a_message(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"hunter2\xff")
    with pytest.raises(ConfigError) as refused:
        read_secret(f"@{path}")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("token", ["hunter2é", "hunter2\nX-More: 1"])
def test_what_no_header_carries(token: str) -> None:
    with pytest.raises(ConfigError, match="reward.token= cannot stand in a header") as refused:
        read_secret(token, "reward.token")
    assert "hunter2" not in str(refused.value)
