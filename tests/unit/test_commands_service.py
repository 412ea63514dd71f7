"""What the commands of the service upload, and how they print."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from mlaas.commands_service import predict, text
from mlaas.commands_service.collect import Named, event_files, needed
from mlaas.commands_service.text import Patient, ago, clock, lasting, printable
from mlaas.console import SILENT
from mlaas.errors import UserError


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "work"
    for name in ("a.root", "b.root", "lists/c.root", "lists/files.txt", "model.py", "labels.txt", "params.json", "keep.txt"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text("x")
    return made


class TestCollect:
    @pytest.mark.parametrize(
        ("listed", "uploaded"),
        [
            ("a.root\n# b.root\n\n", ["a.root"]),
            ("*.root\n", ["a.root", "b.root"]),
            ("c.root\n", ["lists/c.root"]),
            ("./a.root\nlists/../b.root\n", ["a.root", "b.root"]),
            ("/store/x.root\nroot://host//x.root\n/eos/x.root\na.root", ["a.root"]),
        ],
    )
    def test_the_files_of_a_list(self, folder, listed, uploaded):
        (folder / "lists" / "files.txt").write_text(listed)
        assert list(event_files(folder, "lists/files.txt")) == ["lists/files.txt", *uploaded]

    def test_a_comma_list_and_one_file(self, folder):
        assert list(event_files(folder, "a.root, root://h//x.root,b.root")) == ["a.root", "b.root"]
        assert list(event_files(folder, "a.root")) == ["a.root"]

    @pytest.mark.parametrize(
        ("listed", "says"), [("d.root", "files: there is no file .*d.root"), ("../../a.root", "no file"), ("../out.root", "is not in .*--folder")]
    )
    def test_what_cannot_be_uploaded(self, folder, listed, says):
        (folder.parent / "out.root").touch()
        (folder / "lists" / "files.txt").write_text(listed)
        with pytest.raises(UserError, match=says):
            list(event_files(folder, "lists/files.txt"))

    def test_says_how_to_take_what_the_service_holds(self, folder):
        with pytest.raises(UserError, match=r"nix\.root.*; --no-upload takes"):
            needed(folder, Named(files="nix.root", labels="1", model="model.py"))
        with pytest.raises(UserError, match=r"nix\.root.*; --workspace=NAME takes"):
            list(event_files(folder, "nix.root", predict.HELD))

    def test_all_that_is_named_once(self, folder):
        (folder / "lists" / "files.txt").write_text("a.root\na.root\n")
        (folder / "params.json").write_text('{"selected_branches": "keep.txt", "exclude_branches": "a,b"}')
        found = needed(folder, Named(files="lists/files.txt", labels="labels.txt", model="model.py", params="params.json"))
        assert [entry.path for entry in found] == ["model.py", "params.json", "keep.txt", "labels.txt", "lists/files.txt", "a.root"]
        assert [entry.path for entry in needed(folder, Named(files="a.root", labels="isSignal", model="model.py"))] == ["model.py", "a.root"]

    def test_a_mistyped_list(self, folder):
        with pytest.raises(UserError, match=r"labels: there is no file .* \(did you mean 'labels.txt'\?\); --no-upload"):
            needed(folder, Named(files="a.root", labels="label.txt", model="model.py"))


class TestText:
    @pytest.mark.parametrize(
        ("seconds", "says"), [(0, "0 s"), (59, "59 s"), (61, "1 min"), (3 * 3600, "3 h"), (25 * 3600, "1 day"), (40 * 86400, "40 days"), (-5, "0 s")]
    )
    def test_how_long(self, seconds, says):
        assert lasting(seconds) == says

    def test_times(self):
        assert ago(None) == ""
        assert ago(datetime.now(UTC) - timedelta(minutes=5)) == "5 min ago"
        assert ago(datetime.now(UTC) + timedelta(minutes=5)) == "now"  # clocks differ
        assert [clock(seconds) for seconds in (None, 0.4, 62, 3723)] == ["", "0:00", "1:02", "1:02:03"]

    def test_a_table_on_a_terminal_and_elsewhere(self, capsys, monkeypatch):
        rows = [("ttH_1", "failed", "x" * 300), ("a", "running", "")]
        text.table(("JOB", "STATE", ""), rows)
        assert capsys.readouterr().out.splitlines() == ["JOB    STATE", "ttH_1  failed   " + "x" * 300, "a      running"]
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", "40")
        monkeypatch.delenv("NO_COLOR", raising=False)
        text.table(("JOB", "STATE", ""), rows)
        lines = capsys.readouterr().out.splitlines()
        assert lines[1] == "ttH_1  \033[31mfailed\033[0m   " + "x" * 23 + "…"
        monkeypatch.setenv("NO_COLOR", "1")
        text.table(("JOB", "STATE", ""), rows)
        assert "\033" not in capsys.readouterr().out

    def test_a_job_cannot_take_the_terminal_over(self, monkeypatch):
        log = "epoch\t1\n\033]0;title\a\033[2Jdone\x9b\r"
        assert printable(log) == log
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        assert printable(log) == "epoch\t1\n]0;title[2Jdone"


class TestPatience:
    class Recorder:
        """Progress that remembers."""

        def __init__(self) -> None:
            self.advanced: list[int] = []

        @contextmanager
        def stage(self, name, total=None, unit="events"):
            yield self

        def advance(self, n=1):
            self.advanced.append(n)

        note = SILENT.note

    def test_what_is_short_shows_nothing(self):
        recorder = self.Recorder()
        with Patient(recorder).stage("upload", 3, "MB") as stage:
            stage.advance(3)
        assert recorder.advanced == []

    def test_what_takes_longer_is_told_from_its_beginning(self):
        recorder = self.Recorder()
        with Patient(recorder, late=0.05).stage("upload", 3, "MB") as stage:
            stage.advance(2)
            time.sleep(0.06)
            stage.advance(1)
            stage.advance(4)
        assert recorder.advanced == [3, 4]
