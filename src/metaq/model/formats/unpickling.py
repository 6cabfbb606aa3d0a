"""Pickles read as data: what they would build, without building it.

A pickle is a program for a stack machine. Both machines of Python call what `find_class` returns, set attributes, and
hash whatever a dict has for a key, which overflows the stack of C for tuples within tuples; that of C makes room for
any number of memo entries that a file claims. The one here calls nothing but `builders`, and all else that a pickle
wants called, made or changed becomes a :class:`Placeholder`. What an opcode is followed by is read after
:mod:`pickletools`.
"""

import pickletools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import IO

MOST_STEPS = 1 << 24
"""Opcodes of a pickle, and elements that builders copy."""

MOST_LINE_BYTES = 1 << 28
LEAST_SKIPPED_BYTES = 1 << 8
"""Of bytes that are left in the file until somebody wants them."""

MOST_KEY = 1 << 60
"""Larger integers could be chosen so that all have one hash."""

Builder = Callable[..., object]

MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules of Python 2 by their names today."""


@dataclass(frozen=True, slots=True)
class Global:
    """A class, a function or another value of a module, known by its name only."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Placeholder:
    """An object that is not made: what would have been called to make it, with what, and what it was given then."""

    function: object
    arguments: tuple[object, ...] = ()
    state: object = None
    items: list[object] | None = None
    entries: dict[object, object] | None = None

    @property
    def class_name(self) -> str:
        """Name of what would have been called, without its module."""
        return self.function.name.rpartition(".")[2] if isinstance(self.function, Global) else "object"

    @property
    def attributes(self) -> dict[object, object]:
        """What its attributes would be, those in slots too."""
        return self.state if isinstance(self.state, dict) else {}


@dataclass(frozen=True, eq=False, slots=True)
class SkippedBytes:
    """Bytes that were not read: so many of the file from `start` on."""

    start: int
    size: int


class _OpaqueKey:
    """What stands for a key that may be costly to hash."""


def no_persistent(_: object) -> object:
    """What a pickle refers to beyond itself, where nothing is expected; raises :class:`UnpicklingError`."""
    raise UnpicklingError("it refers to something outside of it")


