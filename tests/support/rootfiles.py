"""ROOT files of every layout for tests of the readers, and the comparison with what uproot reads."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from mlaas.data.columns import Column, Columns, Jagged, concatenate
from mlaas.data.reader import open_events
from mlaas.data.trees import TreeFile

DTYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "?")
CODECS = {"zlib": uproot.ZLIB(1), "lz4": uproot.LZ4(4), "zstd": uproot.ZSTD(5), "lzma": uproot.LZMA(1), "none": None}

# Written by ROOT itself: what uproot cannot write. `em` is never flushed, so its baskets lie inside the tree's own record.
_ODD = r"""
#include <TFile.h>
#include <TTree.h>
#include <TKey.h>
#include <TLorentzVector.h>
#include <TNtuple.h>
#include <array>
#include <string>
#include <vector>
void mlaas_odd(const char *path, int n) {
  TFile f(path, "RECREATE");
  TTree t("odd", "odd");
  Double32_t d32, r32; Float16_t f16; UChar_t nuc; Short_t ns; UShort_t nus; Long64_t nl; UInt_t nu; Char_t nc;
  float a[10], fix[3], mat[2][3], jm[10][2]; double b[10]; int c[10]; short d[10]; bool e[10]; UChar_t g[10]; Double32_t jd[10]; bool flag;
  std::vector<std::vector<float>> vv; std::string s; TLorentzVector p4; std::vector<std::string> vs; char text[16];
  std::vector<bool> vb; std::vector<short> vsh; std::vector<ULong64_t> vul; std::vector<unsigned char> vuc; std::vector<double> vd;
  std::vector<Long64_t> vl; std::vector<float> vf; std::vector<int> vi; std::array<float, 4> arr;
  struct { int i; float x; } leaves;
  t.Branch("d32", &d32); t.Branch("r32", &r32, "r32/d[0,100,20]"); t.Branch("f16r", &f16, "f16r/f[0,100,12]");
  t.Branch("nuc", &nuc, "nuc/b"); t.Branch("a", a, "a[nuc]/F"); t.Branch("ns", &ns, "ns/S"); t.Branch("b", b, "b[ns]/D");
  t.Branch("nus", &nus, "nus/s"); t.Branch("c", c, "c[nus]/I"); t.Branch("nl", &nl, "nl/L"); t.Branch("d", d, "d[nl]/S");
  t.Branch("nu", &nu, "nu/i"); t.Branch("e", e, "e[nu]/O"); t.Branch("jm", jm, "jm[nu][2]/F"); t.Branch("jd", jd, "jd[nu]/d");
  t.Branch("nc", &nc, "nc/B"); t.Branch("g", g, "g[nc]/b");
  t.Branch("fix", fix, "fix[3]/F"); t.Branch("mat", mat, "mat[2][3]/F"); t.Branch("arr", &arr);
  t.Branch("vv", &vv); t.Branch("s", &s); t.Branch("p4.", &p4); t.Branch("vs", &vs); t.Branch("text", text, "text/C"); t.Branch("flag", &flag);
  t.Branch("vb", &vb); t.Branch("vsh", &vsh); t.Branch("vul", &vul); t.Branch("vuc", &vuc); t.Branch("vd", &vd); t.Branch("vl", &vl);
  t.Branch("vf", &vf); t.Branch("vi", &vi); t.Branch("leaves", &leaves, "i/I:x/F");
  t.Branch("with.dot", &flag, "y/O"); t.Branch("with/slash", &f16, "x/F");
  t.SetBasketSize("*", 1000); t.SetBasketSize("vd", 300); t.SetBasketSize("b", 400); t.SetBasketSize("vsh", 250);
  auto set = [&](int i) {
    d32 = i * .25; r32 = i % 100; f16 = i % 100; flag = i % 3 == 0;
    nuc = i % 5; ns = (i * 7) % 4; nus = (i * 3) % 6; nl = i % 3; nu = (i * 5) % 7; nc = i % 2;
    for (int k = 0; k < 10; k++) {
      a[k] = i + k * .1; b[k] = i - k; c[k] = i * k; d[k] = k - i; e[k] = (i + k) % 2; g[k] = k + i; jd[k] = k * .5 + i; jm[k][0] = jm[k][1] = k; }
    for (int k = 0; k < 3; k++) fix[k] = i * k;
    for (int k = 0; k < 4; k++) arr[k] = i + k;
    vv.assign(i % 3, std::vector<float>(i % 2, 1.5)); s = std::string(i % 5, 'x'); p4.SetPxPyPzE(i, 1, 2, 3); vs.assign(i % 2, "q");
    snprintf(text, 16, "t%d", i);
    vb.assign(i % 4, i % 2); vsh.assign(i % 5, i); vul.assign(i % 2, i); vuc.assign(i % 3, i); vd.assign((i * 11) % 13, i * .1); vl.assign(i % 2, -i);
    vf.assign(i % 6, i * .5); vi.assign(i % 6, i); leaves.i = i; leaves.x = i;
  };
  for (int i = 0; i < n; i++) { set(i); t.Fill(); }
  t.Write();
  auto few = [&](TTree &tree) {
    tree.Branch("x", &f16, "x/F"); tree.Branch("nuc", &nuc, "nuc/b"); tree.Branch("a", a, "a[nuc]/F"); tree.Branch("vd", &vd); };
  TTree empty("empty", "empty"); few(empty); empty.Write();
  TTree one("one", "one"); few(one); set(4); one.Fill(); one.Write();
  TDirectory *sub = f.mkdir("sub"); sub->cd();
  TNtuple nt("nt", "nt", "x:y:z"); for (int i = 0; i < 50; i++) nt.Fill(i, i * 2, i * 3); nt.Write();
  TTree em("em", "em"); em.SetDirectory(nullptr); few(em); em.SetBasketSize("*", 2000); em.SetAutoFlush(0);
  for (int i = 0; i < 700; i++) { set(i); em.Fill(); }
  TKey *key = new TKey((TObject *)&em, "em", 1000000, sub); key->WriteFile(1);
  sub->SaveSelf(kTRUE);
  f.Close();
}
"""


def write_odd(path: Path, events: int = 500) -> Path:
    """A file with trees `odd`, `empty`, `one`, `sub/nt` (a TNtuple) and `sub/em` (baskets inside the tree). In a process of its own, for ROOT
    takes over signals and the interpreter's start.
    """
    code = f"import ROOT; assert ROOT.gInterpreter.Declare({_ODD!r}); ROOT.mlaas_odd({str(path)!r}, {events})"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    return path


def batch(n: int, seed: int = 0, *, longest: int = 4) -> dict[str, Any]:
    """`n` events: a flat branch, a list and an array x[3] of every type, and a collection `jet` whose fields share their lengths."""
    rng = np.random.default_rng(seed)

    def values(size: int, dtype: str) -> Any:
        return rng.integers(0, 2 if dtype == "?" else 100, size).astype(dtype)

    def lists(dtype: str, counts: Any) -> Any:
        return ak.unflatten(values(int(counts.sum()), dtype), counts)

    out: dict[str, Any] = {}
    for dtype in DTYPES:
        tag = dtype.replace("?", "b1")
        out[f"flat_{tag}"] = values(n, dtype)
        out[f"list_{tag}"] = lists(dtype, rng.integers(0, longest + 1, n))
        out[f"array_{tag}"] = values(3 * n, dtype).reshape(n, 3)
    counts = rng.integers(0, longest + 1, n)
    out["jet"] = ak.zip({"pt": lists("f4", counts), "id": lists("i4", counts), "tag": lists("?", counts)})
    return out


def write_tree(path: Path, batches: Sequence[dict[str, Any]], *, tree: str = "events", codec: str = "zlib") -> Path:
    """Write batches by uproot, one basket per branch and batch."""
    with uproot.recreate(path, compression=CODECS[codec]) as file:
        target = file.mktree(tree, {name: _type(values) for name, values in batches[0].items()}, field_name=lambda outer, inner: f"{outer}_{inner}")
        for arrays in batches:
            target.extend(arrays)
    return path


def _type(values: Any) -> Any:
    if hasattr(values, "type"):
        return values.type.content
    return values.dtype if values.ndim == 1 else np.dtype((values.dtype, values.shape[1:]))


def lists(column: Column) -> Any:
    """The values as plain Python."""
    return column.lists() if isinstance(column, Jagged) else column.tolist()


def assert_same(column: Column, array: Any) -> None:
    """The column holds exactly what uproot reads, in the same type and with the same lengths."""
    if isinstance(column, Jagged):
        np.testing.assert_array_equal(column.counts, ak.to_numpy(ak.num(array)))
        array, column = ak.flatten(array), column.flat
    expected = ak.to_numpy(array)
    assert column.dtype == expected.dtype.newbyteorder("=")
    assert column.dtype.isnative
    np.testing.assert_array_equal(column, expected)


def read(path: Path | str, tree: str, start: int = 0, stop: int | None = None, *, workers: int = 1, names: Sequence[str] = ()) -> Columns | None:
    """The columns of a range of entries; None when there are no batches."""
    with open_events(str(path), tree=tree, workers=workers) as file:
        batches = list(file.batches(list(names) or list(file.branches), start, stop))
    return concatenate(batches) if batches else None


def compare(path: Path | str, tree: str, start: int = 0, stop: int | None = None, *, workers: int = 1) -> int:
    """Compare every usable branch with uproot; returns how many there are."""
    with open_events(str(path), tree=tree, workers=workers) as file, uproot.open({str(path): None}) as other:
        handles = file._handles if isinstance(file, TreeFile) else None
        reference = other[tree]
        names = list(file.branches)
        batches = list(file.batches(names, start, stop))
        last = reference.num_entries if stop is None else min(stop, reference.num_entries)
        assert sum(part.n for part in batches) == (max(0, last - start) if names else 0)
        if not batches:
            return len(names)
        columns = concatenate(batches)
        assert list(columns) == names
        for name in names:
            handle = reference[name] if handles is None else handles[name]
            assert columns[name].content.dtype == file.branches[name].dtype if isinstance(columns[name], Jagged) else True
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # uproot on interpretations it finds doubtful
                assert_same(columns[name], handle.array(entry_start=start, entry_stop=stop, library="ak"))
        return len(names)


def has_compiler() -> bool:
    """Whether ROOT's interpreter finds the standard headers."""
    return shutil.which("c++") is not None
