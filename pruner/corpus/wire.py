"""Messages between a process and the reader that it started: JSON and plain bytes, nothing that runs when it is read.

A message is one byte that says its kind, its length in eight bytes (little-endian), and so many bytes:

    PLAN    a plan as JSON
    FILE    the URL of the file that is looked at next, as JSON
    BLOCK   a block: the length of a JSON header in four bytes, the header, and the texts in UTF-8, one after the other
    END     nothing: the answer is whole
    ERROR   [kind, message, errno or null] as JSON; kinds are those of ERRORS
"""

import struct
from typing import Any, Literal

import orjson

from pruner.corpus.files import CorpusFile
from pruner.corpus.plan import Plan, Shard
from pruner.corpus.shard_reader import Block

PLAN, FILE, BLOCK, END, ERROR = b"P", b"F", b"B", b"E", b"X"
HEAD = struct.Struct("<cQ")
# The largest message that is taken: a block with the longest labels, escaped, or the plan of a huge corpus.
BYTES_MAX = 1 << 30
_LENGTH = struct.Struct("<I")
ErrorKind = Literal["input", "memory", "os", "other"]


def encode_block(block: Block) -> bytes:
    """A block as the content of a message."""
    texts = [None if text is None else text.encode() for text in block.texts]
    lengths = [None if text is None else len(text) for text in texts]
    header = orjson.dumps([lengths, block.ids, block.domains, block.rejects, block.characters])
    return b"".join((_LENGTH.pack(len(header)), header, *(text for text in texts if text is not None)))


def decode_block(content: memoryview) -> Block:
    """The block that `encode_block` made a message of."""
    (size,) = _LENGTH.unpack_from(content)
    place = _LENGTH.size + size
    lengths, ids, domains, rejects, characters = orjson.loads(content[_LENGTH.size : place])
    texts: list[str | None] = []
    for length in lengths:
        texts.append(None if length is None else str(content[place : place + length], "utf-8"))
        place += length or 0
    return Block(texts, ids, domains, rejects, characters)


def encode_plan(plan: Plan) -> bytes:
    """A plan as JSON."""
    return orjson.dumps(plan)


def decode_plan(content: memoryview) -> Plan:
    """The plan that `encode_plan` made JSON of."""
    made: dict[str, Any] = orjson.loads(content)
    files = tuple(CorpusFile(**file) for file in made["files"])
    return Plan(files, tuple(made["footers"]), tuple(Shard(**shard) for shard in made["shards"]))
