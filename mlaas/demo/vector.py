"""Write TTrees with `std::vector` branches by ROOT itself, whose wheel is on PyPI (extra `root`)."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlaas.data.columns import Column, Columns, Jagged
from mlaas.errors import MissingExtraError, UserError

# The loop over entries must be compiled: assigning 52 vectors per event from Python takes a hundred times as long.
_FILLER = """
namespace mlaas {
struct Source {
  virtual ~Source() {}
  virtual void book(TTree &tree, const char *name, int bytes) = 0;
  virtual void use(std::uintptr_t values, std::uintptr_t offsets) = 0;
  virtual void load(Long64_t i) = 0;
};
template <typename T> struct Lists : Source {
  std::vector<T> value; const T *values = nullptr; const Long64_t *offsets = nullptr;
  void book(TTree &tree, const char *name, int bytes) override { tree.Branch(name, &value)->SetBasketSize(bytes); }
  void use(std::uintptr_t v, std::uintptr_t o) override { values = reinterpret_cast<const T *>(v); offsets = reinterpret_cast<const Long64_t *>(o); }
  void load(Long64_t i) override { value.assign(values + offsets[i], values + offsets[i + 1]); }
};
template <typename T> struct Single : Source {
  T value{}; const T *values = nullptr;
  void book(TTree &tree, const char *name, int bytes) override { tree.Branch(name, &value)->SetBasketSize(bytes); }
  void use(std::uintptr_t v, std::uintptr_t) override { values = reinterpret_cast<const T *>(v); }
  void load(Long64_t i) override { value = values[i]; }
};
void fill(TTree &tree, const std::vector<Source *> &sources, Long64_t n) {
  for (Long64_t i = 0; i < n; i++) { for (auto *source : sources) source->load(i); tree.Fill(); }
  tree.FlushBaskets();
}
}
"""
_CPP = {"float32": "float", "float64": "double", "int32": "int", "int64": "Long64_t", "bool": "bool"}
_CODEC = {"zlib": 101, "lz4": 404, "zstd": 505, "none": 0}


def write_vectors(path: Path, tree: str, batches: Iterator[Columns], compression: str) -> None:
    """Write batches of events to a TTree whose lists are `std::vector` branches, one basket per batch.

    Raises MissingExtraError when ROOT is not installed, UserError when there is no C++ compiler beside it.
    """
    root = _root()
    file = root.TFile.Open(str(path), "RECREATE", "", _CODEC[compression])
    if not file or file.IsZombie():
        raise OSError(f"ROOT cannot create {path}")
    try:
        target = root.TTree(tree, tree)
        target.SetAutoFlush(0)
        sources: Any = None
        for batch in batches:
            if sources is None:
                sources = {name: _source(root, column) for name, column in batch.data.items()}
                for name, source in sources.items():
                    source.book(target, name, _basket_bytes(batch.data[name]))
                pointers = root.std.vector["mlaas::Source*"](list(sources.values()))
            _fill(root, target, sources, pointers, batch)
        target.Write()
    finally:
        file.Close()


def _fill(root: Any, target: Any, sources: dict[str, Any], pointers: Any, batch: Columns) -> None:
    kept = []  # the arrays must live while ROOT reads them
    for name, column in batch.data.items():
        values = np.ascontiguousarray(column.content if isinstance(column, Jagged) else column)
        offsets = np.ascontiguousarray(column.offsets) if isinstance(column, Jagged) else values
        kept.append((values, offsets))
        sources[name].use(values.ctypes.data, offsets.ctypes.data)
    root.mlaas.fill(target, pointers, len(batch))


def _basket_bytes(column: Column) -> int:
    """Room for a batch as ROOT stores it (14 bytes per list: a header and an entry offset), so that no basket is flushed early."""
    values = column.flat.nbytes + 14 * len(column) if isinstance(column, Jagged) else column.nbytes
    return int(1.3 * values) + 32_000


def _source(root: Any, column: Column) -> Any:
    kind = "Lists" if isinstance(column, Jagged) else "Single"
    dtype = column.content.dtype if isinstance(column, Jagged) else column.dtype
    return getattr(root.mlaas, kind)[_CPP[dtype.name]]()


def _root() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel announces that it is an alpha release
            import ROOT
    except ImportError:
        raise MissingExtraError("ROOT", "root") from None
    if shutil.which("c++") is None:  # its interpreter asks the compiler for the standard headers
        raise UserError("the layout vector is written by ROOT, whose interpreter needs a C++ compiler: install one (Debian: apt-get install g++)")
    if not hasattr(ROOT, "mlaas"):
        ROOT.gInterpreter.Declare(_FILLER)
    return ROOT
