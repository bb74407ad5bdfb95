"""Show an exported web page on this machine, with the headers that browsers want for several threads.

fastvit serve exports/quickstart.web
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="what fastvit export --format web wrote")
    parser.add_argument("--port", type=int, default=8000, help="8000; 0 for any free one")


def run(arguments: argparse.Namespace) -> None:
    from fastvit.deploy.web_server import make_server

    with make_server(arguments.folder, arguments.port) as server:
        print(f"http://localhost:{server.server_port}  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
