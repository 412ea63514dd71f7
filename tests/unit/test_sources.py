from __future__ import annotations

import errno
import gzip
import sys

import pytest

from mlaas.data import credentials, sources
from mlaas.data.proxied import proxied, unproxied
from mlaas.errors import DataError, MissingExtraError, ResourceError, UserError

CMS = "root://cms-xrd-global.cern.ch"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("file10.root", "file2.root", "file.root", "other.csv", "odd[1].root"):
        (tmp_path / name).write_bytes(b"root")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def no_token(monkeypatch, tmp_path):
    monkeypatch.delenv("BEARER_TOKEN", raising=False)
    monkeypatch.delenv("BEARER_TOKEN_FILE", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


def test_globs_are_sorted_as_people_count(folder):
    assert sources.resolve(["file*.root"]) == ["file.root", "file2.root", "file10.root"]
    assert sources.resolve(["*.csv", "file2.root"]) == ["other.csv", "file2.root"]
    assert sources.resolve(["**/*.csv"]) == ["other.csv"]


def test_a_name_with_brackets_that_exists_is_no_glob(folder):
    assert sources.resolve(["odd[1].root"]) == ["odd[1].root"]


def test_paths_relative_to_a_base_home_and_file_urls(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir("/")
    assert sources.resolve(["file.root"], base=folder) == [str(folder / "file.root")]
    assert sources.resolve(["~/file2.root"]) == [str(folder / "file2.root")]
    assert sources.resolve([f"file://{folder}/file.root", f"file://localhost{folder}/odd%5B1%5D.root"]) == [
        str(folder / "file.root"),
        str(folder / "odd[1].root"),
    ]


@pytest.mark.parametrize(
    ("redirector", "url"),
    [
        (CMS, CMS + "//store/mc/x.root"),
        (CMS + "/", CMS + "//store/mc/x.root"),
        (CMS + "//", CMS + "//store/mc/x.root"),
        ("root://host:1094//eos/cms", "root://host:1094//eos/cms/store/mc/x.root"),
        ("xroot://host", "root://host//store/mc/x.root"),
        ("https://host/webdav/", "https://host/webdav/store/mc/x.root"),
        ("davs://host:443", "https://host:443/store/mc/x.root"),
    ],
)
def test_logical_file_names_get_the_redirector(redirector, url):
    assert sources.resolve(["/store/mc/x.root"], redirector=redirector) == [url]


def test_only_what_cannot_be_local_goes_to_a_redirector_of_ones_own(folder):
    assert sources.resolve(["/no-such-folder/x.root"], redirector="root://mine") == ["root://mine//no-such-folder/x.root"]
    for redirector, name in [(CMS, "/no-such-folder/x.root"), ("root://mine", f"{folder}/x.root"), ("root://mine", "x.root"), ("", "/store/x.root")]:
        with pytest.raises(DataError, match="there is no file"):
            sources.resolve([name], redirector=redirector)


def test_urls_stay_as_they_are():
    urls = ["root://host//store/a.root?authz=x", "https://host/a.root?sig=[1]*", "s3://bucket/key.root", "root://[::1]:1094//store/a.root"]
    assert sources.resolve(urls) == urls
    assert sources.resolve(["ROOT://host//a", "dav://host/b"]) == ["root://host//a", "http://host/b"]


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("file3.root", r"there is no file file3.root \(did you mean 'file2?.root'\?\)"),
        ("none*.root", "no file matches"),
        ("sub", "sub is a folder; name its files"),
        ("sub/", "name its files, e.g. sub/"),
        ("", "an empty name"),
        ("gsiftp://host/a.root", "gsiftp:// is not supported; allowed are local paths, file://, root://, http://, https:// and s3://"),
        ("rot://host/a.root", r"rot:// is not supported \(did you mean 'root'\?\)"),
        ("root:///store/a.root", "names no host"),
        ("file://elsewhere/a.root", "of this machine"),
    ],
)
def test_what_cannot_be_resolved(folder, entry, sentence):
    with pytest.raises(DataError, match=sentence):
        sources.resolve([entry])


def test_a_redirector_must_be_a_server():
    with pytest.raises(DataError, match=r"params\.redirector: 'xrootd.my.org' is not the URL of a server"):
        sources.resolve(["/store/a.root"], redirector="xrootd.my.org")


