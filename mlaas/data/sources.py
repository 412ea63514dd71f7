"""From the workflow's `files` to paths and URLs that can be opened: globs, the redirector, labels and weights that follow, formats."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlaas.data.access import REMOTE, file_system, identity, open_binary, openable, redacted, url_path
from mlaas.data.credentials import scheme, storage_options
from mlaas.data.proxied import unproxied
from mlaas.data.trouble import explain, reading
from mlaas.errors import DataError, nearest

__all__ = [
    "FORMATS",
    "Source",
    "detect",
    "expand",
    "explain",
    "identity",
    "named_format",
    "open_binary",
    "openable",
    "reading",
    "redacted",
    "resolve",
    "storage_options",
]

FORMATS = ("root", "csv", "json", "parquet", "avro")
CMS_REDIRECTOR = "root://cms-xrd-global.cern.ch"

_EXTENSIONS = {
    "root": "root", "csv": "csv", "tsv": "csv", "json": "json", "jsonl": "json", "ndjson": "json", "parquet": "parquet", "parq": "parquet",
    "pq": "parquet", "avro": "avro",
}  # fmt: skip
_MAGIC = {b"root": "root", b"PAR1": "parquet", b"Obj\x01": "avro"}
_ALIASES = {"xroot": "root", "xrootd": "root", "dav": "http", "davs": "https", "s3a": "s3"}
_PACKED = re.compile(r"\.(gz|bz2|xz|zst|zstd)$", re.I)


@dataclass(frozen=True, slots=True)
class Source:
    """One file of events.

    path: what can be opened. label: of all its events; None when a branch holds the labels. weight: factor on every event weight.
    entry: the item of `files` that it comes from.
    """

    path: str
    label: str | int | float | None
    weight: float
    entry: str


def expand(
    files: Sequence[str],
    labels: Sequence[str | int | float] | str,
    file_weights: Sequence[float] = (),
    *,
    redirector: str = CMS_REDIRECTOR,
    base: Path | None = None,
) -> list[Source]:
    """Every file behind `files`, in order, with its label and weight; the files of a glob share those of the glob.

    labels: one per item of `files`, or the name of the branch that holds them. file_weights: one per item, or empty for 1.
    Raises DataError when an item cannot be resolved (see `resolve`) or the numbers of items differ.
    """
    named: Sequence[str | int | float | None] = [None] * len(files) if isinstance(labels, str) else labels
    weights = list(file_weights) or [1.0] * len(files)
    for what, given in (("labels", named), ("file_weights", weights)):
        if len(given) != len(files):
            raise DataError(f"{what}: {len(given)} given for {len(files)} files; give one per file")
    sources = [
        Source(path, label, weight, entry)
        for entry, label, weight in zip(files, named, weights, strict=True)
        for path in _matches(entry, redirector, base)
    ]
    _refuse_twice([source.path for source in sources])
    return sources


def resolve(entries: Sequence[str], *, redirector: str = CMS_REDIRECTOR, base: Path | None = None) -> list[str]:
    """The openable paths and URLs behind `entries`, in order; the matches of a glob in natural order (file2 before file10).

    An entry is a local path, with ~ and wildcards, relative to `base` (default: the current folder); a root://, http(s)://, s3:// or
    file:// URL, with wildcards where the server lists folders; or a bare logical file name: /store/... that is not found here gets
    the redirector, and so does any other absolute path whose top folder does not exist here when the redirector is not the CMS default.
    Raises DataError for a missing file, a folder, a glob without match, an unsupported scheme, or a file named twice.
    """
    paths = [path for entry in entries for path in _matches(entry, redirector, base)]
    _refuse_twice(paths)
    return paths


def detect(path: str, dtype: str | None = None) -> str:
    """The format of a file: "root", "csv", "json", "parquet" or "avro".

    `dtype` decides when given, then the extension (.gz, .bz2, .xz and .zst are looked through), then the first bytes. Raises DataError.
    """
    if dtype:
        if dtype not in FORMATS:
            raise DataError(f"dtype: {dtype!r} is unknown{nearest(dtype, FORMATS)}; allowed are {', '.join(FORMATS)}")
        return dtype
    if found := named_format(path):
        return found
    with reading(path), open_binary(path) as stream:
        head = stream.read(64)
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if head.lstrip()[:1] in (b"{", b"["):
        return "json"
    raise DataError(f"{redacted(path)}: neither its name nor its first bytes tell the format; set dtype to one of {', '.join(FORMATS)}")


def named_format(path: str) -> str | None:
    """The format that the file's name tells, or None."""
    return _EXTENSIONS.get(_PACKED.sub("", url_path(path).rstrip("/")).rpartition(".")[2].lower())


