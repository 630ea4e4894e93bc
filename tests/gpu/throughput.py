"""Text in, scores out, a second: ours beside a plain transformers loop that pads, batches and takes whole logits.

Prints a table; `--megabytes` sets how much text each measurement reads. The loop does not cut windows: its documents
are cut to 1,000 tokens beforehand, for both.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from scorer.reference import load
from scorer.scorer import score
from tests.gpu.references import make_reference, sources

BLOCK = 1024  # documents
ROWS = 16  # of the plain loop's batches


def documents(megabytes: float) -> list[str]:
    """Sources cut into documents of 2,500 characters, again from the start if there are too few."""
    wanted = int(megabytes * 1e6 / 2500)
    cut = [text[i : i + 2500] for text in sources(50_000_000) for i in range(0, len(text), 2500)]
    return (cut * (wanted // len(cut) + 1))[:wanted]


def ours(folder: Path, texts: list[str]) -> tuple[float, int]:
    """Seconds and tokens of our loop, bfloat16 on a GPU."""
    reference = load(folder, "cuda" if torch.cuda.is_available() else "cpu")
    blocks = [texts[i : i + BLOCK] for i in range(0, len(texts), BLOCK)]
    for _ in score(reference, blocks[:1], on_progress=lambda *_: None):  # warms up
        pass
    start = time.monotonic()
    tokens = sum(int(n.sum()) for _, n in score(reference, blocks, on_progress=lambda *_: None))
    return time.monotonic() - start, tokens


@torch.inference_mode()
def plain(folder: Path, texts: list[str]) -> tuple[float, int]:
    """Seconds and tokens of what one would write in ten lines."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()

    def run(chosen: list[str]) -> int:
        tokens = 0
        for i in range(0, len(chosen), ROWS):
            batch = [tokenizer.bos_token + text for text in chosen[i : i + ROWS]]
            x = tokenizer(batch, return_tensors="pt", padding=True, truncation=True, max_length=1024).to(device)
            logits = model(**x, use_cache=False).logits[:, :-1]
            nll = F.cross_entropy(logits.float().transpose(1, 2), x.input_ids[:, 1:], reduction="none")
            mask = x.attention_mask[:, 1:]
            (nll * mask).sum(1).cpu()
            tokens += int(mask.sum())
        return tokens

    run(texts[:ROWS])
    start = time.monotonic()
    tokens = run(texts)
    return time.monotonic() - start, tokens


def say(line: str) -> None:
    """A line of the table, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measures each preset both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=20.0)
    parser.add_argument("--presets", nargs="*", default=["tiny", "mamba2-130m", "gpt2-124m"])
    given = parser.parse_args()
    texts = documents(given.megabytes)
    say(f"device: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu'}; torch {torch.__version__}")
    say(f"{'reference':14} {'loop':6} {'tokens/s':>12} {'MB/s':>8} {'peak GiB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for preset in given.presets:
            made = make_reference(preset, Path(folder) / preset, Path(folder) / "tokenizer.json")
            for loop in (ours, plain):
                # transformers' own Mamba-2 takes minutes without its kernels: a little text says enough.
                chosen = texts if loop is ours or "gpt2" in preset else texts[: max(ROWS, len(texts) // 100)]
                if torch.cuda.is_available():
                    torch.cuda.reset_peak_memory_stats()
                seconds, tokens = loop(made, chosen)
                peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else float("nan")
                size = sum(map(len, chosen)) / 1e6
                say(f"{preset:14} {loop.__name__:6} {tokens / seconds:12,.0f} {size / seconds:8.2f} {peak:9.2f}")


if __name__ == "__main__":
    main()
