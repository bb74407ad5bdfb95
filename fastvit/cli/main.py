"""Find the subcommand, parse its arguments, run it.

A subcommand is a module of this folder with a docstring, which is its help; `add_arguments(parser)`; and
`run(arguments)`. What needs torch is imported within `run`, so that help comes at once. One that never needs it sets
the default `light`.
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from fastvit.errors import exit_on_user_error, nearest

COMMANDS = {
    "train": "train by a recipe; go on with a run",
    "teach": "write the answers of a teacher, for students to train from",
    "evaluate": "measure a trained network, as trained and fused",
    "predict": "what is in images",
    "embed": "write the features of images",
    "probe": "how good features are: neighbours, a linear classifier",
    "zeroshot": "classify by the names of classes, with a text tower",
    "export": "write ONNX, Core ML, OpenVINO, ExecuTorch, ...",
    "push": "upload to the Hugging Face hub",
    "serve": "show an exported web page on this machine",
    "quantize": "write int8, and show it beside float32",
    "benchmark": "measure how fast networks are",
    "memory": "how much memory training takes",
    "recipes": "list the recipes of the package; copy one to edit it",
    "env": "versions, hardware and installed extras, for a bug report",
}


EXAMPLE = "fastvit train quickstart/digits    # a first run, on handwritten digits that come with scikit-learn"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line, `sys.argv` by default."""
    print_any_name()
    with ends_quietly():
        run(parse(sys.argv[1:] if argv is None else argv))


def print_any_name() -> None:
    """Names of files may be no text, or have letters that the terminal lacks: these are escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # in a notebook it is none
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def ends_quietly() -> Iterator[None]:
    """No traceback, and a shell's status, after Ctrl-C, and where a reader such as `head` has heard enough.

    Asked to end (SIGTERM), the command removes its unfinished files first, unless it has a way of its own to stop.
    """
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
        sys.stdout.flush()  # else it fails when Python ends
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # 128 and the number of SIGPIPE
    except KeyboardInterrupt:
        sys.exit(130)  # 128 and the number of SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a subcommand, whose name is in `command`. Prints help or a mistake, and exits, on its own."""
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(overview())
        sys.exit(0)
    if name not in COMMANDS:
        print(f"fastvit has no command {name!r}{nearest(name, COMMANDS)}\n\n{overview()}", file=sys.stderr)
        sys.exit(2)
    module = import_module(f"fastvit.cli.{name}")
    parser = argparse.ArgumentParser(
        f"fastvit {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(command=name, light=False)
    module.add_arguments(parser)
    return parser.parse_intermixed_args(argv[1:])


def run(arguments: argparse.Namespace) -> None:
    """Do what the arguments say. An error of the user's is one sentence, and status 2."""
    with exit_on_user_error():
        import_module(f"fastvit.cli.{arguments.command}").run(arguments)


def overview() -> str:
    """The help of `fastvit` itself."""
    lines = [f"  fastvit {name:<11} {summary}" for name, summary in COMMANDS.items()]
    first, last = "FastViT: train, evaluate, export.", "fastvit COMMAND --help explains each, with examples."
    return "\n".join([first, "", EXAMPLE, "", *lines, "", last])
