"""Show a report in a browser: `python -m chexseg_jax.report RUN` serves its `report.html` to this machine alone.

The page is one file, so a browser also opens it directly; a server shows it from a machine that one has logged in to.
"""

from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from chexseg_jax.errors import InputError, Parser, run_command


class _Handler(BaseHTTPRequestHandler):
    page: Path

    def do_GET(self) -> None:
        """Send the page as it is now; nothing else of its folder can be had."""
        if self.path != "/":
            self.send_error(404)
            return
        content = self.page.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing of requests."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    parser = Parser(prog="chexseg view", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run or table, or an HTML file")
    parser.add_argument(
        "--port", type=int, default=8000, help="on 127.0.0.1 (default %(default)s; 0: any free one)"
    )
    flags = parser.parse_args(arguments)
    page = flags.run / "report.html" if flags.run.is_dir() else flags.run
    if page.suffix != ".html" or not page.is_file():
        raise InputError(f"{page}: not a report; give a run's folder, such as work/runs/NAME")
    handler = type("Handler", (_Handler,), {"page": page})
    try:
        server = ThreadingHTTPServer(("127.0.0.1", flags.port), handler)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--port {flags.port}: {getattr(error, 'strerror', None) or error}; give another"
        ) from error
    port = server.server_address[1]
    print(f"http://127.0.0.1:{port}/ shows {page} until Ctrl-C", flush=True)
    print(
        f"from another machine: ssh -L {port}:127.0.0.1:{port} HOST, then the same address there", flush=True
    )
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    run_command(main)
