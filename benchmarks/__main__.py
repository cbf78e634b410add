"""``python -m benchmarks COMMAND …``: the commands that span the benchmarks."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

#: Per command: the module whose ``main(arguments)`` runs it, and what it does.
COMMANDS = {
    "all": ("benchmarks.run_all", "every benchmark, one after the other"),
    "compare": ("benchmarks.compare", "what got slower between two runs"),
    "report": ("benchmarks.html_report", "one HTML page of result files, and its charts as PNG"),
    "summary": ("benchmarks.summary", "ours, each peer and the floor, of result files"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that ``arguments`` (by default the process's) begin with; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:<10}{help}" for name, (_, help) in COMMANDS.items()),
    )
    parser.add_argument("command", choices=COMMANDS, help="see below; COMMAND --help tells its options")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="…", help="the command's own arguments")
    given = parser.parse_args(arguments)
    return importlib.import_module(COMMANDS[given.command][0]).main(given.rest)


if __name__ == "__main__":
    sys.exit(main())
