"""Search for inputs that break a promise: `python tests/fuzz/fuzz.py [--seconds N] [NAME …]`.

Runs the harnesses one after the other under the coverage-guided fuzzer atheris, which is no dependency of the tests:
`pip install atheris`. Found inputs are written to `--into`. With `--keep`, some inputs that reached new code go into
the corpus, which ordinary tests replay.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / 'corpus'
LONGEST_INPUT = 4096  # bytes
HANGS_S = 20  # by the clock: a niced process on a busy machine may stand still for some of them
MOST_MB = 2048
MOST_KEPT, MOST_KEPT_BYTES = 50, 15_000  # of each harness


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description='Fuzz the parts that read what others send.')
    parser.add_argument('names', nargs='*', metavar='NAME', help='harnesses (default: all)')
    parser.add_argument('--seconds', type=int, default=60, help='how long each runs (default: 60)')
    parser.add_argument('--into', type=Path, help='where inputs are collected (default: a directory that is removed)')
    parser.add_argument(
        '--keep', action='store_true', help='add some of the inputs that reached something new to the corpus'
    )
    parser.add_argument('--one', help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args(argv)
    if options.one:
        return _fuzz(options.one, [*rest, *options.names])
    with tempfile.TemporaryDirectory(prefix='nipap-fuzz-') as scratch:
        into = options.into or Path(scratch)
        failed = [name for name in options.names or _names() if _run(name, options.seconds, into, keep=options.keep)]
    print(f'found something: {", ".join(failed)}' if failed else 'found nothing')
    return 1 if failed else 0


def _names() -> list[str]:
    sys.path[:0] = [str(HERE.parent.parent), str(HERE)]
    from harnesses import HARNESSES

    return list(HARNESSES)


def _run(name: str, seconds: int, into: Path, *, keep: bool) -> int:
    """Run one harness in a process of its own, which the fuzzer ends. Return its exit code."""
    print(f'== {name}', flush=True)
    collected, known = (into / name).resolve(), CORPUS / name
    collected.mkdir(parents=True, exist_ok=True)
    known.mkdir(parents=True, exist_ok=True)
    limits = [f'-max_len={LONGEST_INPUT}', f'-timeout={HANGS_S}', f'-rss_limit_mb={MOST_MB}', '-print_final_stats=1']
    command = [sys.executable, __file__, '--one', name, *limits]
    found = subprocess.run([*command, f'-max_total_time={seconds}', f'-artifact_prefix={into}/', collected, known])
    if keep and found.returncode == 0:
        _keep(collected, known)
    return found.returncode


def _keep(collected: Path, known: Path) -> None:
    """Add inputs to the corpus, evenly over their sizes, as long as there is room."""
    there = {path.name for path in known.iterdir()}
    new = sorted((path for path in collected.iterdir() if path.name not in there), key=lambda path: path.stat().st_size)
    room = MOST_KEPT - len(there)
    size = sum(path.stat().st_size for path in known.iterdir())
    for path in new[:: max(1, len(new) // max(1, room))][: max(0, room)]:
        size += path.stat().st_size
        if size > MOST_KEPT_BYTES:
            break
        (known / path.name).write_bytes(path.read_bytes())


def _fuzz(name: str, arguments: Sequence[str]) -> int:
    import atheris

    sys.path[:0] = [str(HERE.parent.parent), str(HERE)]
    with atheris.instrument_imports(include=['nipap', 'nipapd', 'IPy', 'parsedatetime']):
        import harnesses
    os.nice(10)
    with tempfile.NamedTemporaryFile('w', prefix='nipap-fuzz-') as words:
        words.writelines(f'"{_escaped(word)}"\n' for word in harnesses.WORDS.get(name, ('10.0.0.0/8',)) if word)
        words.flush()
        atheris.Setup([sys.argv[0], f'-dict={words.name}', *arguments], harnesses.HARNESSES[name])
        atheris.Fuzz()
    return 0


def _escaped(word: str) -> str:
    return ''.join(f'\\x{byte:02x}' for byte in word.encode())


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
