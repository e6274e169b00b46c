"""A hub on this machine, for the machines that tests run on have none."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

SHA = "0" * 40


class LocalHub:
    """Serves ``root/owner/name/...`` as the repositories of a Hugging Face hub, as far as downloads need it.

    Attributes:
        downloads: ``owner/name/file`` of every file that was fetched.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.downloads: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @contextmanager
    def running(self) -> Generator[str]:
        """Serves until the block ends; gives the address for ``HF_ENDPOINT``."""
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{self.server.server_port}"
        finally:
            self.server.shutdown()
            self.server.server_close()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a path without its query."""
        parts = unquote(path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._listing(self.root / parts[2] / parts[3], "/".join(parts[2:4]), parts[4:])
        repository, file = "/".join(parts[:2]), "/".join(parts[4:])
        body = self.root / repository / file
        if parts[2:3] != ["resolve"] or not body.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": SHA}, b""
        data = body.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": SHA}
        return 200, headers, data

    def _listing(self, directory: Path, name: str, rest: list[str]) -> tuple[int, dict[str, str], bytes]:
        if not directory.is_dir():
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        files = sorted(file for file in directory.rglob("*") if file.is_file())
        if rest[:1] == ["tree"]:
            rows = [
                {"type": "file", "path": str(f.relative_to(directory)), "size": f.stat().st_size, "oid": SHA}
                for f in files
            ]
            return 200, {}, json.dumps(rows).encode()
        siblings = [{"rfilename": str(file.relative_to(directory))} for file in files]
        return 200, {}, json.dumps({"id": name, "sha": SHA, "siblings": siblings, "tags": []}).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = hub.answer(urlsplit(self.path).path)
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)
                    if "/resolve/" in self.path and status == 200:
                        owner, name, _, _, *file = urlsplit(self.path).path.strip("/").split("/")
                        hub.downloads.append(unquote("/".join([owner, name, *file])))

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler
