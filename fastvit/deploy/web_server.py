"""A web server for exported pages, on this machine alone."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from fastvit.errors import ExportError


class Handler(SimpleHTTPRequestHandler):
    """Files of one folder, with the headers that a browser wants to see before it lets a page use several threads."""

    # A system may know other types, or none; browsers refuse modules and programs that come as something else.
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")  # an export that was repeated is seen at once
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """No line for each file."""


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of `folder` at http://localhost:port, whose `serve_forever` is to be called; port 0 takes a free one.

    Raises:
        ExportError: there is no page, or the port is taken.
    """
    if not (folder / "index.html").is_file():
        raise ExportError(f"there is no page in {folder}: write one with fastvit export RUN --format web")
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise ExportError(f"port {port} cannot be used ({error}): choose another with --port") from error
