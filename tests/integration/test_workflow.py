"""`mlaas workflow` as a user runs it: every framework, task, procedure and kind of input, by the command line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas import pipeline
from mlaas.data.trees import TreeFile
from mlaas.models.bundle import read_bundle
from mlaas.models.predict import Predictor
from mlaas.workflow import from_flags
from tests.integration import jobs
from tests.integration.jobs import TREE, done, toys, write_job, write_root

FAST = {"selected_branches": "mva,met,partonPt"}
ISOLATED = {"TF_CPP_MIN_LOG_LEVEL": "2", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def reads(monkeypatch):
    """How often a ROOT tree was read from."""
    calls: list[str] = []
    batches = TreeFile.batches

    def spy(self, *arguments, **options):
        calls.append(self.path)
        return batches(self, *arguments, **options)

    monkeypatch.setattr(TreeFile, "batches", spy)
    return calls


def metrics(bundle: Path) -> dict:
    return json.loads((bundle / "metrics.json").read_text())


def train(folder: Path, files, labels, model: str, params=None, preproc=None, *flags: str) -> Path:
    """Run a job in a folder; returns its bundle, verified."""
    ended = done("workflow", *write_job(folder, files, labels, model, params, preproc), f"--fout={folder / 'out'}", *flags)
    assert str(folder / "out") in ended.out
    read_bundle(folder / "out")
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    return folder / "out"


def workflow(flags):
    """The document that flags mean."""
    return from_flags(**dict(flag.removeprefix("--").split("=", 1) for flag in flags))


class TestPublished:
    """The published flags and files, unchanged."""

    def test_it_ends_well_and_says_where_things_are(self, published):
        assert published.done.code == 0, published.done.err
        first, bundle, report = published.done.out.splitlines()
        assert re.search(r"auc 0\.\d+", first)
        assert bundle == f"bundle   {published.bundle}"
        assert report == f"report   {published.bundle}/report/index.html"

    def test_the_bundle_is_whole_and_made_for_both_engines(self, published):
        manifest = read_bundle(published.bundle).manifest
        assert (manifest.framework, manifest.task, manifest.classes, manifest.name) == ("keras", "classification", ["0", "1"], "ttH")
        assert manifest.onnx.accepted
        assert manifest.onnx.difference is not None
        assert manifest.onnx.difference < 1e-5
        assert manifest.native.difference is not None
        assert manifest.native.difference < 1e-6
        assert manifest.saved_model is not None
        assert manifest.saved_model.accepted
        needed = {"features.json", "specs.json", "metrics.json", "metrics.jsonl", "workflow.json", "model.py", "params.json", "labels.txt"}
        assert needed | {"saved_model.pb", "model.keras", "model.onnx", "report/index.html"} <= set(manifest.files)

    def test_the_features_are_those_that_preproc_leaves(self, published):
        slots = json.loads((published.bundle / "features.json").read_text())["slots"]
        names = [slot["name"] for slot in slots]
        assert names == ["genWeight", "met", "mva", "nJets_square", "nLeptons", "nparton", "recoil", "log_partonE", "partonPt", "partonid"]

    def test_the_selected_events_are_those_of_an_independent_selection(self, published, samples):
        provenance = read_bundle(published.bundle).manifest.provenance
        assert [file["entries"] for file in provenance["files"]] == [1125, 1875]  # 3,000 of 4,000, in proportion
        for file, name in zip(provenance["files"], ("ttH.root", "tt.root"), strict=True):
            events = uproot.open(f"{samples / name}:{TREE}").arrays(entry_stop=file["entries"])
            log_e, square = np.log(events["partonE"]), events["nJets"] ** 2
            keep = ak.any(log_e < 6.31, axis=1) & ak.all(log_e > 5.85, axis=1) & (square >= 1) & (square <= 16)
            keep = keep & (events["nLeptons"] <= 2) & ak.all(events["partonPt"] > 200, axis=1)
            assert file["selected"] == int(ak.sum(keep))
            assert 100 < file["selected"] < file["entries"] / 2

    def test_the_metrics_stream_tells_every_epoch(self, published):
        lines = [json.loads(line) for line in (published.bundle / "metrics.jsonl").read_text().splitlines()]
        epochs = [line for line in lines if line["kind"] == "epoch"]
        assert [line["epoch"] for line in epochs] == [1, 2, 3]
        train_events = metrics(published.bundle)["metrics"]["train"]["events"]
        assert [line["events"] for line in epochs] == [train_events, 2 * train_events, 3 * train_events]
        for line in epochs:
            assert line["loss"] > 0
            assert line["val_loss"] > 0
            assert 0 < line["val_auc"] < 1
            assert line["events_per_s"] > 0
        assert epochs[-1]["loss"] < epochs[0]["loss"]

    def test_the_held_out_events_are_evaluated(self, published):
        found = metrics(published.bundle)
        assert found["epochs"] == 3
        test, validation = found["metrics"]["test"], found["metrics"]["validation"]
        selected = sum(file["selected"] for file in read_bundle(published.bundle).manifest.provenance["files"])
        assert found["metrics"]["train"]["events"] + test["events"] + validation["events"] == selected
        assert 0.1 < test["events"] / selected < 0.2
        assert {"auc", "auc_error", "accuracy", "loss"} <= set(test)

    def test_the_report_is_one_page_that_needs_nothing_else(self, published):
        report = published.bundle / "report"
        page = (report / "index.html").read_text()
        assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
        assert not re.search(r"""src\s*=\s*["']?(?!data:)[\w./]""", page)
        for word in ("AUC", "Kolmogorov", "log_partonE", "ttH.root", "tt.root"):
            assert word in page
        assert {"roc.png", "scores.png", "loss.png"} <= {path.name for path in report.iterdir()}

    def test_hist_pdfs_writes_one_picture_per_branch(self, published):
        pictures = {path.stem.partition("_")[2] for path in (published.bundle / "report").rglob("*.pdf")}  # 001_met.pdf
        slots = json.loads((published.bundle / "features.json").read_text())["slots"]
        assert {slot["name"] for slot in slots} == pictures

    def test_tfaas_can_load_it(self, published):
        import tensorflow as tf

        loaded = tf.saved_model.load(str(published.bundle))
        serve = loaded.signatures["serving_default"]
        ((_, given),) = serve.structured_input_signature[1].items()
        manifest = read_bundle(published.bundle).manifest
        assert given.shape.as_list() == [None, manifest.width]
        rows = np.random.default_rng(1).random((5, manifest.width)).astype(np.float32)
        (scores,) = serve(tf.constant(rows)).values()
        native = Predictor(published.bundle, "native").engine.predict(rows)
        np.testing.assert_allclose(np.ravel(scores), native, atol=1e-6)
        params = json.loads((published.bundle / "params.json").read_text())
        assert params["name"] == "ttH"

    def test_a_second_run_reads_no_file_again(self, published, reads, tmp_path):
        flags = [flag for flag in published.flags if not flag.startswith("--model")]
        (tmp_path / "model.py").write_text(jobs.MODELS["mlp"])
        flags = [flag for flag in flags if not flag.startswith("--params")]
        (tmp_path / "params.json").write_text(json.dumps({**jobs.SLIDES_PARAMS, "hist": "", "epochs": 1}))
        done("workflow", *flags, f"--model={tmp_path / 'model.py'}", f"--params={tmp_path / 'params.json'}", f"--fout={tmp_path / 'again'}")
        assert reads == []

    def test_another_cut_is_another_key(self, published, reads, tmp_path):
        flags = [flag for flag in published.flags if not flag.startswith("--preproc")]
        (tmp_path / "preproc.json").write_text(json.dumps({"flat_cut": {"met": {"cut": "met>40", "remove": "False"}}}))
        done("prepare", *flags, f"--preproc={tmp_path / 'preproc.json'}")
        assert len(reads) == 2


