"""Files read from real servers: XRootD, HTTP, HTTPS and S3, and what is said when a server refuses, dies or keeps silent."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import time

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas.data import credentials, sources
from mlaas.data.columns import concatenate
from mlaas.data.formats import open_table
from mlaas.errors import DataError
from tests.integration.servers import TOKEN, Http, XRootD, certificate

EVENTS = 120_000
ROWS = [{"met": float(i), "jets": list(range(i % 3))} for i in range(50)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files to serve: three ROOT files, and the same 50 events as JSON lines, CSV and Parquet."""
    path = tmp_path_factory.mktemp("served")
    rng = np.random.default_rng(3)
    with uproot.recreate(path / "a.root", compression=None) as file:
        file.mktree("sub/events", {"x": "f8", "jet_pt": "var * float32"})
        for _ in range(6):
            counts = rng.integers(0, 4, EVENTS // 6)
            file["sub/events"].extend({"x": rng.normal(size=EVENTS // 6), "jet_pt": ak.unflatten(rng.random(counts.sum(), np.float32), counts)})
    for name in ("a2.root", "a10.root"):
        shutil.copy(path / "a.root", path / name)
    (path / "t.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, ROWS)).encode()))
    (path / "t.csv").write_text("met,n\n" + "".join(f"{row['met']},{len(row['jets'])}\n" for row in ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), path / "t.parquet", row_group_size=20)
    return path


@pytest.fixture(scope="module")
def xrootd(folder):
    with XRootD() as server:
        for path in folder.iterdir():
            shutil.copy(path, server.folder / "store" / path.name)
            (server.folder / "store" / path.name).chmod(0o644)
        (server.folder / "store" / "closed.root").write_bytes(b"root")
        (server.folder / "store" / "closed.root").chmod(0)
        yield server


@pytest.fixture(scope="module")
def http(folder):
    with Http(folder) as server:
        yield server


@pytest.fixture(autouse=True)
def no_token(monkeypatch, tmp_path):
    monkeypatch.delenv("BEARER_TOKEN", raising=False)
    monkeypatch.delenv("BEARER_TOKEN_FILE", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def tree_sum(url):
    with sources.reading(url), uproot.open(sources.openable(url), **sources.storage_options(url)) as file:
        arrays = file["sub/events"].arrays(["x", "jet_pt"])
        assert len(arrays) == EVENTS
        return float(ak.sum(arrays.x)) + float(ak.sum(arrays.jet_pt))


def local_sum(folder):
    return tree_sum(str(folder / "a.root"))


def read_met(url):
    with open_table(url, sources.detect(url)) as table:
        return concatenate(list(table.batches(["met"], 10, 30)))["met"].tolist()


MET = [float(i) for i in range(10, 30)]
TABLES = ["t.csv", "t.jsonl.gz", "t.parquet"]


# XRootD


@pytest.mark.needs("xrootd")
def test_a_tree_over_xrootd(xrootd, folder):
    assert tree_sum(f"{xrootd.url}//store/a.root") == local_sum(folder)


@pytest.mark.needs("xrootd")
def test_a_logical_file_name_through_the_redirector(xrootd, folder):
    (url,) = sources.resolve(["/store/a.root"], redirector=xrootd.url)
    assert url == f"{xrootd.url}//store/a.root"
    assert tree_sum(url) == local_sum(folder)


@pytest.mark.needs("xrootd")
def test_globs_over_xrootd(xrootd):
    wanted = [f"{xrootd.url}//store/{name}" for name in ("a.root", "a2.root", "a10.root")]
    assert sources.resolve([f"{xrootd.url}//store/a*.root"]) == wanted
    assert sources.resolve(["/store/a*.root"], redirector=xrootd.url + "/") == wanted
    with pytest.raises(DataError, match="no file matches"):
        sources.resolve([f"{xrootd.url}//store/z*.root"])


@pytest.mark.needs("xrootd")
@pytest.mark.parametrize("name", TABLES)
def test_tables_over_xrootd(xrootd, name):
    assert read_met(f"{xrootd.url}//store/{name}") == MET


@pytest.mark.needs("xrootd")
def test_the_identity_of_a_file_over_xrootd(xrootd):
    path = xrootd.folder / "store" / "t2.csv"
    path.write_text("met\n1\n")
    sources.resolve([f"{xrootd.url}//store/t*.csv"])  # leaves a listing in fsspec's cache
    first = sources.identity(f"{xrootd.url}//store/t2.csv")
    path.write_text("met\n1\n2\n")
    assert sources.identity(f"{xrootd.url}//store/t2.csv") != first


@pytest.mark.needs("xrootd")
@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("//store/none.root", "there is no file root://.*//store/none.root on that server"),
        ("//store/none.csv", "there is no file root://.*//store/none.csv on that server"),
        ("/store/a.root", "takes absolute paths only; write two slashes"),
        ("//store", "is a folder"),
        ("//store/closed.root", "access is refused; set X509_USER_PROXY"),
        ("//etc/passwd", "access is refused"),
        ("//store/t.csv", r"t\.csv is not a ROOT file$"),
    ],
)
def test_what_xrootd_refuses(xrootd, path, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        read_met(xrootd.url + path) if path.endswith("none.csv") else tree_sum(xrootd.url + path)
    assert "\n" not in str(caught.value)


READER = """
import sys, uproot
from mlaas.data import sources
from mlaas.errors import DataError

url = sys.argv[1]
with uproot.open(url, **sources.storage_options(url)) as file:
    tree = file["sub/events"]
    tree["x"].array(entry_stop=100, library="np")
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        with sources.reading(url):
            tree["x"].array(entry_start=90_000, library="np")
    except DataError as error:
        print(error)
"""


@pytest.mark.needs("xrootd")
def test_an_xrootd_server_that_dies_in_the_middle(folder):
    with XRootD() as server:
        shutil.copy(folder / "a.root", server.folder / "store" / "a.root")
        (server.folder / "store" / "a.root").chmod(0o644)
        command = [sys.executable, "-c", READER, f"{server.url}//store/a.root"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader:
            assert reader.stdout.readline() == "ready\n"
            server.kill()
            started = time.monotonic()
            said, noise = reader.communicate("go\n", timeout=60)
    assert "a.root cannot be read: no connection, or it broke" in said
    assert noise == ""
    assert reader.returncode == 0
    assert time.monotonic() - started < 60


# HTTP


def test_a_tree_over_http(http, folder):
    assert tree_sum(f"{http.url}/files/a.root") == local_sum(folder)


def test_globs_over_http(http):
    assert sources.resolve([f"{http.url}/files/a*.root"]) == [f"{http.url}/files/{name}" for name in ("a.root", "a2.root", "a10.root")]


@pytest.mark.parametrize("where", ["files", "whole"])
@pytest.mark.parametrize("name", TABLES)
def test_tables_over_http_with_and_without_ranges(http, where, name):
    url = f"{http.url}/{where}/{name}"
    assert read_met(url) == MET
    assert sources.identity(url) == sources.identity(url)


def test_a_tree_from_a_server_without_ranges(http, folder):
    assert tree_sum(f"{http.url}/whole/a.root") == local_sum(folder)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("files/none.root", "there is no file http://.*none.root$"),
        ("secret/a.root", "access is refused; a bearer token is sent to https:// only"),
        ("broken/a.root", "no connection, or it broke"),
        ("busy/a.root", "the server answered 503"),
        ("silent/a.root", "the server did not answer within 1 s"),
    ],
)
@pytest.mark.parametrize("read", [tree_sum, read_met])
def test_what_goes_wrong_over_http(http, monkeypatch, read, path, sentence):
    monkeypatch.setattr(credentials, "READ_SECONDS", 1)
    monkeypatch.setenv("BEARER_TOKEN", TOKEN)
    url = f"{http.url}/{path}"
    with pytest.raises(DataError, match=sentence) as caught:
        read(url) if read is tree_sum else open_table(url, "csv")
    assert "\n" not in str(caught.value)
    assert not any(http.seen)


def test_a_server_that_is_not_there(folder):
    with Http(folder) as server:
        url = f"{server.url}/files/a.root"
    with pytest.raises(DataError, match="no connection, or it broke; check the host name and the network"):
        tree_sum(url)
    with pytest.raises(DataError, match="no connection"):
        open_table("http://no-such-host.invalid/a.csv", "csv")


def test_an_http_server_that_dies_in_the_middle(folder):
    with Http(folder) as server:
        url = f"{server.url}/files/a.root"
        file = uproot.open(url, **sources.storage_options(url))
        tree = file["sub/events"]
        assert len(tree["x"].array(entry_stop=100, library="np")) == 100
    with pytest.raises(DataError, match="no connection, or it broke"), sources.reading(url):
        tree["x"].array(entry_start=90_000, library="np")
    file.close()


# HTTPS


def test_https_with_trust_and_token(folder, tmp_path, monkeypatch):
    context, trusted = certificate(tmp_path)
    with Http(folder) as other, Http(folder, context=context, moved_to=other.url) as server:
        with pytest.raises(DataError, match="certificate is not trusted; set SSL_CERT_FILE"):
            tree_sum(f"{server.url}/files/a.root")
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        assert tree_sum(f"{server.url}/files/a.root") == local_sum(folder)
        with pytest.raises(DataError, match="access is refused; set BEARER_TOKEN_FILE or BEARER_TOKEN"):
            tree_sum(f"{server.url}/secret/a.root")
        (tmp_path / "token").write_text(TOKEN + "\n")
        monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "token"))
        assert tree_sum(f"{server.url}/secret/a.root") == local_sum(folder)
        assert read_met(f"{server.url}/secret/t.csv") == MET
        assert tree_sum(f"{server.url}/moved/a.root") == local_sum(folder)
        assert f"Bearer {TOKEN}" in server.seen
        assert other.seen
        assert not any(other.seen), "the token followed a redirection to another server"


def test_https_trusts_the_authorities_of_the_grid(folder, tmp_path, monkeypatch):
    context, trusted = certificate(tmp_path)
    authorities = tmp_path / "certificates"
    authorities.mkdir()
    digest = subprocess.run(["openssl", "x509", "-noout", "-hash", "-in", str(trusted)], capture_output=True, text=True, check=True).stdout.strip()
    shutil.copy(trusted, authorities / f"{digest}.0")
    monkeypatch.setenv("X509_CERT_DIR", str(authorities))
    with Http(folder, context=context) as server:
        assert read_met(f"{server.url}/files/t.csv") == MET


# S3


@pytest.fixture(scope="module")
def s3(folder):
    import boto3
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        for name, value in {
            "ENDPOINT_URL": f"http://{host}:{port}",
            "ACCESS_KEY_ID": "k",
            "SECRET_ACCESS_KEY": "s",
            "DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(f"AWS_{name}", value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="store")
        for path in folder.iterdir():
            client.upload_file(str(path), "store", f"data/{path.name}")
        yield "s3://store/data"
        server.stop()


def test_a_tree_over_s3(s3, folder):
    assert tree_sum(f"{s3}/a.root") == local_sum(folder)


def test_globs_over_s3(s3):
    assert sources.resolve([f"{s3}/a*.root"]) == [f"{s3}/{name}" for name in ("a.root", "a2.root", "a10.root")]
    with pytest.raises(DataError, match="no file matches"):
        sources.resolve([f"{s3}/z*.root"])


@pytest.mark.parametrize("name", TABLES)
def test_tables_over_s3(s3, name):
    assert read_met(f"{s3}/{name}") == MET


def test_what_is_not_in_the_bucket(s3):
    with pytest.raises(DataError, match=r"there is no file s3://store/data/none\.root$"):
        tree_sum(f"{s3}/none.root")
    with pytest.raises(DataError, match=r"there is no file s3://none/t\.csv$"):
        read_met("s3://none/t.csv")
