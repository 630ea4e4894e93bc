"""What file names say: formats and codecs of corpus files, files that are left out, and data that cannot be read.

Names are compared without regard to case. A name is a hint only: see content.py.
"""

from typing import Literal

Format = Literal["parquet", "jsonl", "arrow", "csv", "tsv"]
Codec = Literal["gzip", "zstd", "bz2", "xz"]

FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".csv": "csv",
    ".tsv": "tsv",
}
CODECS: dict[str, Codec] = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2", ".xz": "xz"}
KNOWN = ", ".join(FORMATS)

_DOCUMENTATION = frozenset(
    ("readme", "license", "licence", "copying", "notice", "changelog", "citation", "contributing", "authors")
)
_LEFT_OUT = {  # reasons, and the suffixes of files that are no data
    "documentation": ".md .rst .html .htm .pdf .tex .bib .cff .png .jpg .jpeg .gif .svg .webp",
    "code or settings": ".py .ipynb .sh .r .yaml .yml .toml .ini .cfg .log .lock",
    "temporary files": ".tmp .temp .part .partial .crdownload .download .incomplete .aria2 .swp .swo .bak .orig",
    "checksums": ".md5 .sha1 .sha256 .sha512 .crc .crc32c .asc .sig",
}
_REASONS = {suffix: why for why, suffixes in _LEFT_OUT.items() for suffix in suffixes.split()}
_CHECKSUMS = frozenset(("md5sums", "sha1sums", "sha256sums", "sha512sums", "checksums"))
_METADATA = frozenset(("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json"))
_UNREADABLE = {  # what to do, and the suffixes of data that cannot be read
    "unpack it": ".tar .tgz .tbz2 .txz .zip .7z .rar",
    "convert it to Parquet or JSON lines": ".mds .tfrecord .tfrecords .avro .orc .npy .npz .bin .idx .ds .pkl .pickle"
    " .pt .h5 .hdf5 .lance .vortex .sqlite .sqlite3 .db .mdb .xlsx .xls .ods .warc .wet .wat .rec .beton .xml"
    " .safetensors .gguf",
    "decompress it": ".lz4 .lzo .br .lzma .z .snappy",
}
_ADVICE = {suffix: advice for advice, suffixes in _UNREADABLE.items() for suffix in suffixes.split()}


def format_of(name: str) -> Format | None:
    """The format of a file by the end of its name, or None if it is unknown."""
    return FORMATS.get(_suffix(name)[0])


def left_out_reason(name: str) -> str | None:
    """Why a file with this name is no part of a corpus, or None if it may be."""
    lower = name.lower()
    stem = lower.partition(".")[0]
    suffix, codec = _suffix(name)
    if lower.endswith("~") or (lower[0] == lower[-1] == "#"):  # copies that editors keep
        return "temporary files"
    if lower in _METADATA:
        return "metadata"
    if codec is not None or suffix in FORMATS:
        return None
    if stem in _CHECKSUMS:
        return "checksums"
    return "documentation" if stem in _DOCUMENTATION else _REASONS.get(suffix)


def unreadable_reason(name: str) -> str | None:
    """What is wrong with a file that looks like data which cannot be read, and what to do; None for other files."""
    suffix, _ = _suffix(name)
    advice = _ADVICE.get(suffix)
    return advice and f"{suffix} files are not read; {advice}, or exclude it (exclude: '*{suffix}*')"


def _suffix(name: str) -> tuple[str, Codec | None]:
    """The suffix of a name before that of its codec, in lower case, and the codec."""
    stem, dot, last = name.lower().rpartition(".")
    codec = CODECS.get(dot + last)
    if codec is not None:
        _, dot, last = stem.rpartition(".")
    return (dot + last if dot else ""), codec
