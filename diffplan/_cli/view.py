"""Shows a run: curves, videos of episodes, and plans through their iterations.

RUN is the folder of a run, a folder of plans or the file of one (`diffplan plan`, or
`save` of a `PlanRecord`). The page is served to this machine alone, made anew whenever
it is loaded; --output writes it as one file that can be sent to others.
"""

import argparse
import sys
import webbrowser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from diffplan._cli import DONE, say
from diffplan.errors import ArgumentError, DiffplanError

_LOCAL = ("localhost", "127.0.0.1")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="what is shown")
    add(
        "--output", type=Path, metavar="FILE.html", help="write the page, serve nothing"
    )
    add("--port", type=int, default=0, help="0 takes any that is free")
    add("--no-browser", action="store_true", help="tell the address, open nothing")
    add("--videos", type=int, default=8, help="the most in the page; 8")


def run(options: argparse.Namespace) -> int:
    """Write or serve the page; return the exit status."""
    from diffplan._checks import require_count
    from diffplan._cli._page import page
    from diffplan._files import write_atomically

    require_count("--videos", options.videos, 0)
    if not 0 <= options.port < 2**16:
        raise ArgumentError(f"--port: expected 0 … 65535, got {options.port}")
    # What is wrong is told here, before anybody looks at a page.
    text = page(options.run, options.videos)
    if options.output is not None:
        write_atomically(options.output, lambda file: file.write(text.encode()))
        say(f"{options.output}: {len(text.encode()) / 2**20:.2g} MiB")
        return DONE
    try:
        server = _Server((_LOCAL[1], options.port), _handler(options))
    except OSError as error:
        told = f"expected one that is free, got {options.port}: {error.strerror}"
        raise OSError(f"--port: {told}") from error
    with server:
        address = f"http://{_LOCAL[1]}:{server.server_port}/"
        say(f"{address} (Ctrl-C ends)")
        if not options.no_browser:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("")
    return DONE


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that has left."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(options: argparse.Namespace) -> type[BaseHTTPRequestHandler]:
    """Return what answers a browser."""
    from diffplan._cli._page import page

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # Another name for this machine is a page elsewhere that wants to read.
            host = self.headers.get("Host", "").lower().partition(":")[0]
            if host not in _LOCAL or self.path != "/":
                self.send_error(404)
                return
            kind = "text/html"
            try:
                text = page(options.run, options.videos)
            except (DiffplanError, OSError) as error:  # such as a run that is deleted
                kind, text = "text/plain", f"error: {error}"
            content = text.encode()
            self.send_response(200 if kind == "text/html" else 500)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of each request."""

    return Handler
