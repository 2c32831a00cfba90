"""Run every benchmark and print one table: `python -m benchmarks [--quick] [NAME...]`."""

from __future__ import annotations

import argparse
import importlib
import sys

from benchmarks.harness import show

NAMES = (
    "cli",
    "store",
    "tether",
    "sandboxes",
    "daemon",
    "broker",
    "drivers",
    "streaming",
    "programs",
    "mail",
    "gate",
    "audit",
    "egress",
    "mcp",
    "tools",
    "spawning",
    "budgets",
)


def main() -> int:
    """Run the named benchmarks, all by default."""
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that everything runs, not how fast it is")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"among {', '.join(NAMES)}")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    rows = []
    for name in options.names or NAMES:
        print(f"# {name}", file=sys.stderr, flush=True)
        rows += importlib.import_module(f"benchmarks.{name}").main(options.quick)
    print(show(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
