from __future__ import annotations

import errno
import os

import pytest

from metaq.errors import ConfigError, OutputError
from metaq.files import refuse_overwrite, write_atomically, write_bytes


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_size_and_content(tmp_path):
    assert write_bytes(tmp_path / "a", b"hello") == 5
    assert (tmp_path / "a").read_bytes() == b"hello"


@pytest.mark.parametrize("stage", ["write", "fsync"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, stage):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    if stage == "fsync":
        monkeypatch.setattr(os, "fsync", full_disk)
    writer = full_disk if stage == "write" else (lambda stream: stream.write(b"new"))
    with pytest.raises(OutputError, match="No space left"):
        write_atomically(path, writer)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_an_interruption_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def interrupted(stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_existing_files_are_refused(tmp_path):
    write_bytes(tmp_path / "a", b"")
    with pytest.raises(ConfigError, match="--force"):
        refuse_overwrite(tmp_path / "a", force=False)
    refuse_overwrite(tmp_path / "a", force=True)
    refuse_overwrite(tmp_path / "b", force=False)
