"""`make demo`: the service up on its own Redis, a real corpus pruned over HTTP, the result shown, everything stopped.

Everything it does is a command that a user may type; they are printed as they run. Files are left in .demo/.
"""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from demo_corpus import write

FOLDER = Path(".demo")
WINNOW = str(Path(sys.executable).with_name("winnow"))
SHOWN = 3  # documents at each end of a manifest


def say(text: str = "") -> None:
    """Prints a line at once."""
    print(text, flush=True)


def winnow(*arguments: str, keep: bool = False) -> str:
    """Runs a command of the demo; its output, if that is kept for the next command."""
    say(f"\n$ winnow {' '.join(arguments)}")
    ran = subprocess.run([WINNOW, *arguments], check=True, text=True, stdout=subprocess.PIPE if keep else None)
    return (ran.stdout or "").strip()


@contextlib.contextmanager
def service() -> Iterator[str]:
    """The service with one CPU worker; gives its address, and stops it in the end."""
    command = ["serve", "--workspace", str(FOLDER / "workspace"), "--port", "0", "--workers", "1", "--device", "cpu"]
    say(f"\n$ winnow {' '.join(command)} &")
    process = subprocess.Popen([WINNOW, *command], text=True, stdout=subprocess.PIPE)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if " at " not in line:
            sys.exit("the service did not start")
        say(line.strip())
        yield line.split(" at ")[1].strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        say(f"\nThe service has stopped (status {process.returncode}).")


def show_ends(manifest: Path) -> None:
    """The documents of a manifest with the lowest and the highest perplexity."""
    table = pq.read_table(manifest).sort_by("perplexity")
    say(f"\n{manifest}: {len(table):,} documents, from the most to the least predictable:")
    for row in [*table.slice(0, SHOWN).to_pylist(), *table.slice(max(0, len(table) - SHOWN)).to_pylist()]:
        say(f"  {row['perplexity']:10.1f}  {row['n_tokens']:6,} tokens  {row['id'][:90]}")


def main() -> None:
    """Runs the demo."""
    started = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    corpus = FOLDER / "corpus"
    say("Gathering the texts of the installed Python and its packages …")
    say(f"{write(corpus):,} documents: {', '.join(str(path) for path in sorted(corpus.iterdir()))}")
    with service() as address:
        server = ("--server", address)
        fields = ("--id-field", "id", "--domain-field", "domain")
        sweep = ("--select", "low", "--select", "medium", "--select", "high", "--rate", "0.5")
        training = ("--tokens", "800_000")
        job = winnow("submit", str(corpus), *fields, *training, *sweep, *server, keep=True)
        say(job)
        winnow("watch", job, *server)
        winnow("download", job, "--out", str(FOLDER / "result"), *server)
        for criterion in ("low", "high"):
            show_ends(FOLDER / "result" / f"manifest-{criterion}-0.5.parquet")
    say(f"Done in {time.monotonic() - started:.0f} s.")


if __name__ == "__main__":
    main()
