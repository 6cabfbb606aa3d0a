"""Any model file, told apart by its content and not by its name."""

from pathlib import Path

from metaq.container.source import head_of
from metaq.errors import ConfigError, FormatError
from metaq.model.formats import arrays_file, hdf5_file, onnx_file, safetensors_file, tflite_file, torch_file
from metaq.model.formats.weight_file import WeightFile

HEAD_BYTES = 1 << 10

POINTER = b"version https://git-lfs.github.com/spec/"
"""What a pointer of Git LFS begins with, which stands for a file that was not fetched."""

KNOWN = {
    b"GGUF": "is a GGUF file, whose weights are quantised already: give metaq the float model, or --lossless",
    b"\x1f\x8b": "is packed by gzip; unpack it first",
    b"BZh": "is packed by bzip2; unpack it first",
    b"\xfd7zXZ\x00": "is packed by xz; unpack it first",
    b"(\xb5/\xfd": "is packed by Zstandard; unpack it first",
    b"7z\xbc\xaf'\x1c": "is an archive of 7-Zip; unpack it first",
    b"Rar!": "is a RAR archive; unpack it first",
    b"%PDF": "is a PDF file, no model",
    b"\x89PNG": "is a picture, no model",
    b"\xff\xd8\xff": "is a picture, no model",
}
"""What files are that begin like this."""


DISTRIBUTED_SUFFIX, DISTRIBUTED_INDEX = ".distcp", ".metadata"
DISTRIBUTED = "make one file of it by 'python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE'"
"""What to do about a distributed checkpoint."""


def is_pointer(head: bytes) -> bool:
    """Whether a file with this beginning is a pointer of Git LFS."""
    return head.startswith(POINTER)


def read_file(path: Path, *, key: str | None = None, keep_all: bool = False, lossless: bool = False) -> WeightFile:
    """Read everything about a model file but the elements of its tensors.

    `key` says where in a checkpoint the state dict is, as ``"model.state_dict"``; `keep_all`, that all else in it must
    come back too; `lossless`, that all tensors will be kept as they are, so that files are taken of which nothing is
    known. Raises :class:`FormatError` if the file is missing, empty, damaged or of no known kind, and
    :class:`ConfigError` if a package is missing that reads it, or it is no checkpoint and a key is given.
    """
    try:
        found = _known(path, key=key, keep_all=keep_all or lossless)
        # What would be written anew is not the same file.
        return WeightFile(path=path, tensors=()) if lossless and found.is_state_dict else found
    except FormatError as error:
        if not lossless or key is not None or not path.is_file() or not path.stat().st_size:
            raise
        return kept_whole(path, error)


def kept_whole(path: Path, reason: FormatError | str, data_files: tuple[Path, ...] = ()) -> WeightFile:
    """A file that is kept as it is, with a reason for a note, which is what is wrong with it or another."""
    text = str(reason).removeprefix(f"{path}: ").removesuffix(".")
    return WeightFile(path=path, tensors=(), data_files=data_files, notes=(f"all of it is kept as it is: {text}",))


def _known(path: Path, *, key: str | None, keep_all: bool) -> WeightFile:
    head = head_of(path, HEAD_BYTES)
    if is_pointer(head):
        raise FormatError(f"{path}: is a pointer of Git LFS, not the file itself; fetch that by 'git lfs pull'.")
    if path.suffix == DISTRIBUTED_SUFFIX or path.name == DISTRIBUTED_INDEX:
        raise FormatError(f"{path}: is a part of a distributed checkpoint, which is a folder; {DISTRIBUTED}.")
    # What is called like a model may be something else; what is one may begin like that.
    reason = _foreign(head)
    found = _without_key(path, head, by_name=reason is None, keep_all=keep_all)
    if found is not None:
        if key is not None:
            raise ConfigError(f"--key {key}: {path} is no checkpoint with several entries; leave the key out.")
        return found
    if reason is not None:
        raise FormatError(f"{path}: {reason}.")
    return torch_file.read(path, key=key, keep_all=keep_all)


def _foreign(head: bytes) -> str | None:
    """What a file with this beginning is that is no model, or none that is taken."""
    if head.lstrip()[:1] == b"<":
        return "is a web page, not a model; the download went wrong, get it again"
    return next((reason for magic, reason in KNOWN.items() if head.startswith(magic)), None)


def _without_key(path: Path, head: bytes, *, by_name: bool, keep_all: bool) -> WeightFile | None:
    """A file of any format but PyTorch's, by its content, or else `by_name`."""
    named = path if by_name else path.with_suffix("")
    if safetensors_file.recognises(named, head):
        return safetensors_file.read(path, keep_all=keep_all)
    if arrays_file.recognises(named, head):
        return arrays_file.read(path, keep_all=keep_all)
    if hdf5_file.recognises(named, head):
        return hdf5_file.read(path, keep_all=keep_all)
    if tflite_file.recognises(named, head):
        return tflite_file.read(path)
    return onnx_file.read(path, keep_all=keep_all) if onnx_file.recognises(path) else None