def test_a_file_may_be_named_once(folder):
    (folder / "link.root").symlink_to("file.root")
    for names in (["file.root", "file.root"], ["file*.root", "file2.root"], ["file.root", str(folder / "file.root")], ["link.root", "file.root"]):
        with pytest.raises(DataError, match=r"named twice.*; its events would count twice"):
            sources.resolve(names)


def test_labels_and_weights_follow_their_glob(folder):
    found = sources.expand(["file*.root", "other.csv"], ["signal", 0], [0.5, 2.0])
    assert [(item.path, item.label, item.weight, item.entry) for item in found] == [
        ("file.root", "signal", 0.5, "file*.root"),
        ("file2.root", "signal", 0.5, "file*.root"),
        ("file10.root", "signal", 0.5, "file*.root"),
        ("other.csv", 0, 2.0, "other.csv"),
    ]
    assert {(item.label, item.weight) for item in sources.expand(["file*.root"], "isSignal")} == {(None, 1.0)}
    with pytest.raises(DataError, match="labels: 1 given for 2 files"):
        sources.expand(["file.root", "file2.root"], [1])
    with pytest.raises(DataError, match="file_weights: 3 given for 1 files"):
        sources.expand(["file.root"], [1], [1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.root", "root"),
        ("a.CSV.gz", "csv"),
        ("a.tsv", "csv"),
        ("a.json.bz2", "json"),
        ("a.jsonl", "json"),
        ("a.ndjson.zst", "json"),
        ("a.pq", "parquet"),
        ("a.avro", "avro"),
        ("https://host/a.parquet?token=x.csv", "parquet"),
        ("root://host//store/a.root?x=1", "root"),
    ],
)
def test_the_format_from_the_name(name, kind):
    assert sources.detect(name) == kind
    assert sources.detect(name, "avro") == "avro"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"root\0\0", "root"),
        (b"PAR1..", "parquet"),
        (b"Obj\x01..", "avro"),
        (b' {"a": 1}', "json"),
        (b"[\n{}]", "json"),
        (gzip.compress(b"Obj\x01"), "avro"),
    ],
)
def test_the_format_from_the_first_bytes(tmp_path, content, kind):
    (tmp_path / "data").write_bytes(content)
    assert sources.detect(str(tmp_path / "data")) == kind


def test_an_unknown_format(tmp_path):
    (tmp_path / "data.txt").write_bytes(b"a,b\n1,2\n")
    with pytest.raises(DataError, match="neither its name nor its first bytes tell the format; set dtype to one of root, csv"):
        sources.detect(str(tmp_path / "data.txt"))
    with pytest.raises(DataError, match=r"dtype: 'parket' is unknown \(did you mean 'parquet'\?\)"):
        sources.detect("a.root", "parket")
    with pytest.raises(DataError, match="there is no file"):
        sources.detect(str(tmp_path / "absent"))


def test_the_token_is_found_where_it_should_be(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / f"bt_u{credentials.os.geteuid()}").write_text("from-run\n")
    assert credentials.bearer_token() == "from-run"
    (tmp_path / "token").write_text("from.file\n")
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "token"))
    assert credentials.bearer_token() == "from.file"
    monkeypatch.setenv("BEARER_TOKEN", "direct==")
    assert credentials.bearer_token() == "direct=="


def test_a_planted_token_is_not_used(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "private").write_text("secret")
    (run / f"bt_u{credentials.os.geteuid()}").symlink_to(tmp_path / "private")
    assert credentials.bearer_token() != "secret"


def test_a_token_that_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("BEARER_TOKEN", "two words\r\nX-Header: 1")
    with pytest.raises(DataError, match="BEARER_TOKEN does not hold a bearer token"):
        sources.storage_options("https://host/a.root")
    monkeypatch.delenv("BEARER_TOKEN")
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"BEARER_TOKEN_FILE: .*absent cannot be read"):
        sources.storage_options("https://host/a.root")


def test_the_token_goes_to_https_only(monkeypatch):
    monkeypatch.setenv("BEARER_TOKEN", "abc")
    assert sources.storage_options("https://host/a.root")["client_kwargs"]["headers"] == {"Authorization": "Bearer abc"}
    for path in ("http://host/a.root", "s3://bucket/a", "root://host//a", "a.root"):
        assert "abc" not in repr(sources.storage_options(path))


