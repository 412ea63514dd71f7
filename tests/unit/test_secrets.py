"""What a bundle records of where its data came from: enough to read them again, and nobody's credentials."""

from __future__ import annotations

import json

import pytest

from mlaas import pipeline
from mlaas.data.access import without_secrets
from mlaas.data.specs import Specs, published
from mlaas.workflow import parse

SIGNED = "https://me:hunter2@store.cern.ch:8443/a.root?download=1&X-Amz-Signature=abcdef&access_token=abcdef#part"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/data/token=1/a.root?x", "/data/token=1/a.root?x"),
        ("https://zenodo.org/a.root?download=1", "https://zenodo.org/a.root?download=1"),
        (SIGNED, "https://store.cern.ch:8443/a.root?download=1#part"),
        ("root://me@eos.cern.ch//eos/a.root?authz=abcdef", "root://eos.cern.ch//eos/a.root"),
        ("https://s3.cern.ch/b/a.root?AWSAccessKeyId=abcdef&Expires=1&Signature=abcdef", "https://s3.cern.ch/b/a.root?Expires=1"),
        ("https://x.blob.core.windows.net/a.root?sv=2022&sig=abcdef", "https://x.blob.core.windows.net/a.root?sv=2022"),
        ("s3://bucket/me@home/a.root", "s3://bucket/me@home/a.root"),
    ],
)
def test_credentials_are_taken_out_of_addresses(given, kept):
    assert without_secrets(given) == kept


def test_a_bundle_records_no_credentials():
    workflow = parse({"files": [SIGNED], "labels": "label", "model": "model.py", "params": {"redirector": "root://me:hunter2@redirector.cern.ch"}})
    document = json.dumps(pipeline._recorded(workflow))
    assert "hunter2" not in document
    assert "abcdef" not in document
    assert "https://store.cern.ch:8443/a.root?download=1#part" in document
    assert "root://redirector.cern.ch" in document
    assert "hunter2" not in pipeline._absolute(SIGNED)
    assert list(published(Specs(), [(SIGNED, 3)])["events"]) == ["https://store.cern.ch:8443/a.root?download=1#part", "total"]
