"""Uploads: what goes to the hub, what stays here, and what is said when nothing can go there."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from tests.training.runtime.runs import content_for, train
from tests.training.toy import recipe_content
from videoreasoner.errors import SettingError, TrainingError
from videoreasoner.models.checkpoint import load_checkpoint
from videoreasoner.training.recipe import ColdStartRecipe, parse_recipe
from videoreasoner.training.runtime.arguments import check_names


class Hub(BaseHTTPRequestHandler):
    """The requests of an upload, as the hub answers them when no file goes to its storage for large files."""

    token = "hf_right"
    files: dict[str, bytes]
    created: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {self.token}":
            return self.reply(401, {"error": "Invalid credentials in Authorization header"})
        if self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            return self.reply(200, {"url": f"http://{self.headers['Host']}/me/model", "name": "me/model"})
        if self.path == "/api/validate-yaml":
            return self.reply(200, {"errors": [], "warnings": []})
        if self.path.endswith("/preupload/main"):
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self.reply(200, {"files": [{**file, "shouldIgnore": False} for file in files]})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        oid = "0" * 40
        return self.reply(200, {"commitUrl": f"http://{self.headers['Host']}/me/model/commit/{oid}", "commitOid": oid})

    def do_GET(self) -> None:
        self.reply(404, {"error": "not found"})

    def reply(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    kind: type[Hub] = type("OwnHub", (Hub,), {"files": {}, "created": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", Hub.token)
    yield kind
    server.shutdown()
    server.server_close()


def pushed(folder: Path, out: Path, **changes: Any) -> dict[str, Any]:
    hub = {"push_to_hub": True, "hub_model_id": "me/model", "hub_private_repo": True}
    return content_for(folder, out, **{"max_steps": 2, **hub, **changes})


def test_the_model_is_uploaded_and_nothing_else_of_the_run(
    folder: Path, tmp_path: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    out = train(pushed(folder, tmp_path / "out", lora={"r": 4}, license="mit"))
    stays = {"run.json", "metrics.jsonl", "skipped.jsonl", ".lock"}
    here = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert set(hub.files) == {name for name in here - stays if not name.startswith("checkpoint-")}
    assert {"config.json", "README.md", "videoreasoner.json", "adapter/adapter_config.json"} < set(hub.files)
    assert hub.created[0].get("private") or hub.created[0].get("visibility") == "private"
    assert "uploaded to" in capsys.readouterr().err
    assert "license: mit" in hub.files["README.md"].decode()
    fetched = tmp_path / "fetched"
    for name, content in hub.files.items():
        (fetched / name).parent.mkdir(parents=True, exist_ok=True)
        (fetched / name).write_bytes(content)
        assert content == (out / name).read_bytes()


def test_a_failed_upload_leaves_the_model_and_the_same_command_uploads_it(
    folder: Path, tmp_path: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = pushed(folder, tmp_path / "out")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(TrainingError, match=r"me/model: the upload failed.*complete in .*out\..* hf upload me/model"):
        train(content)
    assert not hub.files
    load_checkpoint(tmp_path / "out", device="cpu")
    monkeypatch.setenv("HF_TOKEN", Hub.token)
    train(content)
    assert "model.safetensors" in hub.files


@pytest.mark.parametrize("offline", [False, True])
def test_without_a_network_the_model_is_kept(
    folder: Path, tmp_path: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(TrainingError, match="the upload failed") as raised:
        train(pushed(folder, tmp_path / "out"))
    assert "\n" not in str(raised.value)
    assert (tmp_path / "out" / "config.json").is_file()


def test_what_cannot_be_uploaded_is_refused_before_training(
    tmp_path: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(**changes: Any) -> None:
        content = recipe_content(tmp_path, tmp_path / "rows.jsonl", **changes)
        check_names(parse_recipe(content, ColdStartRecipe))

    check(push_to_hub=True)
    with pytest.raises(SettingError, match="hub_model_id: "):
        check(push_to_hub=True, hub_model_id="a/b/c")
    with pytest.raises(SettingError, match=r"trainer\.push_to_hub: a key of the recipe itself"):
        check(trainer={"push_to_hub": True})
    with pytest.raises(SettingError, match=r"trainer\.hub_token: would have no effect"):
        check(trainer={"hub_token": "hf_secret"})
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    check()
    with pytest.raises(SettingError, match="there is no token"):
        check(push_to_hub=True)
