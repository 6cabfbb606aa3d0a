import argparse
import collections
import contextlib
import io
import os
import pathlib
import pickle
import struct
from dataclasses import dataclass
from pickle import UnpicklingError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.model.formats import unpickling
from metaq.model.formats.unpickling import Global, Placeholder, SkippedBytes, Unpickler

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
HASH_MODULUS = (1 << 61) - 1


def loads(data: bytes, **options):
    return Unpickler(io.BytesIO(data), len(data), **options).load()


class Options(dict):
    """As Lightning keeps hyper-parameters: a dict of a class of its own."""


class Names(list):
    """A list of a class of its own."""


@dataclass
class Settings:
    """An object with attributes."""

    rate: float
    steps: int


class Slotted:
    """An object whose attributes are in slots."""

    __slots__ = ("rate",)

    def __init__(self) -> None:
        self.rate = 0.5


class Tree:
    """An object that is made by a call, and refers to itself."""

    def __reduce__(self):
        return Tree, (), {"parent": self}


class Shell:
    """What whoever loads it executes."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=600),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(0, 99), inner),
    max_leaves=20,
)


@given(value=plain, protocol=st.sampled_from(PROTOCOLS))
def test_plain_data_are_what_python_would_make_of_them(value, protocol):
    assert loads(pickle.dumps(value, protocol=protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_of_python_are_dicts_and_lists(protocol):
    value = [
        collections.OrderedDict(a=1, b=[2]),
        collections.defaultdict(list, c=[3]),
        collections.Counter("dd"),
        {4},
        frozenset([5]),
        bytearray(b"six"),
        complex(0, 7),
    ]
    *found, number = loads(pickle.dumps(value, protocol=protocol))
    assert found == [{"a": 1, "b": [2]}, {"c": [3]}, {"d": 2}, [4], [5], b"six"]
    assert (str(number.function), number.arguments) == ("builtins.complex", (0, 7))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_shared_value_stays_one(protocol):
    shared = ["one"]
    first, second, third = loads(pickle.dumps([shared, shared, ["one"]], protocol=protocol))
    assert first is second
    assert first is not third


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_objects_are_remembered_and_not_made(protocol):
    options = Options(rate=0.1)
    options.origin = "here"
    value = [
        argparse.Namespace(lr=1e-3),
        pathlib.PurePosixPath("a/b"),
        options,
        Names(["x", "y"]),
        Settings(0.2, 3),
        Tree,
        Tree(),
    ]
    space, path, found, names, settings_, kind, tree = loads(pickle.dumps(value, protocol=protocol))
    assert (space.class_name, space.attributes) == ("Namespace", {"lr": 1e-3})
    assert (path.class_name, "/".join(path.arguments)) == ("PurePosixPath", "a/b")
    assert (found.class_name, found.entries, found.attributes) == ("Options", {"rate": 0.1}, {"origin": "here"})
    assert (names.class_name, names.items) == ("Names", ["x", "y"])
    assert (settings_.class_name, settings_.attributes) == ("Settings", {"rate": 0.2, "steps": 3})
    assert kind == Global(__name__, "Tree")
    assert tree.attributes["parent"] is tree


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_attributes_in_slots_are_attributes(protocol):
    assert loads(pickle.dumps(Slotted(), protocol=protocol)).attributes == {"rate": 0.5}


def test_a_call_with_keywords_is_remembered():
    found = loads(b"\x80\x04\x8c\x01m\x8c\x01C\x93(K\x01t}\x8c\x01kK\x02s\x92.")
    assert (str(found.function), found.arguments) == ("m.C", (1, {"k": 2}))


def test_names_of_python_2_are_those_of_today():
    found = loads(b"(lp0\nc__builtin__\nset\np1\n((lp2\nI1\naI2\natRp3\na(iold\nStyle\np4\naS'text'\na.")
    assert found[0] == [1, 2]
    assert found[1].class_name == "Style"
    assert found[2] == "text"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_command_is_not_executed(tmp_path, protocol):
    trace = tmp_path / "trace"
    found = loads(pickle.dumps({"a": Shell(f"touch {trace}")}, protocol=protocol))
    assert isinstance(found["a"], Placeholder)
    assert found["a"].arguments == (f"touch {trace}",)
    assert not trace.exists()


@pytest.mark.parametrize(
    "call",
    [
        b"cos\nsystem\n(X{0}tR.",
        b"cos\nsystem\n(X{0}t\x81.",
        b"cos\nsystem\n(X{0}t}\x92.",
        b"(X{0}ios\nsystem\n.",
        b"(cos\nsystem\nX{0}o.",
        b"cos\nsystem\nX{0}b.",
        b"\x8c\x02os\x8c\x06system\x93(X{0}tR.",
        b"cbuiltins\ngetattr\n(cos\n__dict__\nX{0}tR(X{0}tR.",
        b"cbuiltins\neval\n(X{0}tR}X{0}X{0}s(X{0}X{0}ub.",
        b"cbuiltins\nobject\n)R}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsbX{0}b.",
        b"cpickle\nloads\n(X{0}tR.",
    ],
)
def test_no_opcode_calls_what_it_is_given(tmp_path, call):
    trace = tmp_path / "trace"
    command = f"touch {trace}".encode()
    loads(call.replace(b"{0}", struct.pack("<I", len(command)) + command))
    assert not trace.exists()


def test_what_is_built_instead_is_told():
    data = pickle.dumps([argparse.Namespace, pathlib.PurePosixPath("a")], protocol=2)
    found = loads(data, builders={"pathlib.PurePosixPath": lambda *parts: "/".join(parts)})
    assert found == [Global("argparse", "Namespace"), "a"]


def test_identifiers_are_looked_up():
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("id", "OUTSIDE") if value == "outside" else None

    for protocol in PROTOCOLS[1:]:
        stream = io.BytesIO()
        Pickler(stream, protocol=protocol).dump(["inside", "outside"])
        assert loads(stream.getvalue(), persistent=lambda found: found[1]) == ["inside", "OUTSIDE"]
        with pytest.raises(UnpicklingError, match="outside"):
            loads(stream.getvalue())
    assert loads(b"Pkey\n.", persistent=str.upper) == "KEY"


def test_buffers_out_of_band_are_refused():
    buffers = []
    data = pickle.dumps(pickle.PickleBuffer(b"x" * 1000), protocol=5, buffer_callback=buffers.append)
    with pytest.raises(UnpicklingError, match="outside"):
        loads(data)


def test_long_bytes_stay_in_the_file():
    content = bytes(range(256)) * 20
    data = b"head" + pickle.dumps([content, bytearray(content), b"short"], protocol=5)
    stream = io.BytesIO(data)
    stream.seek(4)
    first, second, short = Unpickler(stream, len(data), base=100).load()
    for found in (first, second):
        assert isinstance(found, SkippedBytes)
        assert data[found.start - 100 : found.start - 100 + found.size] == content
    assert short == b"short"


def test_pickles_follow_each_other():
    data = pickle.dumps("first", protocol=2) + pickle.dumps(["second"], protocol=5) + b"rest"
    stream = io.BytesIO(data)
    unpickler = Unpickler(stream, len(data))
    assert [unpickler.load(), unpickler.load()] == ["first", ["second"]]
    assert stream.read() == b"rest"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_beginning_of_a_pickle_is_damaged(protocol):
    data = pickle.dumps({"a": [1, 2.5, "text", b"x" * 300, Settings(1.0, 2), {3}], "b": None}, protocol=protocol)
    for stop in range(len(data)):
        with pytest.raises(UnpicklingError):
            loads(data[:stop])


@settings(max_examples=300)
@given(
    data=st.binary(max_size=60),
    protocol=st.sampled_from(PROTOCOLS),
    position=st.integers(0, 400),
    bit=st.integers(0, 7),
)
def test_any_bytes_give_a_value_or_the_error(data, protocol, position, bit):
    good = bytearray(pickle.dumps([Settings(1.0, 2), {"a": (1, 2, 3)}, {4}, b"x" * 50, Tree()], protocol=protocol))
    good[position % len(good)] ^= 1 << bit
    for content in (bytes(good), data + b".", bytes(good[: position % len(good)]) + data):
        with contextlib.suppress(UnpicklingError):
            loads(content)


@pytest.mark.parametrize(
    "data",
    [
        b"\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
        b"\x8d" + struct.pack("<Q", (1 << 64) - 1) + b"x.",
        b"\x96" + struct.pack("<Q", 1 << 40) + b"x.",
        b"X" + struct.pack("<I", (1 << 32) - 1) + b"x.",
        b"T" + struct.pack("<i", -1) + b"x.",
        b"\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"L" + b"9" * 100_000 + b"L\n.",
    ],
)
def test_claimed_sizes_take_no_memory(data):
    with pytest.raises(UnpicklingError):
        loads(data)


def test_places_of_the_memo_take_no_memory():
    assert loads(b"Nr\xff\xff\xff\xff0j\xff\xff\xff\xff.") is None


@pytest.mark.parametrize("opening", [b"]" * 200_000 + b"a" * 199_999, b"N" + b"\x85" * 200_000])
def test_values_nest_deeply(opening):
    assert loads(opening + b".") is not None


def test_deep_keys_are_not_hashed():
    # Python has no stack for the hash of such a tuple.
    found = loads(b"}N" + b"\x85" * 300_000 + b"Ns.")
    assert list(found.values()) == [None]
    assert not any(isinstance(key, tuple) for key in found)


def test_keys_with_the_same_hash_are_not_compared():
    keys = [HASH_MODULUS * factor for factor in range(1, 200_000)]
    data = b"".join(b"\x8a\x0a" + key.to_bytes(10, "little") + b"N" for key in keys)
    assert len(loads(b"}(" + data + b"u.")) == len(keys)


def test_keys_of_other_types_are_kept_apart():
    assert list(loads(pickle.dumps({1.5: "a", (1, 2): "b", b"c": "c", None: "d", True: "e"})).values()) == list("abcde")


@pytest.mark.parametrize("call", [b"c__builtin__\ndict\nh\x00\x85R0", b"cm\nC\nh\x00R0", b"cm\nC\n)\x81h\x01b0"])
def test_long_values_are_not_copied_many_times(monkeypatch, call):
    monkeypatch.setattr(unpickling, "MOST_STEPS", 100_000)
    values = (
        b"(" + b"NN\x86" * 1000 + b"lq\x000" + b"(" + b"".join(b"K%cN" % number for number in range(256)) + b"dq\x010"
    )
    loads(values + call * 10 + b"N.")
    with pytest.raises(UnpicklingError, match="steps"):
        loads(values + call * 1000 + b"N.")


def test_a_text_is_encoded_once():
    text = "x" * 1_000_000
    data = b"X" + struct.pack("<I", len(text)) + text.encode() + b"q\x000X\x06\x00\x00\x00latin1q\x010"
    found = loads(data + b"(" + b"c_codecs\nencode\n(h\x00h\x01tR" * 10_000 + b"l.")
    assert len({id(content) for content in found}) == 1


def test_endless_pickles_end(monkeypatch):
    monkeypatch.setattr(unpickling, "MOST_STEPS", 1000)
    assert loads(b"N0" * 499 + b"N.") is None
    with pytest.raises(UnpicklingError, match="steps"):
        loads(b"N0" * 500 + b"N.")
