"""What the first bytes of a file say: the codec that compresses it, and its format."""

import re

import orjson

from pruner.corpus.names import Codec, Format

HEAD_BYTES = 1 << 16
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CODECS: dict[Codec, re.Pattern[bytes]] = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # a frame, or one that is skipped
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
}
ARROW_FILE = b"ARROW1\x00\x00"
ARROW_STREAM = b"\xff\xff\xff\xff"
_OTHERS = {b"FEA1": "Feather version 1", b"PARE": "encrypted Parquet", b"PK\x03\x04": "a zip archive"}
_OTHERS |= {b"\xff\xfe": "UTF-16 text", b"\xfe\xff": "UTF-16 text", b"SQLite format 3": "an SQLite database"}

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def is_lfs_pointer(head: bytes) -> bool:
    """Whether the bytes are those of a Git LFS pointer, which stands in a clone for a file that was not downloaded."""
    return head.startswith(_LFS_POINTER)


def codec_of(head: bytes) -> Codec | None:
    """The codec of a file that begins with these bytes, or None if it is not compressed."""
    return next((codec for codec, magic in _CODECS.items() if magic.match(head)), None)


def binary_format(head: bytes) -> Format | None:
    """`parquet` or `arrow` where the decoded bytes begin as such a file does."""
    if head.startswith(b"PAR1"):
        return "parquet"
    return "arrow" if head.startswith((ARROW_FILE, ARROW_STREAM)) else None


def other_format(head: bytes) -> str | None:
    """The name of a known format that is not read, such as `a tar archive`, or None."""
    if head[257:262] == b"ustar":
        return "a tar archive"
    return next((name for magic, name in _OTHERS.items() if head.startswith(magic)), None)


def is_text(head: bytes) -> bool:
    """Whether the bytes look like UTF-8 text. The last character may be cut."""
    try:
        head[:-4].decode() if len(head) > 4 else head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 8
    return b"\x00" not in head


def first_line(head: bytes) -> tuple[bytes, bool]:
    """The first line that is not blank, stripped, without a byte order mark; and whether it is complete."""
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    line, end, _ = text.partition(b"\n")
    return line.strip(), bool(end) or len(head) < HEAD_BYTES


def is_json_line(head: bytes) -> bool:
    """Whether the first line is a JSON object, or the beginning of one that is longer than the head."""
    line, complete = first_line(head)
    if not complete:
        return re.match(rb'\{\s*"', line) is not None
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False
