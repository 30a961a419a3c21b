"""Asking the file system for a checkpoint's bytes."""

import ctypes
import errno
from types import SimpleNamespace

import pytest

from recipes.actors.mcore.space import allocate


def answering(monkeypatch, *codes):
    """The C library's fallocate fails with each code in turn; 0: it does not. Returns the sizes asked for."""
    left, asked = list(codes), []

    def fallocate(file, mode, offset, size):
        asked.append(size.value)
        ctypes.set_errno(left[0])
        return -1 if left.pop(0) else 0

    monkeypatch.setattr(ctypes, "CDLL", lambda *words, **settings: SimpleNamespace(fallocate=fallocate))
    return asked


def test_a_signal_amid_it_is_no_failure(monkeypatch):
    asked = answering(monkeypatch, errno.EINTR, errno.EINTR, 0)
    assert allocate(0, 7) is True and asked == [7, 7, 7]


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_cannot_is_told_from_a_full_one(monkeypatch, code):
    answering(monkeypatch, code)
    assert allocate(0, 7) is False
    answering(monkeypatch, errno.EINTR, errno.ENOSPC)
    with pytest.raises(OSError) as caught:
        allocate(0, 7)
    assert caught.value.errno == errno.ENOSPC


def test_it_is_allocated(tmp_path):
    with open(tmp_path / "probe", "wb") as handle:
        assert allocate(handle.fileno(), 0) is True
        if allocate(handle.fileno(), 8192):
            assert (tmp_path / "probe").stat().st_size == 8192
