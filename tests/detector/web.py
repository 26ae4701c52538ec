"""A small web server for download tests: a folder of files, ranges granted, connections cut on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Web:
    """What is served, what goes wrong, and what was asked.

    files: body by path. cut_after: bytes of a body sent before the connection is cut, per coming request (None: all).
    refused_agent: a client whose User-Agent starts so gets 403. ranges: whether Range headers are honoured.
    asked: path and Range header of every request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int | None] = field(default_factory=list)
    refused_agent: str | None = None
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    web: Web

    def do_GET(self) -> None:
        web = self.web
        wanted = self.headers["Range"]
        web.asked.append((self.path, wanted))
        body = web.files.get(self.path)
        if web.refused_agent and self.headers["User-Agent"].startswith(web.refused_agent):
            return self.send_error(403)
        if body is None:
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and web.ranges else 0
        if start and start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
        self.end_headers()
        cut = web.cut_after.pop(0) if web.cut_after else None
        self.wfile.write(body[start:] if cut is None else body[start : start + cut])

    def log_message(self, format: str, *args: object) -> None:
        """The test's output stays its own."""


@contextmanager
def served() -> Iterator[Web]:
    """A server on a free local port, for the length of the context."""
    web = Web()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": web}))
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