def _matches(entry: str, redirector: str, base: Path | None) -> list[str]:
    text = entry.strip()
    if not text:
        raise DataError("files: an empty name; give paths or URLs")
    protocol = _ALIASES.get(scheme(text), scheme(text))
    if protocol == "file":
        url = urlsplit(text)
        if url.netloc not in ("", "localhost"):
            raise DataError(f"{text}: file:// names a file of this machine; write file:///path")
        text, protocol, redirector = unquote(url.path), "", ""
    if not protocol:
        with reading(text):
            return _local(text, redirector, base)
    if protocol not in REMOTE:
        allowed = "local paths, file://, root://, http://, https:// and s3://"
        raise DataError(f"{redacted(text)}: {scheme(text)}:// is not supported{nearest(protocol, REMOTE)}; allowed are {allowed}")
    url_text = f"{protocol}://{text.partition('://')[2]}"
    if not urlsplit(url_text).netloc:
        raise DataError(f"{text}: the URL names no host")
    return _listed(url_text) if re.search(r"[*\[]", url_path(url_text)) else [url_text]


def _local(text: str, redirector: str, base: Path | None) -> list[str]:
    path = (base or Path()) / os.path.expanduser(text)  # noqa: PTH111 - leaves ~nobody as it is
    if path.is_dir():
        raise DataError(f"{text} is a folder; name its files, e.g. {text.rstrip('/')}/*.root")
    if path.exists():
        return [str(path)]
    wild = glob.has_magic(str(path))
    if wild and (found := [match for match in glob.glob(str(path), recursive=True) if Path(match).is_file()]):  # noqa: PTH207
        return sorted(found, key=_natural)
    if _is_logical(text, redirector):
        url = _redirected(text, redirector)
        return _listed(url) if wild else [url]
    if wild:
        raise DataError(f"{text}: no file matches")
    known = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(f"there is no file {text}{nearest(path.name, known)}")


def _is_logical(text: str, redirector: str) -> bool:
    """Whether an absent path is a logical file name of the grid; a misspelt local path must not be sought on servers abroad."""
    if not redirector or not text.startswith("/"):
        return False
    if text.startswith("/store/"):
        return True
    return redirector.rstrip("/") != CMS_REDIRECTOR and not Path("/", text.lstrip("/").partition("/")[0]).exists()


def _redirected(name: str, redirector: str) -> str:
    """The URL of a logical file name; XRootD wants two slashes between host and absolute path."""
    protocol = _ALIASES.get(scheme(redirector), scheme(redirector))
    host, _, prefix = redirector.partition("://")[2].partition("/")
    if protocol not in ("root", "http", "https") or not host:
        raise DataError(f"params.redirector: {redacted(redirector)!r} is not the URL of a server; write e.g. {CMS_REDIRECTOR}")
    prefix = prefix.strip("/")
    absolute = (f"/{prefix}" if prefix else "") + "/" + name.lstrip("/")
    return f"{protocol}://{host}{'/' if protocol == 'root' else ''}{absolute}"


def _listed(url: str) -> list[str]:
    """The files that match a remote glob."""
    with reading(url):
        fs, pattern = file_system(url)
        found: Mapping[str, Mapping[str, object]] = fs.glob(pattern, detail=True)
        names = [unproxied(str(fs.unstrip_protocol(name))) for name, info in found.items() if info.get("type") == "file"]
    if not names:
        raise DataError(f"{redacted(url)}: no file matches")
    return sorted(names, key=_natural)


def _natural(path: str) -> list[tuple[int, int]]:
    """A sort key that puts file.root before file2.root and that before file10.root."""
    return [(ord("0"), int(part)) if part[0] in "0123456789" else (ord(part), 0) for part in re.findall(r"[0-9]+|[^0-9]", path, re.S)]


def _refuse_twice(paths: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for path in paths:
        key = path if scheme(path) else os.path.realpath(path)
        if key in seen:
            other = "" if seen[key] == path else f" (also as {redacted(seen[key])})"
            raise DataError(f"files: {redacted(path)} is named twice{other}; its events would count twice")
        seen[key] = path
