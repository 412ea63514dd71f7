"""Write the report of a run: `index.html` and its PNG files, all or nothing."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from pathlib import Path

from mlaas.errors import ResourceError
from mlaas.report.data import ReportData

OURS = re.compile(r"(roc|rejection|scores|significance|calibration|confusion|predicted|residuals|profile|pulls|loss|metrics|features)(_\d+)?\.png")


def write_report(folder: Path, data: ReportData) -> Path:
    """Draw everything, write it into `folder` (made when missing) and return the path of `index.html`.

    The page holds all its pictures and needs no other file. Beside it are the same pictures as PNG files and, when `data.hist` says so,
    one PDF or PNG per branch in `branches/`. Files are written aside and moved in at the end, the page last; pictures of an earlier report
    in the same folder are removed. Raises ResourceError when the disk is full or the folder cannot be written.
    """
    from mlaas.report.page import page
    from mlaas.report.pictures import branch_files, draw

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".report-", dir=folder) as name:
            aside = Path(name)
            pictures = []
            for picture in draw(data):
                pictures.append(picture)
                if picture.png is not None:
                    (aside / f"{picture.name}.png").write_bytes(picture.png)
            if data.hist:
                (aside / "branches").mkdir()
            for file, content in branch_files(data):
                (aside / "branches" / file).write_bytes(content)
            (aside / "index.html").write_text(page(data, pictures), encoding="utf-8")
            return _publish(aside, folder)
    except OSError as error:
        what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise ResourceError(f"the report cannot be written to {folder}: {what}") from error


def _publish(aside: Path, folder: Path) -> Path:
    """Move the files in, the page last, so that a page never shows without its pictures."""
    for old in folder.iterdir():
        if OURS.fullmatch(old.name) and not (aside / old.name).exists():
            old.unlink()
    shutil.rmtree(folder / "branches", ignore_errors=True)
    index = aside / "index.html"
    with index.open("rb") as written:
        os.fsync(written.fileno())
    for new in sorted(aside.iterdir(), key=lambda path: (path == index, path.name)):
        new.replace(folder / new.name)
    return folder / "index.html"
