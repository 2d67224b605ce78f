"""A real HTTP server on this machine that replaces a remote one."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Said = tuple[int, Any, dict[str, str]]
"""A reply: the status, the body (bytes unchanged, everything else as JSON), and additional headers."""


@dataclass(frozen=True)
class Asked:
    """A request. `number`: its position, from 0; `headers`: by lower-case name; `body`: parsed JSON, or None."""

    number: int
    path: str
    headers: dict[str, str]
    body: Any


class LocalServer:
    """Answers each request with `reply`, in a separate thread, until `close`. Keeps all requests in `asked`."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                with lock:
                    asked = Asked(len(outer.asked), self.path, headers, json.loads(data) if data else None)
                    outer.asked.append(asked)
                status, said, own = outer.reply(asked)
                sent = said if isinstance(said, bytes) else json.dumps(said).encode()
                try:
                    self.send_response(status)
                    for name, value in {"Content-Type": "application/json", **own}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(sent)))
                    self.end_headers()
                    self.wfile.write(sent)
                except OSError:
                    pass  # the client timed out

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def reply(self, asked: Asked) -> Said:
        """The reply to a request; subclasses implement it."""
        raise NotImplementedError

    @property
    def bodies(self) -> list[Any]:
        """The bodies of all requests so far, without empty ones."""
        return [asked.body for asked in self.asked if asked.body is not None]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
