"""The command line: ``python -m lstm_rs``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import lstm_rs
from lstm_rs import bench


def at_least(low: int) -> Callable[[str], int]:
    """Make an argparse type: an integer that is `low` or more."""

    def integer(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"expected {low} or more, got {value}")
        return value

    return integer


def shapes(text: str) -> tuple[bench.Shape, ...]:
    """Read four sizes, ``T,N,I,H``, or the name of a set of shapes."""
    if text in bench.SETS:
        return bench.SETS[text]
    sizes = text.split(",")
    if len(sizes) != 4:
        raise argparse.ArgumentTypeError(f"expected four sizes T,N,I,H, or one of {', '.join(bench.SETS)}; got {text}")
    steps, batch, input_size, hidden_size = map(at_least(1), sizes)
    return ((steps, batch, input_size, hidden_size),)


def make_parser() -> argparse.ArgumentParser:
    """Describe the commands and their options."""
    parser = argparse.ArgumentParser(prog="python -m lstm_rs", description=f"lstm_rs {lstm_rs.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")

    what = "train an LSTM on 220 years of sunspots, forecast 89 more, and draw what its gates do"
    demo = commands.add_parser("demo", help=what, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    demo.add_argument("--seed", type=at_least(0), default=0, help="of the weights and of the training order")
    demo.add_argument("--units", type=at_least(1), default=32, help="hidden units")
    demo.add_argument("--epochs", type=at_least(1), default=8, help="times that training sees every window")
    demo.add_argument("--out", default="sunspots.png", metavar="FILE", help="where the picture goes")
    demo.add_argument("--no-plot", action="store_true", help="no picture")

    what = "time passes beside the other libraries that are installed, and the machine's own limits"
    timed = commands.add_parser("bench", help=what, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    timed.add_argument(
        "shapes",
        nargs="*",
        type=shapes,
        metavar="T,N,I,H",
        help=f"shapes, or a set of them: {', '.join(bench.SETS)}; the first set if none",
    )
    timed.add_argument("--mode", nargs="+", choices=bench.MODES, default=bench.MODES[:2], help="what to time")
    timed.add_argument("--threads", type=at_least(1), default=1, help="of every library")
    timed.add_argument("--isa", choices=lstm_rs.available_isas(), help="our instruction set; the best if not given")
    timed.add_argument("--peers", nargs="*", metavar="NAME", help="whom to time beside; all if not given")
    timed.add_argument("--seconds", type=float, default=2.0, help="for each shape and mode")
    timed.add_argument("--json", metavar="FILE", help="where all figures go")
    timed.add_argument("--plot", metavar="FILE", help="where a picture of them goes")

    what = "show the version, the CPU, its instruction sets and the threads in use"
    commands.add_parser("info", help=what)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give the exit code; without a command, say what there is."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.command == "demo":
        from lstm_rs import demo

        out = None if args.no_plot else args.out
        return demo.run(seed=args.seed, units=args.units, epochs=args.epochs, out=out)
    if args.command == "bench":
        code = bench.launch(sys.argv[1:] if argv is None else argv, args.threads, args.isa)
        if code is not None:
            return code
        return bench.run(
            [shape for given in args.shapes for shape in given] or bench.SHAPES,
            args.seconds,
            modes=args.mode,
            threads=args.threads,
            names=args.peers,
            out=args.json,
            plot=args.plot,
        )
    if args.command == "info":
        lstm_rs.show_config()
    else:
        parser.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
