"""Opening files of events, whatever their format: the one door through which data come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import uproot

from mlaas.data.files import EventFile
from mlaas.data.formats import open_table
from mlaas.data.ntuples import NtupleFile
from mlaas.data.sources import detect, explain, openable, storage_options
from mlaas.data.trees import TreeFile
from mlaas.errors import DataError, MLaaSError, nearest

READABLE = ("TTree", "TNtuple", "TNtupleD", "ROOT::RNTuple", "ROOT::Experimental::RNTuple")


def open_events(path: str, *, tree: str | None = None, dtype: str | None = None, workers: int = 1, direct: bool = True) -> EventFile:
    """Open a file of events.

    tree: path of the TTree or RNTuple in a ROOT file; None takes the only one. dtype: the format, if the file's name does not tell.
    workers: threads that decode. direct: False reads ROOT files with uproot alone.
    Raises DataError with one sentence when the file or the tree is missing, damaged or of another kind.
    """
    format = detect(path, dtype)
    if format != "root":
        return open_table(path, format)
    file = _open(path)
    try:
        _whole(file, path)
        found = _tree(file, path, tree)
        if file.classname_of(found).startswith("ROOT::"):
            return NtupleFile(path, file[found])
        return TreeFile(path, file[found], workers=workers, direct=direct)
    except MLaaSError:
        file.close()
        raise
    except Exception as error:
        file.close()
        raise explain(path, error) from error


def trees(path: str) -> list[str]:
    """The paths of all trees of a ROOT file."""
    with _open(path) as file:
        try:
            return _known(file)
        except Exception as error:
            raise explain(path, error) from error


def _open(path: str) -> Any:
    """The ROOT file, not split at a colon; a temporary copy where a server gives whole files only."""
    try:
        where = openable(path)
        how = (
            {"handler": uproot.MultithreadedFileSource} if isinstance(where, str) and Path(where).is_file() else storage_options(path)
        )  # for local files faster than fsspec
        return uproot.open({where: None}, **how)
    except MLaaSError:
        raise
    except Exception as error:
        raise explain(path, error) from error


def _whole(file: Any, path: str) -> None:
    """A file that is shorter than its header says may still open; what is missing would be found out in the middle of the reading, or never."""
    end = int(file.file.fEND)
    if Path(path).is_file() and (size := Path(path).stat().st_size) < end:
        raise DataError(f"{path} is truncated: it has {size:,} bytes of {end:,}; fetch or write it again")


def _known(file: Any) -> list[str]:
    """Trees by path without cycle numbers, each once."""
    names = [key for key, kind in file.classnames(recursive=True, cycle=False).items() if kind in READABLE]
    return list(dict.fromkeys(names))


def _tree(file: Any, path: str, tree: str | None) -> str:
    """The path of the wanted tree in the file."""
    known = _known(file)
    if not known:
        raise DataError(f"{path} holds no TTree or RNTuple")
    if tree is None:
        if len(known) > 1:
            raise DataError(f"{path} holds several trees; choose one of {', '.join(known[:10])} with params.branch (or --tree)")
        return known[0]
    wanted = tree.split(";")[0].strip("/")
    if wanted not in known:
        shown = nearest(wanted, known) or f"; it holds {', '.join(known[:10])}"
        raise DataError(f"{path} has no tree {tree!r}{shown}")
    return wanted if ";" not in tree else tree.strip("/")
