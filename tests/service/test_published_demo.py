"""The demonstration of the published system, call by call as its users type it with curl: tokens of a real provider, TLS, training, TFaaS."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from mlaas.demo.generate import write_pair
from tests.service.service import Service, packed, running
from tests.service.test_serving import write_certificate

MODEL = """
from keras.layers import Dense, Dropout
from keras.models import Sequential


def model(idim):
    "Simple Keras model for testing purposes"
    net = Sequential([Dense(16, activation="relu", input_shape=(idim,)), Dropout(0.5), Dense(1, activation="sigmoid")])
    net.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return net
"""
PARAMS = {
    "nevts": -1,
    "shuffle": True,
    "chunk_size": 1000,
    "epochs": 1,
    "batch_size": 100,
    "identifier": ["runNo", "evtNo", "lumi"],
    "branch": "events",
    "selected_branches": ["ht", "met", "njet", "mbb"],
    "exclude_branches": "",
    "hist": "",
    "redirector": "root://redirector.example.org",
    "verbose": 0,
}
SUBMISSION = {"device": "cpu", "memory": "3gb", "cpus": "1", "labels": "labels.txt", "model": "ex_keras_model.py", "params": "params.json"}
# oidc-agent and its client, as far as the script uses them: the token comes from the provider, asked as oidc-agent would be
AGENT = '#!/bin/sh\necho "OIDC_SOCK=/nowhere; export OIDC_SOCK;"\n'
ASK = """#!/bin/sh
curl -s -d grant_type=password -d client_id=mlaas-cli -d username=alice -d password=test "$ISSUER/token" |
    sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/'
"""
SCRIPT = r"""#!/bin/bash
eval `oidc-agent`
TOKEN_MLAAS=$(oidc-token luca --aud=mlaas-server)
TOKEN_TFAAS=$(oidc-token luca --aud=tfaas)
say() { echo; echo "### $1"; }