class TestFrameworks:
    """Each framework by the command line, streamed or at once."""

    @pytest.mark.parametrize(
        ("model", "framework"),
        [("torch", "torch"), ("mlp", "sklearn"), ("hist", "sklearn"), ("forest", "sklearn"), ("knn", "sklearn"), ("xgboost", "xgboost")],
    )
    def test_it_learns_and_the_bundle_predicts(self, samples, tmp_path, model, framework):
        params = {**FAST, "epochs": 20, "learning_rate": 0.01, "split": [0.1, 0.3]}
        bundle = train(tmp_path, [samples / "ttH.root", samples / "tt.root"], [1, 0], model, params)
        manifest = read_bundle(bundle).manifest
        assert manifest.framework == framework
        assert metrics(bundle)["metrics"]["test"]["auc"] > 0.72
        events = {"mva": [0.0, 3.0], "met": [20.0, 150.0], "partonPt": [[], [300.0, 400.0]]}
        low, high = Predictor(bundle).predict(events)
        assert 0 <= low < high <= 1

    def test_keras_learns_in_chunks_too(self, samples, tmp_path):
        keras_model = jobs.MODELS["keras"].replace("lr=", "learning_rate=").replace("Dropout(0.5)", "Dropout(0.1)")
        params = {**FAST, "procedure": "chunks", "epochs": 5, "shuffle": "True"}
        bundle = train(tmp_path, [samples / "ttH.root", samples / "tt.root"], [1, 0], keras_model, params)
        assert metrics(bundle)["metrics"]["test"]["auc"] > 0.7
        kinds = {json.loads(line)["kind"] for line in (bundle / "metrics.jsonl").read_text().splitlines()}
        assert "chunk" in kinds
        assert "epoch" not in kinds


