import io
import zipfile
import zlib
from contextlib import suppress
from itertools import pairwise

import pytest
import torch

from metaq.errors import FormatError
from metaq.model.formats.zip_records import is_zip, records

CONTENTS = {"first": b"one two three", "folder/second": b"x" * 300, "empty": b"", "ü": b"\x00\x01"}


class Unseekable(io.RawIOBase):
    """A stream as of a pipe, into which checksums are written after contents."""

    def __init__(self, target):
        self.target = target

    def writable(self):
        return True

    def write(self, data):
        return self.target.write(data)


def archive(compression=zipfile.ZIP_STORED, contents=CONTENTS, *, in_stream=False, force_zip64=False):
    made = io.BytesIO()
    with zipfile.ZipFile(Unseekable(made) if in_stream else made, "w", compression) as written:
        for name, content in contents.items():
            with written.open(name, "w", force_zip64=force_zip64) as stream:
                stream.write(content)
    return made.getvalue()


def check_records(path, expected):
    content = path.read_bytes()
    found = records(path)
    assert list(found) == list(expected)
    for name, record in found.items():
        held = content[record.start : record.start + record.size]
        assert (zlib.decompress(held, -15) if not record.is_stored else held) == expected[name]
        assert record.length == len(expected[name])
        assert record.checksum == zlib.crc32(expected[name])
        for each in record.checksums:
            assert content[each.position : each.position + 4] == zlib.crc32(held).to_bytes(4, "little")
    return found


@pytest.mark.parametrize("in_stream", [False, True])
@pytest.mark.parametrize("force_zip64", [False, True])
def test_records_are_found_in_every_way_of_writing_them(tmp_path, in_stream, force_zip64):
    path = tmp_path / "a.zip"
    path.write_bytes(archive(in_stream=in_stream, force_zip64=force_zip64))
    assert is_zip(path.read_bytes()[:16])
    assert all(record.is_stored for record in check_records(path, CONTENTS).values())


@pytest.mark.parametrize("in_stream", [False, True])
def test_an_archive_is_sound_after_contents_and_checksums_are_changed(tmp_path, in_stream):
    content = bytearray(archive(in_stream=in_stream))
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    for record in records(path).values():
        content[record.start : record.start + record.size] = b"y" * record.size
        for each in record.checksums:
            checksum = zlib.crc32(content[each.start : each.stop])
            content[each.position : each.position + 4] = checksum.to_bytes(4, "little")
    path.write_bytes(content)
    with zipfile.ZipFile(path) as changed:
        assert changed.testzip() is None
        assert changed.read("first") == b"y" * len(CONTENTS["first"])
    # A reader that goes through the file from its beginning finds the same checksums.
    check_records(path, {name: b"y" * len(each) for name, each in CONTENTS.items()})


def test_compressed_records_have_no_checksums_of_what_lies_in_the_file(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(archive(zipfile.ZIP_DEFLATED))
    assert all(not each.is_stored and not each.checksums for each in check_records(path, CONTENTS).values())


def test_files_of_torch_are_read_with_and_without_checksums(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.arange(10.0)}, path)
    with zipfile.ZipFile(path) as opened:
        expected = {name: opened.read(name) for name in opened.namelist()}
    check_records(path, expected)
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(10.0)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert records(path)["a/data/0"].size == 40


def test_comments_are_allowed_and_other_bytes_around_the_archive_are_not(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(archive())
    with zipfile.ZipFile(path, "a") as opened:
        opened.comment = b"a comment"
    check_records(path, CONTENTS)
    for content in (b"#!/bin/sh\n" + archive(), archive() + b"\0"):
        path.write_bytes(content)
        with pytest.raises(FormatError, match="damaged zip archive"):
            records(path)


def test_names_that_occur_twice_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(archive(contents={"ab": b"1", "ac": b"2"}).replace(b"ac", b"ab"))
    with pytest.raises(FormatError, match="'ab' occurs twice"):
        records(path)


def test_names_that_differ_between_header_and_directory_are_refused(tmp_path):
    content = archive()
    at = content.rindex(b"second")
    path = tmp_path / "a.zip"
    path.write_bytes(content[:at] + b"Second" + content[at + 6 :])
    with pytest.raises(FormatError, match="differ"):
        records(path)


def test_encrypted_records_are_refused(tmp_path):
    content = bytearray(archive(contents={"a": b"1"}))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="encrypted"):
        records(path)


def test_records_that_share_their_bytes_are_refused(tmp_path):
    content = bytearray(archive(contents={"a": b"1" * 9, "b": b"2"}))
    first = content.index(b"PK\x01\x02")
    for field in (20, 24):
        content[first + field] = 40
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="overlap"):
        records(path)


@pytest.mark.parametrize("in_stream", [False, True])
def test_damage_is_an_error_or_leaves_records_within_the_file(tmp_path, damaged, in_stream):
    path = tmp_path / "a.zip"
    whole = archive(contents={"a": b"12345", "b/c": b"6"}, in_stream=in_stream)
    for content in damaged(whole):
        path.write_bytes(content)
        with suppress(FormatError):
            found = sorted(records(path).values(), key=lambda record: record.start)
            assert len(content) == len(whole)
            assert all(one.start + one.size <= next_one.start for one, next_one in pairwise(found))
            assert found[-1].start + found[-1].size <= len(content)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FormatError, match="cannot be read"):
        records(tmp_path / "none.zip")