@pytest.mark.parametrize(
    ("module", "url", "extra"),
    [("fsspec_xrootd", "root://host//a.root", "xrootd"), ("XRootD", "root://host//a", "xrootd"), ("s3fs", "s3://b/a", "s3")],
)
def test_a_missing_protocol_names_its_extra(monkeypatch, module, url, extra):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    for check in (credentials._configure_xrootd, credentials._require_s3fs):
        check.cache_clear()
    with pytest.raises(MissingExtraError, match=rf"pip install 'mlaas\[{extra}\]'"):
        sources.storage_options(url)


def test_the_identity_changes_with_the_content(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"1")
    first = sources.identity(str(file))
    assert sources.identity(str(file)) == first
    file.write_bytes(b"12")
    assert sources.identity(str(file)) != first


@pytest.mark.parametrize(
    ("path", "error", "sentence"),
    [
        ("a", FileNotFoundError("a"), "there is no file a"),
        ("a", PermissionError(13, "Permission denied"), "a may not be read: access is refused; check its permissions"),
        ("a", EOFError("Compressed file ended"), r"a is damaged or truncated \(Compressed file ended\)"),
        ("a", ValueError("not a ROOT file: first four bytes are b'abcd'"), "a is not a ROOT file"),
        ("a", OSError("odd thing\nwith more"), "a cannot be read: odd thing$"),
        ("http://u:pw@h/a?sig=x", OSError("GET http://h/a?sig=x went wrong"), "^http://h/a cannot be read: GET http://h/a went wrong$"),
        ("http://h/a", TimeoutError(), "did not answer within 60 s"),
        ("root://h//a", OSError("File did not open properly: [ERROR] Operation expired"), "did not answer within 60 s"),
        ("root://h//a", OSError("[FATAL] Invalid address"), "no connection, or it broke"),
        ("root://h//a", OSError("[FATAL] Auth failed: No protocols left to try"), "access is refused; set X509_USER_PROXY"),
    ],
)
def test_one_sentence_for_each_trouble(path, error, sentence):
    found = sources.explain(path, error)
    assert isinstance(found, DataError)
    with pytest.raises(DataError, match=sentence):
        raise found
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    ("path", "opened"),
    [
        ("root://Origin.example.org:1095//store/a.root", "root://xrootd:1094//root://origin.example.org:1095//store/a.root"),
        ("root://h//a.root?svcClass=x", "root://xrootd:1094//root://h//a.root?svcClass=x"),
        ("root://xrootd:1094//store/a.root", "root://xrootd:1094//store/a.root"),
        ("https://h/a.root", "https://h/a.root"),
        ("/store/a.root", "/store/a.root"),
    ],
)
def test_the_sites_proxy(monkeypatch, path, opened):
    assert proxied(path) == path
    monkeypatch.setenv("MLAAS_XROOTD_PROXY", "root://xrootd:1094")
    assert proxied(path) == opened
    assert unproxied(opened).lower() == path.lower()


@pytest.mark.parametrize("wrong", ["xrootd:1094", "root://xrootd:1094/", "root://user@xrootd", "https://xrootd"])
def test_the_sites_proxy_must_be_a_server(monkeypatch, wrong):
    monkeypatch.setenv("MLAAS_XROOTD_PROXY", wrong)
    with pytest.raises(UserError, match="MLAAS_XROOTD_PROXY"):
        proxied("root://h//a.root")


def test_what_the_sites_proxy_refuses_is_not_cured_by_the_user(monkeypatch):
    monkeypatch.setenv("MLAAS_XROOTD_PROXY", "root://xrootd:1094")
    error = OSError("File did not open properly: [ERROR] Server responded with an error: [3010] Unable to open /root:/h/a; permission denied")
    with pytest.raises(DataError, match="root://h//a may not be read: access is refused; the site's XRootD proxy does not permit"):
        raise sources.explain("root://h//a", error)


def test_a_full_disk_is_no_fault_of_the_data():
    assert isinstance(sources.explain("s3://b/a", OSError(errno.ENOSPC, "No space left on device")), ResourceError)


def test_what_a_library_stumbles_over_is_the_file(tmp_path):
    import uproot

    (tmp_path / "a.root").write_bytes(b"root" + bytes(range(256)) * 4)
    with pytest.raises(DataError, match=r"a\.root"), sources.reading(str(tmp_path / "a.root")):
        uproot.open(str(tmp_path / "a.root"))


def test_faults_of_the_program_pass_through():
    with pytest.raises(ZeroDivisionError), sources.reading("a"):
        _ = 1 // 0
    with pytest.raises(KeyError), sources.reading("a"):
        _ = {}["x"]
