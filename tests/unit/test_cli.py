"""The command line: flags, exit codes, one sentence per error, signals."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlaas import __version__, cli, commands
from mlaas.cli import main
from mlaas.errors import Cancelled, DataError, WorkflowError
from mlaas.workflow import from_flags, parse_labels

MODEL = "def model(idim):\n    return None\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a workflow's text files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files.txt").write_text("# the samples\na.root\n\nroot://host//b.root\n")
    (tmp_path / "labels.txt").write_text("1\n0\n")
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "params.json").write_text(json.dumps({"epochs": 3, "shuffle": "True"}))
    (tmp_path / "preproc.json").write_text(json.dumps({"flat_cut": {"njet": {"cut": "njet>=2", "remove": "False"}}}))
    return tmp_path


FLAGS = ["--files=files.txt", "--labels=labels.txt", "--model=model.py", "--params=params.json", "--preproc=preproc.json"]


def options(*arguments):
    return cli.parser().parse_args(["workflow", *arguments])


class TestFlags:
    def test_the_published_flags_verbatim(self, folder):
        (folder / "specs.json").write_text("{}")
        given = options(*FLAGS, "--specs=specs.json", "--dtype=root", "--fout=out/ttH")
        workflow = commands._document(given)
        assert workflow.files == ["a.root", "root://host//b.root"]
        assert workflow.labels == [1, 0]
        assert (workflow.params.epochs, workflow.params.shuffle) == (3, True)
        assert workflow.dtype == "root"
        assert str(workflow.specs) == "specs.json"
        assert workflow.name == "ttH"
        assert str(commands._out(given)) == "out/ttH"

    def test_a_space_does_for_an_equals_sign(self, folder):
        given = options(*(part for flag in FLAGS for part in flag.split("=")))
        assert commands._document(given).labels == [1, 0]

    def test_name_and_procedure(self, folder):
        workflow = commands._document(options(*FLAGS, "--name=higgs", "--procedure=chunks"))
        assert (workflow.name, workflow.params.procedure, workflow.params.epochs) == ("higgs", "chunks", 3)
        assert str(commands._out(options(*FLAGS, "--name=higgs"))) == "higgs"
        assert str(commands._out(options(*FLAGS))) == "model"

    def test_without_params_the_defaults_hold_and_it_says_so(self, folder, capsys):
        workflow = commands._document(options(*FLAGS[:3]))
        assert workflow.params.epochs == 10
        assert "the defaults hold" in capsys.readouterr().err

    def test_a_folder_name_that_cannot_name_a_model_does_not(self, folder):
        assert commands._document(options(*FLAGS, "--fout=out/a b")).name == "model"

    def test_flags_are_not_abbreviated(self, capsys):
        with pytest.raises(SystemExit):
            options("--file=a", "--labels=b", "--model=c")
        assert "required: --files" in capsys.readouterr().err


class TestFiles:
    def test_paths_beside_the_list(self, tmp_path, monkeypatch):
        (tmp_path / "w").mkdir()
        (tmp_path / "w" / "a.root").touch()
        (tmp_path / "w" / "files.txt").write_text("a.root\n/store/b.root\n*.root\n")
        monkeypatch.chdir(tmp_path)
        assert from_flags(files="w/files.txt").files == ["w/a.root", "/store/b.root", "*.root"]

    def test_the_current_folder_comes_first(self, tmp_path, monkeypatch):
        (tmp_path / "w").mkdir()
        for place in (tmp_path, tmp_path / "w"):
            (place / "a.root").touch()
        (tmp_path / "w" / "files.txt").write_text("a.root\n")
        monkeypatch.chdir(tmp_path)
        assert from_flags(files="w/files.txt").files == ["a.root"]

    def test_a_comma_list(self):
        assert from_flags(files="a.root, b.root,").files == ["a.root", "b.root"]

    @pytest.mark.parametrize("name", ["a.root", "b.csv.gz", "c.parquet"])
    def test_one_file_of_events(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"root\xff")
        assert from_flags(files=str(tmp_path / name)).files == [str(tmp_path / name)]

    @pytest.mark.parametrize("content", ["", "\n# nothing\n"])
    def test_an_empty_list(self, tmp_path, content):
        (tmp_path / "files.txt").write_text(content)
        with pytest.raises(WorkflowError, match="names no file"):
            from_flags(files=str(tmp_path / "files.txt"))


class TestLabels:
    @pytest.mark.parametrize(
        ("argument", "labels"),
        [
            ("1,0", [1, 0]),
            ("signal,background", ["signal", "background"]),
            ("1.5,2", [1.5, 2]),
            ("1", [1]),
            ("isSignal", "isSignal"),
            ("Muon/isSignal", "Muon/isSignal"),
            ("nan,inf", ["nan", "inf"]),
            ("signal,", ["signal"]),
        ],
    )
    def test_what_the_argument_means(self, argument, labels):
        assert parse_labels(argument) == labels

    def test_a_file_is_always_one_label_per_line(self, tmp_path):
        (tmp_path / "labels").write_text("signal\n")
        assert parse_labels(str(tmp_path / "labels")) == ["signal"]

    @pytest.mark.parametrize("argument", ["", ",", " "])
    def test_nothing(self, argument):
        with pytest.raises(WorkflowError, match="names no label"):
            parse_labels(argument)


def fails(capsys, *arguments):
    """The exit code is 2 and stderr holds one sentence, which is returned."""
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "the defaults hold" not in line]
    assert not out
    assert len(lines) == 1, err
    assert lines[0].startswith("mlaas: ")
    return lines[0]


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--files=nothing.txt", "files: there is no file nothing.txt"),
        ("--labels=nothing.txt", "labels: there is no file nothing.txt"),
        ("--labels=label.txt", "labels: there is no file label.txt (did you mean 'labels.txt'?)"),
        ("--labels=1", "1 labels for 2 files; give one per file"),
        ("--model=other.py", "model: there is no file other.py"),
        ("--params=none.json", "params: there is no file none.json"),
        ("--params=pram.json", "params: there is no file pram.json (did you mean 'params.json'?)"),
        ("--params=model.py", "params: model.py is not JSON"),
        ("--params=list.json", "must hold a JSON object"),
        ("--params=typo.json", "did you mean 'epochs'?"),
        ("--params=wrong.json", "params.epochs"),
        ("--preproc=none.json", "preproc: there is no file none.json"),
        ("--specs=none.json", "specs: there is no file none.json"),
        ("--name=a/b", "name"),
        ("--files=noise.bin", "files: noise.bin is not a text file"),
    ],
)
def test_bad_input_is_one_sentence(folder, capsys, flag, says):
    (folder / "list.json").write_text("[]")
    (folder / "typo.json").write_text('{"epoch": 3}')
    (folder / "wrong.json").write_text('{"epochs": "many"}')
    (folder / "noise.bin").write_bytes(b"\xff\xfe\x00\x81")
    before = sorted(path.name for path in folder.iterdir())
    assert says in fails(capsys, "workflow", *FLAGS, flag)
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["workflow"], "--files, --labels, --model"),
        ([], "COMMAND"),
        (["flow"], "invalid choice: 'flow'"),
        (["workflow", "--dtype=tree"], "invalid choice: 'tree'"),
        (["generate", "x", "--events=many"], "invalid int value"),
    ],
)
def test_wrong_usage_is_one_sentence(capsys, arguments, says):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (DataError("a.root: no tree"), 2, "a.root: no tree"),
        (Cancelled("stopped after epoch 2"), 130, "stopped after epoch 2"),
        (KeyboardInterrupt(), 130, "stopped"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 2, "the disk is full: /x/y"),
        (MemoryError(), 2, "chunk_size"),
        (ZeroDivisionError("division\nby zero"), 1, "ZeroDivisionError: division by zero (--debug"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_exit_codes(capsys, monkeypatch, error, code, says, debug):
    def failing(_options):
        raise error

    monkeypatch.setattr(commands, "version", failing)
    assert main(["version", *(["--debug"] if debug else [])]) == code
    err = capsys.readouterr().err
    assert says in err
    assert ("Traceback" in err) is debug


def test_debug_works_before_the_command_too(capsys, folder):
    assert main(["--debug", "workflow", *FLAGS, "--model=none.py"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_version(capsys, monkeypatch):
    monkeypatch.setenv("MLAAS_CACHE", "/somewhere")
    assert main(["version", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mlaas"] == __version__
    assert found["settings"]["cache"] == "/somewhere"
    assert found["packages"]["uproot"]
    assert main(["version"]) == 0
    assert "MLAAS_CACHE" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in ("workflow", "predict", "generate"))])
def test_help_teaches(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert "mlaas" in out
    assert ("example:" in out) is (len(arguments) == 2)


def test_generate(tmp_path, capsys, monkeypatch):
    assert main(["generate", str(tmp_path / "d"), "--events=30", "--profile=seed"]) == 0
    out, err = capsys.readouterr()
    command = out.splitlines()[-1].split()
    assert command[:2] == ["mlaas", "workflow"]
    assert not err
    monkeypatch.chdir(tmp_path)
    assert len(commands._document(cli.parser().parse_args(command[1:])).files) == 2
    assert main(["generate", str(tmp_path / "m"), "--events=30", "--mixed"]) == 0
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["mixed.root"]


def run(*arguments, **given):
    return subprocess.Popen([sys.executable, "-m", "mlaas.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **given)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_half_written(tmp_path, number):
    with run("generate", str(tmp_path / "d"), "--events=4000000", "--data-only") as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("d/.signal.root.part")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert err.splitlines()[-1] == "mlaas: stopped"
    assert not list((tmp_path / "d").iterdir())


def test_a_reader_that_goes_away_is_no_error():
    with run("version") as process:
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert not process.stderr.read()


def test_a_full_disk_is_one_sentence():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "mlaas.cli", "version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "mlaas: the disk is full; free some space, or set MLAAS_CACHE to another place\n")


def test_a_setting_that_is_no_json_is_named(monkeypatch, capsys):
    monkeypatch.setenv("MLAAS_JOB_ENVIRONMENT", "{A: 1}")
    assert main(["version"]) == 2
    assert capsys.readouterr().err.startswith("mlaas: MLAAS_JOB_ENVIRONMENT: this is not JSON: Expecting property name")
