from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading

import pytest
import torch

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


def test_what_pytorch_makes_of_a_full_disk_is_told_as_one(tmp_path):
    class Full:
        def __init__(self, stream):
            self.stream = stream

        def write(self, data):
            if self.stream.tell() + len(data) > 20_000:
                full_disk()
            return self.stream.write(data)

        def flush(self):
            self.stream.flush()

    with pytest.raises(OutputError, match="No space left"):
        write_atomically(tmp_path / "a", lambda stream: torch.save([torch.ones(2000) for _ in range(9)], Full(stream)))
    with pytest.raises(OutputError, match="No space left"):
        write_atomically(tmp_path / "a", lambda stream: torch.save({"a": torch.ones(9000)}, Full(stream)))
    assert not list(tmp_path.iterdir())


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


def test_an_older_file_keeps_its_permissions(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    (tmp_path / "a").chmod(0o600)
    write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_and_its_target_is_replaced(tmp_path, is_there):
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store" / "v1", tmp_path / "latest"
    if is_there:
        target.write_bytes(b"old")
    link.symlink_to("store/v1")
    assert write_bytes(link, b"new") == 3
    assert link.readlink().as_posix() == "store/v1"
    assert target.read_bytes() == b"new"
    assert [entry.name for entry in (tmp_path / "store").iterdir()] == ["v1"]


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OutputError, match="circle"):
        write_bytes(tmp_path / "a", b"")


def test_a_pipe_is_written_into(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    refuse_overwrite(pipe, force=False)
    assert write_bytes(pipe, b"hello" * 30_000) == 150_000
    reader.join()
    assert got == [b"hello" * 30_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_into_and_stays_one(tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    refuse_overwrite(device, force=False)
    assert write_bytes(device, b"hello") == 5
    assert stat.S_ISCHR(device.stat().st_mode)
    assert [entry.name for entry in tmp_path.iterdir()] == ["null"]


def test_an_interruption_writes_nothing_into_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    def interrupted(stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "pipe", interrupted)


@pytest.mark.parametrize("kind", ["file", "pipe"])
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1"])
def test_standard_output_is_written_into(tmp_path, kind, name):
    program = f"from metaq.files import write_bytes; print('before', flush=True); write_bytes({name!r}, b'hello')"
    out = tmp_path / "out"
    if kind == "pipe":
        assert subprocess.check_output([sys.executable, "-c", program]) == b"before\nhello"
        return
    with out.open("wb") as stream:
        stream.write(b"first\n")
        stream.flush()
        subprocess.run([sys.executable, "-c", program], stdout=stream, check=True)
    assert out.read_bytes() == b"first\nbefore\nhello"


def test_the_longest_name_can_be_written(tmp_path):
    assert write_bytes(tmp_path / ("n" * 255), b"hello") == 5
    with pytest.raises(OutputError, match="shorter name"):
        write_bytes(tmp_path / ("n" * 256), b"")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder", "name of a file"),
        ("no/such/file", "make its folder"),
        ("file/in", "is a file"),
        ("n" * 256, "shorter"),
    ],
)
def test_every_cause_has_its_own_sentence_before_and_after_the_work(tmp_path, name, words):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for place in (
        lambda: write_bytes(tmp_path / name, b""),
        lambda: refuse_overwrite(tmp_path / name, force=True),
    ):
        with pytest.raises(OutputError, match=words) as caught:
            place()
        assert "free some space" not in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "free some space"), (errno.EDQUOT, "free some space"), (errno.EROFS, "choose another place")],
)
def test_space_is_asked_for_where_there_is_none(tmp_path, number, words):
    def failing(_):
        raise OSError(number, os.strerror(number))

    with pytest.raises(OutputError) as caught:
        write_atomically(tmp_path / "a", failing)
    assert words in str(caught.value)
    assert ("free some space" in str(caught.value)) == (number != errno.EROFS)
    assert list(tmp_path.iterdir()) == []
