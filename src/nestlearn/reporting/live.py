"""A run as a page on this machine that follows it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nestlearn.observing import read_run, read_system
from nestlearn.reporting.system import render_page, run_payload

_RUN = "/run.json"


class Server:
    """Serves a run's page on the loopback interface until it is closed.

    Args:
        folder: The run's folder.
        port: Port to listen on; 0 for any that is free.

    Attributes:
        address: Where the page is.

    Raises:
        ValueError: If the port is taken.
    """

    def __init__(self, folder: Path, port: int) -> None:
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(folder))
        except (OSError, OverflowError) as error:
            raise ValueError(f"port {port} cannot be used ({error}): give another --port, or 0") from error
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """The page, and the run as it is now."""

        def do_GET(self) -> None:
            """Answer a request."""
            try:
                if self.path == "/":
                    self._send(_page(folder).encode(), "text/html; charset=utf-8")
                elif self.path == _RUN:
                    answer = json.dumps(run_payload(read_run(folder)), allow_nan=False)
                    self._send(answer.encode(), "application/json")
                else:
                    self.send_error(404)
            except ValueError as error:
                self.send_error(503, explain=str(error))

        def _send(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the terminal shows the run."""

    return Handler


def _page(folder: Path) -> str:
    system = read_system(folder)
    return render_page(None if system is None else system.to_json(), read_run(folder), live=_RUN)


__all__ = ["Server"]
