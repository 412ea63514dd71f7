"""What the pages are made of: curves, forms, numbers, log texts, addresses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas.server import wire
from mlaas.server.pages import files, forms, submit
from mlaas.server.pages.curves import HEIGHT, WIDTH, charts
from mlaas.server.pages.render import duration, figure, log_text, moment
from mlaas.server.pages.session import gateway_sign_out, local
from mlaas.server.pages.trying import Input, example, one_event
from mlaas.server.pages.workspaces import stem
from mlaas.web.problem import Problem

VALUES = st.one_of(st.none(), st.text(max_size=3), st.booleans(), st.integers(-(10**40), 10**40), st.floats(allow_nan=True, allow_infinity=True))


@given(st.lists(st.dictionaries(st.sampled_from(["loss", "val_loss", "val_auc", "kind", "val_r2"]), VALUES), max_size=60))
def test_curves_stay_in_their_picture(epochs):
    for chart in charts(epochs):
        assert 2 <= len(chart.y_ticks) <= 8
        assert chart.summary.startswith(chart.title)
        for curve in chart.curves:
            points = [tuple(map(float, point.split(","))) for point in curve.points.split()]
            assert points
            assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
            assert points == sorted(points, key=lambda point: point[0])


def test_curves_of_a_training():
    made = charts([{"loss": 0.7, "val_loss": 0.69, "val_auc": 0.6}, {"loss": 0.5, "val_loss": 0.52, "val_auc": 0.8}])
    assert [chart.title for chart in made] == ["Loss", "AUC"]
    assert made[0].summary == "Loss: training 0.5, validation 0.52"
    assert [text for _, text in made[0].x_ticks] == ["1", "2"]
    assert charts([]) == charts([{"loss": 0.7}]) == []


def test_ticks_can_be_told_apart():
    for low, high in ((0.67970, 0.67976), (1e-9, 2e-9), (-3.0, 5e7), (0.5, 0.7), (1e12, 1e12 + 1)):
        (chart,) = charts([{"loss": low}, {"loss": high}])
        labels = [text for _, text in chart.y_ticks]
        assert len(set(labels)) == len(labels) or high - low < 1e-6 * high, labels


def test_a_long_training_is_thinned_out_and_keeps_its_ends():
    (chart,) = charts([{"loss": 1 / place} for place in range(1, 10_001)])
    assert len(chart.curves[0].points.split()) <= 402
    assert chart.curves[0].last == 1e-4
    assert chart.x_ticks[-1][1] == "10000"
    assert len(chart.x_ticks) <= 8


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (86_400, "1 d"),
        (97_200, "1 d 3 h"),
        (-5, "0 s"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_times_are_told_in_utc_and_to_programs():
    when = datetime(2026, 11, 21, 14, 5, 9, 123456, tzinfo=timezone(timedelta(hours=1)))
    text = '<time datetime="2026-11-21T13:05:09Z">2026-11-21 13:05 UTC</time>'
    assert moment(when) == text
    assert moment(datetime(2026, 11, 21, 13, 5, 9, tzinfo=UTC).timestamp()) == text
    assert moment(None) == "–"


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (True, "yes"), (12345, "12\u202f345"), (0.123456, "0.12346"), ("x", "x")])
def test_figures(value, text):
    assert figure(value) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>&\"'", "&lt;b&gt;&amp;&#34;&#39;"),
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07x", "red x"),
        ("a\r\nb\rc\td\n", "a\nb\nc\td\n"),
        ("nul\x00bel\x07\x9b", "nul\ufffdbel\ufffd\ufffd"),
    ],
)
def test_logs_are_escaped_and_plain(text, shown):
    assert str(log_text(text)) == shown


@given(st.text())
def test_no_log_can_write_a_tag(text):
    shown = str(log_text(text))
    assert not set(shown) & set("<>\x1b\x00")


@pytest.mark.parametrize("target", ["//x", "/\\x", "https://x", "", "x", "/a b", "/a\n", "/\u00fc", "javascript:x"])
def test_only_addresses_of_this_service_are_led_to(target):
    assert local(target) == "/"
    assert local("/jobs/tth_1?tenant=a&b=%20") == "/jobs/tth_1?tenant=a&b=%20"


FORM = dict.fromkeys(submit.FIELDS, "")


def test_signing_out_behind_a_gateway_goes_on_to_the_provider():
    assert gateway_sign_out("") == "/oauth2/sign_out"
    onward = parse_qs(urlsplit(gateway_sign_out("https://op.example.org/end?x=1&y")).query)
    assert onward == {"rd": ["https://op.example.org/end?x=1&y&id_token_hint={id_token}"]}
    assert gateway_sign_out("https://op.example.org/end").endswith("end%3Fid_token_hint%3D%7Bid_token%7D")


def test_a_form_becomes_a_submission():
    given = FORM | {
        "workspace": "tth",
        "files": "files.txt",
        "labels_text": "1\n# no\n\n0\n",
        "model": " model.py ",
        "params_text": '{"epochs": 3}',
        "memory": "3gb",
    }
    document = forms.training(given)
    assert document == {"workspace": "tth", "files": "files.txt", "labels": ["1", "0"], "model": "model.py", "params": {"epochs": 3}, "memory": "3gb"}
    request = forms.request_of(document)
    assert isinstance(request, wire.TrainRequest)
    assert request.memory == 3 * 10**9


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"params_text": "{"}, "params", "not JSON: Expecting property name"),
        ({"params_text": "[1]"}, "params", "must be a JSON object"),
        ({"preproc_text": '{"a": ' * 3000}, "preproc", "nested too deep"),
        ({"cpus": "-1"}, "cpus", "cpus: must be greater than 0"),
        ({"memory": "lots"}, "memory", "is not a size"),
        ({"name": "a b"}, "name", "name: must be up to 100 letters, digits"),
        ({"device": "tpu"}, "device", "'cpu' or 'gpu'"),
        ({"workspace": "../x"}, "workspace", "must be up to 100 letters, digits"),
    ],
)
def test_errors_of_a_form_stand_beside_their_field(changes, field, sentence):
    typed = FORM | {"workspace": "tth", "files": "f", "labels": "l", "model": "m"} | changes
    with pytest.raises(Problem) as caught:
        forms.request_of(forms.training(typed))
    errors = forms.Errors.of(caught.value, typed)
    assert errors.field == field
    assert sentence in errors.sentence


def test_an_event_from_texts():
    assert one_event({"flat:njet": "8", "jagged:jet_pt": "120.5, 40", "jagged:lep": ""}) == {"njet": [8], "jet_pt": [[120.5, 40]], "lep": [[]]}
    for text, field in (({"flat:njet": "x"}, "njet"), ({"flat:njet": ""}, "njet"), ({"flat:njet": "1 2"}, "njet"), ({"jagged:pt": "1;2"}, "pt")):
        with pytest.raises(Problem) as caught:
            one_event(text)
        assert caught.value.field == field
    assert example([Input("a", False, "1"), Input("b", True, "2")]) == '{\n  "a": [1, 1],\n  "b": [[2], []]\n}'


@pytest.mark.parametrize(
    ("name", "text"), [("tth.tar.gz", "tth"), ("C:\\x\\tth.ZIP", "tth"), ("a/b.tgz", "b"), ("plain", "plain"), ("v1.2.tar", "v1.2"), ("", "")]
)
def test_the_name_of_an_archive(name, text):
    assert stem(name) == text


def test_static_files_are_there_and_htmx_is_what_it_says():
    for name in (*files.OWN, *files.HTMX):
        body, kind = files.content(name)
        assert body
        assert kind.endswith("charset=utf-8")
        assert files.address(name).startswith(f"/static/{name}?")
    assert b"htmx" in files.content("htmx.js")[0]
    assert b"EventSource" in files.content("sse.js")[0]
    with pytest.raises(KeyError):
        files.content("../app.py")
