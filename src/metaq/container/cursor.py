"""Walking over untrusted bytes: every step is checked, and every refusal says where."""

from typing import NoReturn

from metaq.coding.varint import decode_varint
from metaq.errors import CodecError, FormatError

NEWER = "it may come from a newer metaq: upgrade; otherwise get the file again."


class Cursor:
    """A position in `data`; messages name the file, this section of it, and the byte from the start of the section."""

    def __init__(self, data: bytes, *, source: str, section: str, start: int = 0) -> None:
        self.data = data
        self.position = start
        self._source = source
        self._section = section

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self.data) - self.position

    def refuse(
        self, problem: str, *, advice: str = "the file was not made by metaq; get it again or make it again."
    ) -> NoReturn:
        """Raise :class:`FormatError` for what stands at the position."""
        raise FormatError(f"{self._source}: {self._section}, byte {self.position}: {problem}; {advice}")

    def varint(self) -> int:
        """The next variable-length number."""
        try:
            value, self.position = decode_varint(self.data, self.position)
        except CodecError:
            self.refuse("a number is cut off, too large or longer than needed")
        return value

    def take(self, size_bytes: int) -> bytes:
        """The next `size_bytes` bytes."""
        if size_bytes > self.left:
            self.refuse(f"{size_bytes} bytes are promised but only {self.left} are left")
        taken = self.data[self.position : self.position + size_bytes]
        self.position += size_bytes
        return taken

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def text(self, raw: bytes) -> str:
        """`raw` as UTF-8."""
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.refuse("a name or a text is not valid UTF-8")