class TestTasks:
    def test_three_files_with_labels_in_words(self, tmp_path):
        names = ("ttbar", "ttH", "ttZ")
        files = [write_root(tmp_path / f"{name}.root", toys(900, code, seed=5)) for code, name in enumerate(names)]
        bundle = train(tmp_path / "job", files, names, "xgboost", FAST)
        manifest = read_bundle(bundle).manifest
        assert manifest.classes == ["ttH", "ttZ", "ttbar"]
        scores = Predictor(bundle).predict({"mva": [-2.0, 4.0], "met": [10.0, 200.0], "partonPt": [[], []]})
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
        assert [manifest.classes[best] for best in scores.argmax(axis=1)] == ["ttbar", "ttZ"]

    def test_a_branch_that_holds_three_classes(self, tmp_path):
        parts = [toys(700, code, seed=6) for code in range(3)]
        mixed = {name: ak.concatenate([part[name] for part in parts]) for name in parts[0]}
        mixed = {name: values if name == "parton" else ak.to_numpy(values) for name, values in mixed.items()}
        path = write_root(tmp_path / "mixed.root", mixed)
        bundle = train(tmp_path / "job", [path], "kind", "hist", {**FAST, "split": 0.4})
        assert read_bundle(bundle).manifest.classes == ["0", "1", "2"]
        found = metrics(bundle)["metrics"]["test"]
        assert found["auc"] > 0.65
        assert found["accuracy"] > 0.45

    def test_regression_on_a_branch(self, samples, tmp_path):
        bundle = train(tmp_path, [samples / "tt.root"], "recoil", "regressor", FAST)
        manifest = read_bundle(bundle).manifest
        assert (manifest.task, manifest.classes) == ("regression", [])
        found = metrics(bundle)["metrics"]["test"]
        assert found["r2"] > 0.85
        assert "R2" in (bundle / "report" / "index.html").read_text() or "R²" in (bundle / "report" / "index.html").read_text()

    def test_a_label_branch_is_no_feature(self, samples, tmp_path):
        flags = write_job(tmp_path, [samples / "tt.root"], "recoil", "regressor")
        assert "recoil" not in done("prepare", *flags).out
        prepared = pipeline.prepare(workflow(flags))
        assert "recoil" not in prepared.features.columns
        assert "mva" in prepared.features.columns