say models-before
curl -L -k -H "Authorization: Bearer ${TOKEN_TFAAS}" $TFAAS/models
say upload
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" -F "file=@folder_to_upload.tar.gz" $MLAAS/upload?name=luca
say submit
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" -H "Content-Type: application/json" -d @submit.json $MLAAS/submit
say status
while
    status=$(curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" $MLAAS/status_docker?process_name=luca_1)
    echo "$status"
    ! grep -q Exited <<< "$status"
do sleep 0.5; done
say logs
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" -o logs.txt $MLAAS/logs?process_name=luca_1
cat logs.txt
say model
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" -o luca_1.tar.gz $MLAAS/model?process_name=luca_1
mkdir -p luca_1 && tar -xf luca_1.tar.gz -C luca_1 && ls luca_1
say models
curl -L -k -H "Authorization: Bearer ${TOKEN_TFAAS}" $TFAAS/models
say predict
curl -L -k -H "Authorization: Bearer ${TOKEN_TFAAS}" -X POST -H "Content-type: application/json" -d @predict_bkg.json $TFAAS/json
say setup_tfaas
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" -F "file=@params.json" $MLAAS/setup_tfaas?process_name=luca_1
say delete_specs
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" $MLAAS/delete_specs?name=luca
say submit-remote
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" -H "Content-Type: application/json" -d @submit_remote.json $MLAAS/submit
say logs-remote
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" -o logs_remote.txt $MLAAS/logs?process_name=luca_2
say delete_folder
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" $MLAAS/delete_folder?name=luca
say delete-models
curl -L -k -H "Authorization: Bearer ${TOKEN_TFAAS}" -X DELETE $TFAAS/delete -F "model=luca_1" -w '%{http_code}\n' -o /dev/null
curl -L -k -H "Authorization: Bearer ${TOKEN_TFAAS}" -X DELETE $TFAAS/delete -F "model=luca_2" -w '%{http_code}\n' -o /dev/null
say models-after
curl -L -k -H "Authorization: Bearer ${TOKEN_TFAAS}" $TFAAS/models
say hello
curl -L -k -H "Authorization: Bearer ${TOKEN_MLAAS}" $MLAAS/hello
say end
"""


def program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """What a user has in the folder that the commands are typed in."""
    home = tmp_path_factory.mktemp("demo")
    folder = home / "folder_to_upload"
    folder.mkdir()
    write_pair(folder, 1000, profile="seed", basket=500)
    (folder / "files_local.txt").write_text("signal.root\nbackground.root\n")
    (folder / "files_remote.txt").write_text("http://127.0.0.1:9/signal.root\nhttp://127.0.0.1:9/background.root\n")
    (folder / "labels.txt").write_text("1\n0\n")
    (folder / "params.json").write_text(json.dumps(PARAMS))
    (folder / "ex_keras_model.py").write_text(MODEL)
    (folder / "specs-signal.json").write_text("{}")
    (home / "folder_to_upload.tar.gz").write_bytes(packed(folder))
    (home / "submit.json").write_text(json.dumps({"name": "luca", "files": "files_local.txt", **SUBMISSION}))
    (home / "submit_remote.json").write_text(json.dumps({"name": "luca", "files": "files_remote.txt", **SUBMISSION}))
    (home / "predict_bkg.json").write_text(json.dumps({"values": [0.1956, 0.8628, 0.2046, 0.5979], "model": "luca_1"}))
    (home / "params.json").write_text(json.dumps({"description": "ttH against QCD"}))
    program(home / "bin" / "oidc-agent", AGENT)
    program(home / "bin" / "oidc-token", ASK)
    program(home / "demo.sh", SCRIPT)
    return home


@pytest.fixture(scope="module")
def service(openid, tmp_path_factory):
    home = tmp_path_factory.mktemp("service")
    write_certificate(home / "certificate.pem", home / "key.pem")
    tls = {"tls_certificate": home / "certificate.pem", "tls_key": home / "key.pem"}
    with running(home / "data", openid.settings(), ca=home / "certificate.pem", **tls) as found:
        yield found


def sections(text: str) -> dict[str, str]:
    """What each call printed."""
    parts = re.split(r"^### (.*)$", text, flags=re.MULTILINE)
    return {name: body.removeprefix("\n").removesuffix("\n") for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def play(folder: Path, service: Service, *, server: str, inference: str, issuer: str) -> None:
    """Run the script in a folder of `material` against these addresses, and look at what each call printed."""
    variables = {"MLAAS": server, "TFAAS": inference, "ISSUER": issuer, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "demo.sh"], cwd=folder, env=os.environ | variables, capture_output=True, text=True, timeout=400)
    told = sections(done.stdout)
    assert done.returncode == 0, done.stderr
    assert told["models-before"].strip() == "null"
    assert told["upload"] == "Successfully uploaded!\n"
    submitted = json.loads(told["submit"])
    assert submitted["process_name"] == "luca_1"
    states = re.findall(r'"status": "(.*)"', told["status"])
    assert all(re.match(r"Created$|Up (Less than a second|1 second|\d+ seconds|About a minute|\d minutes)$|Exited \(0\) ", state) for state in states)
    assert states[-1].startswith("Exited (0)"), (states, service.log.read_text()[-3000:])
    assert "bundle" in told["logs"]
    assert {"saved_model.pb", "variables", "assets", "params.json"} <= set(told["model"].split())
    assert [model["name"] for model in json.loads(told["models"])] == ["luca_1"]
    scores = json.loads(told["predict"])
    assert len(scores) == 1
    assert 0 <= scores[0] <= 1
    assert told["setup_tfaas"] == "Successfully uploaded!\n"
    assert told["delete_specs"] == "Specs deletion completed!\n"
    again = json.loads(told["submit-remote"])
    assert again["process_name"] == "luca_2"
    assert again["job_id"] > submitted["job_id"]
    assert told["delete_folder"] == "Folder deletion completed!\n"
    assert told["delete-models"].split() == ["200", "404"]
    assert told["models-after"].strip() == "null"
    assert told["hello"] == "Hello World\n"
    assert "end" in told


@pytest.mark.needs("node", "npm", "curl")
def test_the_demonstration_runs_to_its_end(service: Service, openid, material: Path):
    play(material, service, server=service.server, inference=service.inference, issuer=openid.url)


@pytest.mark.needs("node", "npm")
def test_the_demonstration_of_somebody_else(service: Service, openid):
    """Who may not use the service is told so, and another user sees nothing of it."""
    with service.client(openid.token("bob")) as bob:
        assert bob.get("/status_docker?process_name=luca_1").status_code == 403
    with service.client(openid.token("dave")) as dave:
        assert dave.get("/status_docker?process_name=luca_1").status_code == 404
        assert dave.get("/model?process_name=luca_1").status_code == 404
    with service.client(openid.token("carol")) as carol:
        assert [job["process_name"] for job in carol.get("/api/v1/jobs?tenant=*").json()["items"]] == ["luca_2", "luca_1"]