class Unpickler:
    """Reads pickles one after the other from a stream that can seek and has `size` bytes.

    `base` is the place of the stream in the file; longer bytes are skipped then, and else read. `builders` have, by the
    full name of a class or function, what is done in its stead; `persistent` gives what an identifier refers to.
    """

    def __init__(
        self,
        stream: IO[bytes],
        size: int,
        *,
        base: int | None = None,
        builders: Mapping[str, Builder] | None = None,
        persistent: Callable[[object], object] = no_persistent,
    ) -> None:
        self.stream = stream
        self.size = size
        self.base = base
        self.builders = {**CONTAINERS, "_codecs.encode": self._encoded, **(builders or {})}
        self.persistent = persistent
        self._begin()

    def load(self) -> object:
        """The next pickle, built of numbers, text, bytes, lists for sets too, tuples, dicts, :class:`Global`,
        :class:`Placeholder`, :class:`SkippedBytes` and what builders give; the stream is after it then.

        Raises :class:`UnpicklingError`, with a reason, if it is damaged, or asks for more than :data:`MOST_STEPS`.
        """
        self._begin()
        try:
            with warnings.catch_warnings():
                # Of odd escapes in text.
                warnings.simplefilter("ignore")
                return self._run()
        except KeyError as error:
            reason = "it ends too early" if error.args == (b"",) else "it holds what is no pickle"
            raise UnpicklingError(reason) from error
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise UnpicklingError("it holds what is no pickle") from error

    def _run(self) -> object:
        read = self.stream.read
        for _ in range(MOST_STEPS):
            run, argument = OPERATIONS[read(1)]
            if run is None:
                return self.stack.pop()
            run(self, None if argument is None else argument(self))
        raise UnpicklingError("it takes too many steps")

    def _begin(self) -> None:
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[object, object] = {}
        self.texts: dict[int, tuple[str, bytes]] = {}
        self.copied = 0

    def readline(self) -> bytes:
        """The next line, for arguments that are one."""
        line = self.stream.readline(MOST_LINE_BYTES)
        if not line.endswith(b"\n"):
            raise UnpicklingError("it ends too early")
        return line

    def _push(self, value: object) -> None:
        self.stack.append(value)

    def _mark(self, _: object) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _group(self) -> list[object]:
        values, self.stack = self.stack, self.marks.pop()
        return values

    def _pop(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._group()

    def _tuple_of(self, number: int) -> None:
        self.stack.append(tuple([self.stack.pop() for _ in range(number)][::-1]))

    def _append(self, values: Iterable[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, Placeholder):
            target.items = target.items or []
            target = target.items
        if not isinstance(target, list):
            raise TypeError("no list")
        target.extend(values)

    def _set_items(self, flat: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, Placeholder):
            target.entries = target.entries or {}
            target = target.entries
        if not isinstance(target, dict):
            raise TypeError("no dict")
        target.update(_entries(zip(flat[::2], flat[1::2], strict=True)))

    def _build(self, state: object) -> None:
        target = self.stack[-1]
        if not isinstance(target, Placeholder):
            return
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        if all(isinstance(part, dict | None) for part in parts):
            dicts = [part for part in parts if isinstance(part, dict)]
            self._charge(dicts)
            target.state = {name: value for part in dicts for name, value in part.items()} if dicts else None
        else:
            target.state = state

    def _call(self, arguments: object, function: object) -> None:
        if not isinstance(arguments, tuple | list):
            raise TypeError("no arguments")
        self._charge([arguments])
        builder = self.builders.get(str(function)) if isinstance(function, Global) else None
        if builder is None:
            self.stack.append(Placeholder(function, tuple(arguments)))
            return
        self._charge([value for value in arguments if isinstance(value, list | tuple | dict)])
        self.stack.append(builder(*arguments))

    def _charge(self, copied: Sequence[Sized]) -> None:
        # References to one long list, each of which is copied, take a few bytes.
        self.copied += sum(map(len, copied))
        if self.copied > MOST_STEPS:
            raise UnpicklingError("it takes too many steps")

    def _named(self) -> Global:
        return self._global_of(*(str(self.readline()[:-1], "utf-8") for _ in range(2)))

    def _global_of(self, module: object, name: object) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("no name")
        return Global(MODULES.get(module, module), name)

    def _counted(self, width: int, kind: str) -> object:
        length = int.from_bytes(self._read(width), "little")
        if length >= LEAST_SKIPPED_BYTES:
            position = self.stream.tell()
            if length > self.size - position:
                raise UnpicklingError("it ends too early")
            if kind == "bytes" and self.base is not None:
                self.stream.seek(length, 1)
                return SkippedBytes(self.base + position, length)
        data = self._read(length)
        if kind == "bytes":
            return data
        if kind == "integer":
            return int.from_bytes(data, "little", signed=True)
        return str(data, kind, "surrogatepass" if kind == "utf-8" else "strict")

    def _read(self, length: int) -> bytes:
        data = self.stream.read(length)
        if len(data) != length:
            raise UnpicklingError("it ends too early")
        return data

    def _encoded(self, text: str, encoding: str) -> bytes:
        """Bytes as protocols before 3 have them. One text may be encoded many times, and is so once."""
        if encoding != "latin1":
            raise ValueError("not Latin 1")
        if id(text) not in self.texts:
            self.texts[id(text)] = (text, text.encode("latin-1"))
        return self.texts[id(text)][1]


def _entries(pairs: Iterable[tuple[object, object]]) -> dict[object, object]:
    return {key if _is_plain(key) else _OpaqueKey(): value for key, value in pairs}


def _is_plain(key: object) -> bool:
    return isinstance(key, str | None) or (isinstance(key, int) and abs(key) < MOST_KEY)


def _mapping(pairs: object = ()) -> dict[object, object]:
    if isinstance(pairs, dict):
        return dict(pairs)
    if not isinstance(pairs, list | tuple):
        raise TypeError("no pairs")
    return _entries((key, value) for key, value in pairs)


def _new(kind: object, *arguments: object) -> Placeholder:
    return Placeholder(kind, arguments)


def _reconstructed(kind: object, _: object = None, content: object = None) -> Placeholder:
    items = list(content) if isinstance(content, list) else None
    return Placeholder(kind, items=items, entries=dict(content) if isinstance(content, dict) else None)


def _bytes(content: bytes | SkippedBytes = b"", *_: object) -> object:
    if not isinstance(content, bytes | SkippedBytes):
        raise TypeError("no bytes")
    return content


def _sequence(content: list[object] | tuple[object, ...] | None = None) -> object:
    if content is not None and not isinstance(content, list | tuple):
        raise TypeError("no list")
    return [] if content is None else content


CONTAINERS: dict[str, Builder] = {
    **dict.fromkeys(("builtins.bytearray", "builtins.bytes"), _bytes),
    **dict.fromkeys(("builtins.frozenset", "builtins.list", "builtins.set", "builtins.tuple"), _sequence),
    **dict.fromkeys(("builtins.dict", "collections.Counter", "collections.OrderedDict"), _mapping),
    "collections.defaultdict": lambda _=None, *pairs: _mapping(*pairs),
    "copyreg.__newobj__": _new,
    "copyreg._reconstructor": _reconstructed,
}
"""What is built of the containers of Python."""

Run = Callable[[Unpickler, object], object]
Argument = Callable[[Unpickler], object]


def _memoize(machine: Unpickler, place: object) -> None:
    machine.memo[len(machine.memo) if place is None else place] = machine.stack[-1]


def _stack_global(machine: Unpickler, _: object) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine._push(machine._global_of(module, name))


def _with_keywords(machine: Unpickler, _: object) -> None:
    keywords, arguments, kind = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    if not isinstance(arguments, tuple):
        raise TypeError("no arguments")
    machine._push(Placeholder(kind, (*arguments, keywords)))


def _dict(machine: Unpickler, _: object) -> None:
    flat = machine._group()
    machine._push({})
    machine._set_items(flat)


RUNS: dict[str, Run | None] = {
    "STOP": None,
    "MARK": Unpickler._mark,
    "POP": Unpickler._pop,
    "POP_MARK": lambda machine, _: machine._group(),
    "DUP": lambda machine, _: machine._push(machine.stack[-1]),
    "NONE": lambda machine, _: machine._push(None),
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "TUPLE1": lambda machine, _: machine._tuple_of(1),
    "TUPLE2": lambda machine, _: machine._tuple_of(2),
    "TUPLE3": lambda machine, _: machine._tuple_of(3),
    "TUPLE": lambda machine, _: machine._push(tuple(machine._group())),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), lambda machine, _: machine._push([])),
    **dict.fromkeys(("LIST", "FROZENSET"), lambda machine, _: machine._push(machine._group())),
    "APPEND": lambda machine, _: machine._append([machine.stack.pop()]),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda machine, _: machine._append(machine._group())),
    "EMPTY_DICT": lambda machine, _: machine._push({}),
    "DICT": _dict,
    "SETITEM": lambda machine, _: machine._set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine._set_items(machine._group()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _memoize),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, place: machine._push(machine.memo[place])),
    "STACK_GLOBAL": _stack_global,
    **dict.fromkeys(
        ("EXT1", "EXT2", "EXT4"), lambda machine, code: machine._push(Global("copyreg", f"extension {code}"))
    ),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine._call(machine.stack.pop(), machine.stack.pop())),
    "NEWOBJ_EX": _with_keywords,
    "INST": lambda machine, names: machine._push(Placeholder(names, tuple(machine._group()))),
    "OBJ": lambda machine, _: machine._push(_new(*machine._group())),
    "BUILD": lambda machine, _: machine._build(machine.stack.pop()),
    "PERSID": lambda machine, identifier: machine._push(machine.persistent(identifier)),
    "BINPERSID": lambda machine, _: machine._push(machine.persistent(machine.stack.pop())),
    **dict.fromkeys(("PROTO", "FRAME"), lambda _, __: None),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), lambda _, __: no_persistent(None)),
}
"""What opcodes do; those that are not here put their argument on the stack."""

