"""A local Hugging Face hub: serves folders under model names over HTTP within a `with` block.

It implements what `snapshot_download` (huggingface_hub 2.x) uses: a model's info, its file tree, and its files with
ETag, X-Repo-Commit and X-Linked-Size; and 404 with the hub's error codes for anything else. `requests` lists the
requests, so that a test can check what was not downloaded.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit


class LocalHub:
    """`with LocalHub({"gpt2": folder}) as hub:` serves at `hub.url`, on a free port of 127.0.0.1."""

    def __init__(self, repositories: Mapping[str, Path]):
        self.repositories = {name: _files(folder) for name, folder in repositories.items()}
        self.commits = {
            name: hashlib.sha1("".join(files).encode()).hexdigest() for name, files in self.repositories.items()
        }
        self.requests: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def served(self, name: str) -> set[str]:
        """The files of `name` whose content was sent."""
        return {
            r.split("/resolve/")[1].split("/", 1)[1] for r in self.requests if r.startswith(f"GET /{name}/resolve/")
        }


def _files(folder: Path) -> dict[str, Path]:
    return {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/api/models/(.+?)(?:/revision/([^/]+))?", path.split("/tree/")[0]):
            self._api(found[1], path)
        elif found := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            self._file(found[1], found[3])
        else:
            self._missing("EntryNotFound")

    def _api(self, name: str, path: str) -> None:
        if name not in self.hub.repositories:
            self._missing("RepoNotFound")
            return
        files = self.hub.repositories[name]
        if "/tree/" in path:
            body: Any = [
                {"type": "file", "path": file, "size": where.stat().st_size, "oid": _git_id(where)}
                for file, where in files.items()
            ]
        else:
            body = {
                "_id": "0" * 24, "id": name, "modelId": name, "sha": self.hub.commits[name], "private": False,
                "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": [],
                "siblings": [{"rfilename": file} for file in files],
            }  # fmt: skip
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, file: str) -> None:
        if name not in self.hub.repositories:
            self._missing("RepoNotFound")
        elif file not in self.hub.repositories[name]:
            self._missing("EntryNotFound", {"X-Repo-Commit": self.hub.commits[name]})
        else:
            where = self.hub.repositories[name][file]
            size = str(where.stat().st_size)
            headers = {"ETag": f'"{_git_id(where)}"', "X-Repo-Commit": self.hub.commits[name], "X-Linked-Size": size}
            self._send(200, where.read_bytes(), {"Content-Type": "application/octet-stream", **headers})

    def _missing(self, code: str, headers: Mapping[str, str] | None = None) -> None:
        words = {"RepoNotFound": "Repository not found", "EntryNotFound": "Entry not found"}[code]
        self._send(
            404,
            json.dumps({"error": words}).encode(),
            {"X-Error-Code": code, "X-Error-Message": words, **(headers or {})},
        )

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _git_id(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
