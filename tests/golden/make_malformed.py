#!/usr/bin/env python3
"""Writes one malformed GGUF file (or split set) per check of the parser: make_malformed.py DIR

CASES is the table: a name, what is wrong, the exception and a pattern that its message must match. Besides the files a
manifest.tsv is written (path, exception, pattern), by which the C test runs the same table. Patterns therefore use what Python's
and POSIX extended regular expressions share. `valid()` is the sound file that each case spoils in one place.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
PACK = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}
TYPE_F32, TYPE_F16, TYPE_Q4_0, TYPE_F64 = 0, 1, 2, 28


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: bytes, length: int | None = None) -> bytes:
    """A string that claims `length` bytes."""
    return u64(len(text) if length is None else length) + text


def entry(key: bytes, type_: int, value: bytes) -> bytes:
    return string(key) + u32(type_) + value


def scalar(key: bytes, type_: int, value: float) -> bytes:
    return entry(key, type_, struct.pack("<" + PACK[type_], value))


def text(key: bytes, value: bytes) -> bytes:
    return entry(key, STRING, string(value))


def array(element: int, count: int, body: bytes) -> bytes:
    return u32(element) + u64(count) + body


def tensor(name: bytes, shape: list[int], type_: int, offset: int, n_dims: int | None = None) -> bytes:
    dims = b"".join(map(u64, shape))
    return string(name) + u32(len(shape) if n_dims is None else n_dims) + dims + u32(type_) + u64(offset)


@dataclass
class File:
    """A GGUF file to be; counts and sizes follow from the contents unless set."""

    entries: list[bytes] = field(default_factory=list)
    tensors: list[bytes] = field(default_factory=list)
    data_bytes: int = 0
    magic: bytes = b"GGUF"
    version: int = 3
    n_entries: int | None = None
    n_tensors: int | None = None
    alignment: int = 32
    keep: int | None = None
    """Only so many bytes of it."""
    size: int = 0
    """Grown (sparsely) to so many bytes."""

    def header(self) -> bytes:
        counts = u64(len(self.tensors) if self.n_tensors is None else self.n_tensors)
        counts += u64(len(self.entries) if self.n_entries is None else self.n_entries)
        return self.magic + u32(self.version) + counts + b"".join(self.entries) + b"".join(self.tensors)

    def to_bytes(self) -> bytes:
        head = self.header()
        head += bytes(-len(head) % self.alignment) + bytes(self.data_bytes)
        return head[: self.keep]


def valid() -> File:
    """Keys of every type and three tensors in 32 + 256 + 36 → 384 bytes of data."""
    numbers = [scalar(b"test.%d" % t, t, 1) for t in PACK]
    arrays = [entry(b"test.array.%d" % t, ARRAY, array(t, 3, struct.pack("<3" + PACK[t], 0, 1, 1))) for t in PACK]
    strings = array(STRING, 3, string(b"a") + string(b"") + string("né\0x".encode()))
    nested = array(ARRAY, 2, array(U16, 2, b"\1\0\2\0") + array(STRING, 1, string(b"deep")))
    return File(
        entries=[
            text(b"general.architecture", b"llama"),
            *numbers,
            *arrays,
            entry(b"test.strings", ARRAY, strings),
            entry(b"test.nested", ARRAY, nested),
            entry(b"test.empty", ARRAY, array(F32, 0, b"")),
        ],
        tensors=[
            tensor(b"a.weight", [4, 2], TYPE_F32, 0),
            tensor(b"b.weight", [32, 2, 2, 1], TYPE_F16, 32),
            tensor(b"c.weight", [64], TYPE_Q4_0, 288),
        ],
        data_bytes=384,
    )


def split_keys(no: int, count: int, tensors: int) -> list[bytes]:
    return [scalar(b"split.no", U16, no), scalar(b"split.count", U16, count), scalar(b"split.tensors.count", I32, tensors)]


def split(changes: Callable[[list[File]], None] = lambda parts: None) -> dict[str, File]:
    """A set of three parts with one tensor each, after `changes` to the parts."""
    parts = [File(split_keys(i, 3, 3), [tensor(b"t%d" % i, [8], TYPE_F32, 0)], 32) for i in range(3)]
    parts[0].entries.append(text(b"general.architecture", b"llama"))
    changes(parts)
    return {f"set-{i + 1:05d}-of-00003.gguf": part for i, part in enumerate(parts)}


@dataclass
class Case:
    name: str
    error: str
    match: str
    files: dict[str, File]
    open: str
    """Which of the files, or a path that is not among them."""


CASES: list[Case] = []


def case(name: str, error: str, match: str, file: File) -> None:
    CASES.append(Case(name, error, match, {f"{name}.gguf": file}, f"{name}.gguf"))


def spoilt(name: str, error: str, match: str, *entries: bytes, **changes: object) -> None:
    """The sound file with more entries, then other attributes."""
    file = valid()
    file.entries += entries
    for attribute, value in changes.items():
        setattr(file, attribute, value)
    case(name, error, match, file)


def with_tensor(name: str, error: str, match: str, *tensors: bytes) -> None:
    file = valid()
    file.tensors += tensors
    case(name, error, match, file)


def with_split(
    name: str, error: str, match: str, changes: Callable[[list[File]], None], path: str = "set-00001-of-00003.gguf"
) -> None:
    CASES.append(Case(name, error, match, split(changes), path))


FORMAT, UNSUPPORTED, IO = "FormatError", "UnsupportedError", "FileIOError"
BEYOND = "beyond the end of the file at [0-9]+"

# fmt: off

# ---- the start -------------------------------------------------------------------------------------------------------------------
spoilt("empty_file", FORMAT, "empty_file.gguf: not a GGUF file: it is empty", keep=0)
spoilt("other_magic", FORMAT, "not a GGUF file: it begins with 67 67 6a 74", magic=b"ggjt")
spoilt("cut_in_version", FORMAT, "version: 4 bytes at offset 4 go beyond the end of the file at 7", keep=7)
spoilt("cut_in_counts", FORMAT, "key count: 8 bytes at offset 16 go beyond the end of the file at 20", keep=20)
spoilt("version_0", UNSUPPORTED, "GGUF version 0; versions 2 and 3 are read", version=0)
spoilt("version_1", UNSUPPORTED, "GGUF version 1; versions 2 and 3 are read", version=1)
spoilt("version_4", UNSUPPORTED, "GGUF version 4; versions 2 and 3 are read", version=4)
spoilt("big_endian", UNSUPPORTED, "big-endian", version=0x03000000)
spoilt("too_many_tensors", FORMAT, "1048577 tensors, more than the 1048576 allowed", n_tensors=(1 << 20) + 1)
spoilt("too_many_keys", FORMAT, "65537 metadata keys, more than the 65536 allowed", n_entries=(1 << 16) + 1)
spoilt("more_keys_than_bytes", FORMAT, "metadata: 65536 [^0-9]+ 14 bytes at offset 24 go " + BEYOND, n_entries=1 << 16)
spoilt("more_tensors_than_bytes", FORMAT, "tensors: 1048576 [^0-9]+ 33 bytes at offset [0-9]+ go " + BEYOND, n_tensors=1 << 20)

# ---- keys and values -------------------------------------------------------------------------------------------------------------
spoilt("key_too_long", FORMAT, "key [0-9]+: name of 65536 bytes, more than the 65535 allowed", scalar(b"k" * 65536, U8, 0))
spoilt("key_empty", FORMAT, "key [0-9]+: its name is empty", scalar(b"", U8, 0))
spoilt("key_twice", FORMAT, 'key "general.architecture": is there twice, as number 0 and [0-9]+',
       text(b"general.architecture", b"x"))
spoilt("key_beyond_the_end", FORMAT, "key [0-9]+: name: 60000 bytes at offset [0-9]+ go " + BEYOND, string(b"x", 60000))
spoilt("value_type_unknown", FORMAT, 'key "bad": the value.s type is 13, which is none', entry(b"bad", 13, b""))
spoilt("value_cut_off", FORMAT, 'key "bad": value: 8 bytes at offset [0-9]+ go ' + BEYOND,
       entry(b"bad", F64, b"\0" * 7), tensors=[], n_tensors=3,
       data_bytes=0, alignment=1)
spoilt("bool_of_2", FORMAT, 'key "bad": a bool is 2, neither 0 nor 1', scalar(b"bad", BOOL, 2))
spoilt("string_too_long", FORMAT, 'key "bad": string of 16777217 bytes, more than the 16777216 allowed',
       entry(b"bad", STRING, string(b"", (1 << 24) + 1)))
spoilt("string_beyond_the_end", FORMAT, 'key "bad": string: 100000 bytes at offset [0-9]+ go ' + BEYOND,
       entry(b"bad", STRING, string(b"", 100000)))
spoilt("name_is_escaped", FORMAT, r'key "n.xc3.xa9 ~.x1f.x7f.x00": a bool is 3', scalar("né ~\x1f\x7f\0".encode(), BOOL, 3))
spoilt("long_name_is_shortened", FORMAT, '^long_name_is_shortened.gguf: key "k{64,95}…": a bool', scalar(b"k" * 60000, BOOL, 3))

# ---- arrays ----------------------------------------------------------------------------------------------------------------------
spoilt("array_type_unknown", FORMAT, 'key "bad": an array.s element type is 99, which is none',
       entry(b"bad", ARRAY, array(99, 0, b"")))
spoilt("array_too_long", FORMAT, 'key "bad": an array of 67108865 items, more than the 67108864 allowed',
       entry(b"bad", ARRAY, array(U8, (1 << 26) + 1, b"")))
spoilt("array_beyond_the_end", FORMAT, 'key "bad": array: 4096 [^0-9]+ 8 bytes at offset [0-9]+ go ' + BEYOND,
       entry(b"bad", ARRAY, array(F64, 4096, b"")))
spoilt("array_of_strings_beyond_the_end", FORMAT, 'key "bad": array of strings: 4096 [^0-9]+ 8 bytes at offset [0-9]+ go ' + BEYOND,
       entry(b"bad", ARRAY, array(STRING, 4096, b"")))
spoilt("array_of_arrays_beyond_the_end", FORMAT, 'key "bad": array of arrays: 4096 [^0-9]+ 12 bytes at offset [0-9]+ go ' + BEYOND,
       entry(b"bad", ARRAY, array(ARRAY, 4096, b"")))
spoilt("array_bool_of_2", FORMAT, 'key "bad" item 2: a bool is 2, neither 0 nor 1',
       entry(b"bad", ARRAY, array(BOOL, 4, b"\0\1\2\3")))
spoilt("array_string_too_long", FORMAT, 'key "bad" item 1: string of 16777217 bytes, more than the 16777216 allowed',
       entry(b"bad", ARRAY, array(STRING, 2, string(b"x") + string(b"", (1 << 24) + 1))))
spoilt("array_string_beyond_the_end", FORMAT, 'key "bad" item 1: string: 9999 bytes at offset [0-9]+ go ' + BEYOND,
       entry(b"bad", ARRAY, array(STRING, 2, string(b"x") + string(b"", 9999))))
spoilt("array_length_overflows", FORMAT, 'key "bad": an array of 18446744073709551615 items',
       entry(b"bad", ARRAY, array(F64, 2**64 - 1, b"")))
spoilt("arrays_too_deep", FORMAT, 'key "bad": arrays nested 5 deep, more than the 4 allowed',
       entry(b"bad", ARRAY, array(ARRAY, 1, b"") * 4 + array(U8, 0, b"")))
spoilt("header_too_large", FORMAT, 'key "bad": array: the header goes on to byte [0-9]+, more than the 268435456 allowed',
       entry(b"bad", ARRAY, array(F64, 1 << 26, b"")), size=1 << 30)

# ---- alignment -------------------------------------------------------------------------------------------------------------------
spoilt("alignment_of_another_type", FORMAT, "general.alignment is of type u64, not u32", scalar(b"general.alignment", U64, 32))
for bad in (0, 1, 4, 12, 1 << 25):
    spoilt(f"alignment_of_{bad}", FORMAT, f"general.alignment is {bad}, not a power of two from 8 to 16777216",
               scalar(b"general.alignment", U32, bad))

# ---- tensors ---------------------------------------------------------------------------------------------------------------------
with_tensor("tensor_name_too_long", FORMAT, "tensor 3: name of 65 bytes, more than the 64 allowed",
            tensor(b"n" * 65, [4], TYPE_F32, 0))
with_tensor("tensor_name_empty", FORMAT, "tensor 3: its name is empty", tensor(b"", [4], TYPE_F32, 0))
with_tensor("tensor_twice", FORMAT, 'tensor "b.weight": is there twice, as number 1 and 3', tensor(b"b.weight", [4], TYPE_F32, 352))
with_tensor("tensor_without_dimensions", FORMAT, 'tensor "bad": has 0 dimensions, not 1 to 4', tensor(b"bad", [], TYPE_F32, 352))
with_tensor("tensor_of_5_dimensions", FORMAT, 'tensor "bad": has 5 dimensions, not 1 to 4', tensor(b"bad", [1] * 5, TYPE_F32, 352))
with_tensor("tensor_of_no_columns", FORMAT, 'tensor "bad": dimension 0 is 0', tensor(b"bad", [0, 4], TYPE_F32, 352))
with_tensor("tensor_of_no_rows", FORMAT, 'tensor "bad": dimension 1 is 0', tensor(b"bad", [4, 0], TYPE_F32, 352))
with_tensor("tensor_type_withdrawn", UNSUPPORTED, 'tensor "bad": its type is 4, which is unknown', tensor(b"bad", [32], 4, 352))
with_tensor("tensor_type_unknown", UNSUPPORTED, 'tensor "bad": its type is 1000, which is unknown', tensor(b"bad", [32], 1000, 352))
with_tensor("tensor_of_half_a_block", FORMAT, 'tensor "bad": has rows of 48 elements, not a multiple of Q4_0.s block of 32',
            tensor(b"bad", [48, 2], TYPE_Q4_0, 352))
with_tensor("tensor_shape_overflows", FORMAT, 'tensor "bad": its shape .4294967296, 4294967296, 1, 1. overflows 64 bits',
            tensor(b"bad", [1 << 32, 1 << 32], TYPE_F32, 352))
with_tensor("tensor_shape_overflows_signed", FORMAT, 'tensor "bad": its shape .9223372036854775808, 1, 1, 1. overflows 64 bits',
            tensor(b"bad", [1 << 63], TYPE_Q4_0, 352))
with_tensor("tensor_bytes_overflow", FORMAT, 'tensor "bad": its shape .4611686018427387904, 1, 1, 1. overflows 64 bits',
            tensor(b"bad", [1 << 62], TYPE_F64, 352))
with_tensor("tensor_misaligned", FORMAT, 'tensor "bad": its offset 340 is not a multiple of the alignment 32',
            tensor(b"bad", [4], TYPE_F32, 340))
with_tensor("tensor_beyond_the_end", FORMAT, 'tensor "bad": its 256 bytes at [0-9]+ . 352 go ' + BEYOND,
            tensor(b"bad", [64], TYPE_F32, 352))
with_tensor("tensor_offset_overflows", FORMAT, 'tensor "bad": its 16 bytes at [0-9]+ . 18446744073709551584 go ' + BEYOND,
            tensor(b"bad", [4], TYPE_F32, 2**64 - 32))
with_tensor("tensor_end_overflows", FORMAT,
            'tensor "bad": its 9223372036854775804 bytes at [0-9]+ . 9223372036854775808 go ' + BEYOND,
            tensor(b"bad", [(1 << 61) - 1], TYPE_F32, 1 << 63))
with_tensor("tensors_overlap", FORMAT, 'tensor "bad": starts at [0-9]+, inside tensor "b.weight", which goes from [0-9]+ to [0-9]+',
            tensor(b"bad", [8], TYPE_F32, 256))
with_tensor("tensors_at_one_place", FORMAT, 'tensor "(bad|a.weight)": starts at [0-9]+, inside tensor "(bad|a.weight)"',
            tensor(b"bad", [4], TYPE_F32, 0))
case("tensors_overlap_in_order", FORMAT, 'tensor "b": starts at 128, inside tensor "a", which goes from 96 to 132',
     File(tensors=[tensor(b"a", [9], TYPE_F32, 0), tensor(b"b", [4], TYPE_F32, 32)], data_bytes=96))
spoilt("tensor_cut_off", FORMAT, 'tensor "c.weight": offset: 8 bytes at offset [0-9]+ go ' + BEYOND, keep=len(valid().header()) - 3)
spoilt("data_cut_off", FORMAT, 'tensor "c.weight": its 36 bytes at [0-9]+ . 288 go ' + BEYOND, data_bytes=320)
spoilt("no_data", FORMAT, 'tensor "a.weight": its 32 bytes at [0-9]+ . 0 go ' + BEYOND, data_bytes=0)

# ---- split sets and paths --------------------------------------------------------------------------------------------------------


def set_keys(part: int, no: int, count: int, tensors: int) -> Callable[[list[File]], None]:
    def change(parts: list[File]) -> None:
        parts[part].entries[:3] = split_keys(no, count, tensors)

    return change


def drop_key(part: int, key: int) -> Callable[[list[File]], None]:
    return lambda parts: parts[part].entries.pop(key) and None


def duplicate_tensor(parts: list[File]) -> None:
    parts[2].tensors = parts[1].tensors


def no_magic(parts: list[File]) -> None:
    parts[1].magic = b"XXXX"


def second_is_whole(parts: list[File]) -> None:
    parts[1].entries = [text(b"general.architecture", b"llama")]


SECOND = "set-00002-of-00003.gguf: "
with_split("part_missing", IO, "part 2 of 3: .*set-00002-of-00003.gguf", lambda parts: None)
del CASES[-1].files["set-00002-of-00003.gguf"]
with_split("part_malformed", FORMAT, "part 2 of 3: " + SECOND + "not a GGUF file", no_magic)
with_split("part_is_whole_file", FORMAT, SECOND + "split.count is 0, but the part opened asks for 3", second_is_whole)
with_split("part_of_another_count", FORMAT, SECOND + "split.count is 4, but the part opened asks for 3", set_keys(1, 1, 4, 3))
with_split("part_of_another_number", FORMAT, SECOND + "split.no is 2, but the part opened asks for 1", set_keys(1, 2, 3, 3))
with_split("part_of_another_total", FORMAT, SECOND + "split.tensors.count is 4, but the part opened asks for 3",
           set_keys(1, 1, 3, 4))
with_split("split_number_out_of_range", FORMAT, "split.no is 3, outside of 0 to 2", set_keys(0, 3, 3, 3))
with_split("split_number_missing", FORMAT, "split.count is 3, but split.no is missing", drop_key(0, 0))
with_split("split_total_missing", FORMAT, "split.count is 3, but split.tensors.count is missing", drop_key(0, 2))
with_split("split_name_of_another_number", FORMAT,
           SECOND + "split.no is 0 and split.count 3, so its name should end in -00001-of-00003.gguf",
           set_keys(1, 0, 3, 3), "set-00002-of-00003.gguf")
with_split("split_tensor_twice", FORMAT, 'tensor "t1" is there twice, in part 2 and part 3', duplicate_tensor)


def wrong_total(parts: list[File]) -> None:
    for i in range(3):
        set_keys(i, i, 3, 4)(parts)


with_split("split_total_wrong", FORMAT, "split.tensors.count is 4, but the 3 parts hold 3", wrong_total)
case("split_without_a_name", FORMAT, "split.no is 0 and split.count 2, so its name should end in -00001-of-00002.gguf",
     File(split_keys(0, 2, 0)))
CASES.append(Case("split_name_of_a_missing_part", IO, "part 1 of 9: .*set-00001-of-00009.gguf",
                  {"set-00009-of-00009.gguf": File(split_keys(8, 9, 0))}, "set-00009-of-00009.gguf"))
CASES.append(Case("split_name_of_other_than_digits", FORMAT, "its name should end in -00010-of-00010.gguf",
                  {"set-0000:-of-00010.gguf": File(split_keys(9, 10, 0))}, "set-0000:-of-00010.gguf"))
case("split_count_of_another_type", FORMAT, "split.count is a value of type string, not an integer",
     File([text(b"split.count", b"2")]))
case("split_count_too_large", FORMAT, "split.count is 100000, outside of 0 to 99999", File([scalar(b"split.count", U32, 100000)]))
CASES.append(Case("no_such_file", IO, "nowhere.gguf", {}, "nowhere.gguf"))
CASES.append(Case("a_directory", IO, "not a regular file", {}, "."))


def write(directory: Path) -> list[tuple[Case, Path]]:
    """Writes each case into a folder of its own; returns the cases with the path to open."""
    paths = []
    for c in CASES:
        folder = directory / c.name
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in c.files.items():
            with open(folder / name, "wb") as out:
                out.write(file.to_bytes())
                if file.size:
                    out.truncate(file.size)
        paths.append((c, folder / c.open))
    return paths


def main() -> None:
    directory = Path(sys.argv[1])
    cases = write(directory)
    lines = [f"{path}\t{c.error}\t{c.match}\n" for c, path in cases]
    (directory / "manifest.tsv").write_text("".join(lines), encoding="utf-8")
    print(f"{len(cases)} malformed files in {directory}")


if __name__ == "__main__":
    main()