COUNTED: dict[str, tuple[int, str]] = {
    "LONG4": (4, "integer"),
    "BINSTRING": (4, "latin-1"),
    "BINUNICODE": (4, "utf-8"),
    "BINUNICODE8": (8, "utf-8"),
    "BINBYTES": (4, "bytes"),
    "BINBYTES8": (8, "bytes"),
    "BYTEARRAY8": (8, "bytes"),
}
"""Opcodes that any number of bytes may follow: the width of that number, and what the bytes are."""


def _argument(opcode: pickletools.OpcodeInfo) -> Argument | None:
    if opcode.arg is None:
        return None
    if opcode.name in COUNTED:
        width, kind = COUNTED[opcode.name]
        return lambda machine: machine._counted(width, kind)
    if opcode.name in ("GLOBAL", "INST"):
        return Unpickler._named
    reader = opcode.arg.reader
    if opcode.arg.n == pickletools.UP_TO_NEWLINE:
        return lambda machine: reader(machine)  # type: ignore[arg-type]
    return lambda machine: reader(machine.stream)


OPERATIONS = {
    opcode.code.encode("latin-1"): (RUNS.get(opcode.name, Unpickler._push), _argument(opcode))
    for opcode in pickletools.opcodes
}
"""For the byte of every opcode what it does, and how its argument is read."""