class TestParameters:
    def test_everything_in_one_chunk(self, samples, tmp_path):
        params = {**FAST, "chunk_size": -1, "shuffle": True, "epochs": 15}
        bundle = train(tmp_path, [samples / "ttH.root", samples / "tt.root"], [1, 0], "mlp", params)
        assert metrics(bundle)["metrics"]["test"]["auc"] > 0.7
        last = json.loads((bundle / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["chunk"] == 1

    def test_weights_and_class_balance(self, samples, tmp_path):
        params = {**FAST, "weight": "genWeight", "class_balance": True, "file_weights": [0.5, 2.0], "split": 0.4}
        bundle = train(tmp_path, [samples / "ttH.root", samples / "tt.root"], [1, 0], "hist", params)
        dataset = pipeline.prepare(workflow([f"--{name}={tmp_path / file}" for name, file in _NAMES.items()])).dataset
        sums = np.zeros(2)
        for chunk in dataset.chunks("train"):
            sums += np.bincount(chunk.y, chunk.weight, 2)
        assert sums[0] == pytest.approx(sums[1], rel=1e-4)
        assert sums.sum() == pytest.approx(dataset.events["train"], rel=1e-4)
        weights = [float(uproot.open(f"{samples / name}:{TREE}")["genWeight"].array().to_numpy().sum()) for name in ("tt.root", "ttH.root")]
        np.testing.assert_allclose(dataset.sums, [2.0 * weights[0], 0.5 * weights[1]])
        assert metrics(bundle)["metrics"]["test"]["auc"] > 0.7

    def test_no_events_held_out(self, samples, tmp_path):
        ended = done(
            "workflow",
            *write_job(tmp_path, [samples / "ttH.root", samples / "tt.root"], [1, 0], "hist", {**FAST, "split": 0}),
            f"--fout={tmp_path / 'out'}",
        )
        assert "auc" in ended.out
        found = metrics(tmp_path / "out")["metrics"]
        assert found["train"]["events"] == 4000
        assert found["test"] == {"events": 0}

    def test_specs_of_another_run_can_be_given(self, samples, tmp_path):
        flags = write_job(tmp_path, [samples / "ttH.root", samples / "tt.root"], [1, 0], "hist", FAST)
        done("specs", *[flag for flag in flags if not flag.startswith(("--model", "--labels"))], f"--fout={tmp_path / 'specs.json'}")
        specs = json.loads((tmp_path / "specs.json").read_text())
        specs["jdim"]["partonPt"] += 2
        (tmp_path / "specs.json").write_text(json.dumps(specs))
        done("workflow", *flags, f"--specs={tmp_path / 'specs.json'}", f"--fout={tmp_path / 'out'}")
        assert read_bundle(tmp_path / "out").manifest.width == 2 + specs["jdim"]["partonPt"]

    def test_the_values_of_the_model_do_not_depend_on_keeping_handled_data(self, samples, tmp_path):
        found = []
        for handled in (True, False):
            params = {**FAST, "handled": handled, "shuffle": True}
            bundle = train(tmp_path / str(handled), [samples / "ttH.root", samples / "tt.root"], [1, 0], "mlp", params)
            found.append(metrics(bundle)["metrics"])
        assert found[0] == found[1]


_NAMES = {"files": "files.txt", "labels": "labels.txt", "model": "model.py", "params": "params.json"}


class TestInputs:
    """The same events in each layout and format give the same matrix, and train."""

    @pytest.mark.parametrize("layout", ["rntuple", "vector"])
    def test_layouts_of_root_files(self, tth, tmp_path, layout):
        from mlaas.demo.generate import write

        params = {"branch": "events", "identifier": ["runNo", "evtNo", "lumi"], "selected_branches": "ht,mbb,jet_*,lep_pt"}
        other = [write(tmp_path / f"{name}.root", 2000, name, profile="seed", layout=layout, basket=700) for name in ("signal", "background")]
        counters = [tth / "signal.root", tth / "background.root"]
        matrices = []
        for folder, files in (("counters", counters), (layout, other)):
            prepared = pipeline.prepare(workflow(write_job(tmp_path / folder, files, [1, 0], "hist", params)))
            matrices.append(np.concatenate([chunk.x.copy() for chunk in prepared.dataset.chunks("train")]))
        np.testing.assert_array_equal(*matrices)
        bundle = train(tmp_path / "run", other, [1, 0], "hist", params)
        assert metrics(bundle)["metrics"]["test"]["auc"] > 0.6

    def test_parquet_avro_and_json_lines_beside_root(self, samples, tmp_path):
        columns = jobs.plain(toys(1500, 1))
        del columns["kind"]
        background = samples / "tt.root"
        expected = None
        for kind in ("root", "parquet", "avro", "jsonl.bz2"):
            signal = samples / "ttH.root" if kind == "root" else _write_table(tmp_path / f"ttH.{kind}", columns)
            flags = write_job(tmp_path / kind, [signal, background], [1, 0], "hist")
            prepared = pipeline.prepare(workflow(flags))
            x = np.concatenate([chunk.x.copy() for chunk in prepared.dataset.chunks("train")])
            expected = x if expected is None else expected
            np.testing.assert_allclose(x, expected, atol=1e-6)
        bundle = train(tmp_path / "mixed", [tmp_path / "ttH.parquet", background], [1, 0], "hist")
        assert metrics(bundle)["metrics"]["test"]["auc"] > 0.7

    def test_packed_csv_of_flat_branches(self, tmp_path):
        files = []
        for label in (1, 0):
            columns = {name: values for name, values in jobs.plain(toys(1500, label)).items() if not name.startswith("parton")}
            files.append(_write_table(tmp_path / f"{label}.csv.gz", columns))
        bundle = train(tmp_path / "job", files, [1, 0], "hist", {"selected_branches": "mva,met,nJets"}, None, "--dtype=csv")
        assert metrics(bundle)["metrics"]["test"]["auc"] > 0.7

    def test_a_glob_gives_its_label_to_every_file(self, tmp_path):
        for label, name in ((1, "sig"), (0, "bkg")):
            for part in range(2):
                write_root(tmp_path / f"{name}_{part}.root", toys(500, label, seed=part + 1))
        flags = write_job(tmp_path / "job", [tmp_path / "sig_*.root", tmp_path / "bkg_*.root"], [1, 0], "hist", FAST)
        prepared = pipeline.prepare(workflow(flags))
        files = [(Path(file.source.path).name, file.source.label) for file in prepared.files]
        assert files == [("sig_0.root", 1), ("sig_1.root", 1), ("bkg_0.root", 0), ("bkg_1.root", 0)]
        assert sum(int(chunk.y.sum()) for split in ("train", "validation", "test") for chunk in prepared.dataset.chunks(split)) == 1000


def _write_table(path: Path, columns: dict[str, list]) -> Path:
    import bz2
    import gzip

    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".avro":
        import fastavro

        def kind(value):
            if isinstance(value, list):
                return {"type": "array", "items": "double"}
            return "long" if isinstance(value, int) else "double"

        schema = {"type": "record", "name": "event", "fields": [{"name": name, "type": kind(values[0])} for name, values in columns.items()]}
        with path.open("wb") as file:
            fastavro.writer(file, fastavro.parse_schema(schema), rows)
    elif path.name.endswith(".jsonl.bz2"):
        path.write_bytes(bz2.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    else:
        lines = [",".join(columns), *(",".join(str(value) for value in row.values()) for row in rows)]
        path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return path


class TestTwoProcesses:
    def test_prepare_then_fit_without_the_files(self, tmp_path):
        """The fitting machine needs nothing but the shared folder."""
        data, cache = tmp_path / "data", tmp_path / "cache"
        files = [write_root(data / "sig.root", toys(800, 1)), write_root(data / "bkg.root", toys(800, 0))]
        flags = write_job(tmp_path / "job", files, [1, 0], "hist", FAST)
        out, err = _ended(jobs.start("prepare", *flags, MLAAS_CACHE=str(cache), MLAAS_PROGRESS="true", **ISOLATED))
        assert "1,600 events selected of 1,600 in 2 files" in out
        assert "read and select: 1,600 events" in err
        for path in files:
            path.unlink()
        out, err = _ended(jobs.start("fit", *flags, f"--fout={tmp_path / 'out'}", MLAAS_CACHE=str(cache), MLAAS_PROGRESS="true", **ISOLATED))
        assert "read and select" not in err
        assert "going on with the handled data" in err
        read_bundle(tmp_path / "out")

    def test_what_a_newcomer_sees(self, published, tmp_path):
        """Progress on stderr, results on stdout; no log lines of libraries."""
        model = tmp_path / "model.py"
        model.write_text(jobs.SLIDES_MODEL.replace("lr=", "learning_rate="))
        flags = [flag for flag in published.flags if not flag.startswith("--model")]
        environment = {name: value for name, value in os.environ.items() if name.startswith("MLAAS_CACHE")}
        out, err = _ended(jobs.start("workflow", *flags, f"--model={model}", f"--fout={tmp_path / 'out'}", MLAAS_PROGRESS="true", **environment))
        assert [line.split()[0] for line in out.splitlines()] == ["metrics", "bundle", "report"]
        for noise in ("absl", "oneDNN", "cuda", "Warning", "WARNING", "Traceback", "/step", "INFO"):
            assert noise not in err, err
        for line in err.splitlines():
            assert re.match(r"(left out|open files|read and select|[\d,]+ events|epoch \d|training|export|report|ONNX form)", line), line
        assert not re.search(r"\b0 [a-z]+/s|\b0 (pages|forms)", err)


def _ended(process) -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err
