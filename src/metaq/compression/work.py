"""The work folder beside an output: what a killed run leaves, so that the same command goes on from there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from metaq.container.fields import StoredChunk
from metaq.errors import ConfigError, OutputError
from metaq.files import output_error, write_bytes

if sys.platform != "win32":
    import fcntl

JOB = "job.json"
LOCK = "lock"

LONGEST_NAME_BYTES = 240
"""Of outputs whose work folder has their name; systems hold names of 255 bytes."""

Record = dict[str, Any]


def work_path(out: Path) -> Path:
    """Where the work folder of the output `out` is."""
    name = out.name
    if len(os.fsencode(name)) > LONGEST_NAME_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return out.with_name(f".{name}.partial")


class WorkFolder:
    """The work folder of one output, open for one run at a time; a context manager that leaves it as it is.

    `job` is all that the output depends on, ready for JSON; what is found of another job is thrown away, and
    `discarded` tells of it. Raises :class:`ConfigError` if another run is at work on the same output, and
    :class:`OutputError` if the folder cannot be made.
    """

    def __init__(self, out: Path, job: Record) -> None:
        self.path = work_path(out)
        self.discarded = False
        self._out = out
        self._job = job
        self._open = ExitStack()

    def __enter__(self) -> WorkFolder:
        with ExitStack() as opened:
            try:
                self.path.mkdir(exist_ok=True)
                _lock(opened.enter_context((self.path / LOCK).open("wb")), self._out)
                if self._is_of_another_job():
                    self.discarded = True
                    self._clear()
            except OSError as error:
                raise output_error(self._out, error) from error
            self.write(JOB, self._job)
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def read(self, name: str) -> Any:
        """What was written under `name`, or None if that is not there or has changed."""
        try:
            record = _record((self.path / name).read_bytes())
        except OSError:
            return None
        return None if record is None else record["value"]

    def write(self, name: str, value: object) -> None:
        write_bytes(self.path / name, _line({"value": value}))

    def attempt(self, number: int, key: str) -> Attempt:
        """An attempt at the file, with what was done of it; `key` tells what else it depends on than the job."""
        attempt = Attempt(self._out, self._attempt_path(number), key)
        self._open.callback(attempt.close)
        return attempt

    def remove_attempt(self, number: int) -> None:
        shutil.rmtree(self._attempt_path(number), ignore_errors=True)

    def remove(self) -> None:
        """Take the folder away, as the output is there."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _attempt_path(self, number: int) -> Path:
        return self.path / f"attempt-{number}"

    def _is_of_another_job(self) -> bool:
        others = any(found.name != LOCK for found in self.path.iterdir())
        return others and self.read(JOB) != json.loads(json.dumps(self._job))

    def _clear(self) -> None:
        for found in self.path.iterdir():
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            elif found.name != LOCK:
                found.unlink()


def _lock(stream: IO[bytes], out: Path) -> None:
    """Take a lock that ends with the process, where the system has such."""
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"{out}: another run is at work on it; wait for that one.") from error


class Attempt:
    """Chunks of one attempt at the file, in the order in which they became ready, and what was decided about tensors.

    `tensors` has what was decided by name of the tensor, and `chunks` those that are done by their numbers. A line of
    the journal counts only if it has its own checksum, and a chunk only if its payload has that of its line.
    """

    def __init__(self, out: Path, path: Path, key: str) -> None:
        self.tensors: dict[str, Record] = {}
        self.chunks: dict[int, StoredChunk] = {}
        self._out = out
        self._offsets: dict[int, int] = {}
        self._end = 0
        try:
            path.mkdir(exist_ok=True)
            self._payloads = _opened(path / "payloads")
            self._journal = _opened(path / "journal")
            self._resume(key)
        except OSError as error:
            raise _unwritable(out, error) from error

    def add_tensor(self, name: str, record: Record) -> None:
        self._write(self._journal, _line({"tensor": name, **record}))
        self.tensors[name] = record

    def add_chunk(self, number: int, payload: bytes) -> None:
        """Keep a chunk; raises :class:`OutputError` if the disk is full."""
        chunk = StoredChunk(size_bytes=len(payload), checksum=zlib.crc32(payload))
        self._payloads.seek(self._end)
        self._write(self._payloads, payload)
        self._write(self._journal, _line({"chunk": number, "size": chunk.size_bytes, "checksum": chunk.checksum}))
        self._place(number, chunk)

    def payload(self, number: int) -> bytes:
        """The payload of a chunk."""
        self._payloads.seek(self._offsets[number])
        return self._payloads.read(self.chunks[number].size_bytes)

    def close(self) -> None:
        self._payloads.close()
        self._journal.close()

    def _place(self, number: int, chunk: StoredChunk) -> None:
        self.chunks[number] = chunk
        self._offsets[number] = self._end
        self._end += chunk.size_bytes

    def _write(self, stream: IO[bytes], data: bytes) -> None:
        try:
            stream.write(data)
            stream.flush()
        except OSError as error:
            raise _unwritable(self._out, error) from error

    def _resume(self, key: str) -> None:
        """Take over the records up to the first that is not whole, and cut off what is after it."""
        head = _line({"key": key})
        position = 0
        if self._journal.readline() == head:
            position = len(head)
            for line in self._journal:
                if not self._take(line):
                    break
                position += len(line)
        self._journal.seek(position)
        self._journal.truncate()
        self._payloads.truncate(self._end)
        if not position:
            self._journal.write(head)

    def _take(self, line: bytes) -> bool:
        """Take over a record; whether it is whole."""
        record = _record(line)
        if record is None:
            return False
        if "tensor" in record:
            self.tensors[record.pop("tensor")] = record
            return True
        chunk = StoredChunk(size_bytes=record["size"], checksum=record["checksum"])
        self._payloads.seek(self._end)
        payload = self._payloads.read(chunk.size_bytes)
        if len(payload) != chunk.size_bytes or zlib.crc32(payload) != chunk.checksum:
            return False
        self._place(record["chunk"], chunk)
        return True


def _unwritable(out: Path, error: OSError) -> OutputError:
    """What to say of an output that cannot be written."""
    return OutputError(
        f"{output_error(out, error)} What is done so far is kept in {work_path(out).name}, and the same command goes "
        "on from there."
    )


def _line(record: Record) -> bytes:
    """A record as a line of a journal."""
    text = json.dumps(record).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _record(line: bytes) -> Record | None:
    """Invert :func:`_line`; None for a line that was not written to its end or has changed."""
    text = line[9:-1]
    if not line.endswith(b"\n") or line[:9] != b"%08x " % zlib.crc32(text):
        return None
    found: Record = json.loads(text)
    return found


def _opened(path: Path) -> IO[bytes]:
    """The file for reading and writing, made if it is not there."""
    return path.open("r+b" if path.exists() else "w+b")
