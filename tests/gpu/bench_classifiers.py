"""Documents that a classifier rates a second: ours beside the loop of FineWeb-Edu's published inference, in one run.

A BERT-base with one output, random weights, and a WordPiece tokenizer of 30,522 tokens learned from the text. That loop
reads batches of 512 texts in their order, padded to the longest, cut at 512 tokens, in bfloat16. `--corpus` and
`--megabytes` as in throughput.py; the text is cut into documents of web-like lengths.
"""
# ruff: noqa: E402  (tune_process comes before torch)

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from scorer.process import tune_process

tune_process()  # before torch is imported, as a worker does

# isort: split
import numpy as np
import torch
import transformers as tf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from scorer.classifier.classifier import Classifier, load
from scorer.classifier.scoring import classify
from tests.gpu.throughput import DEVICE, LENGTHS, Blocks, Measured, busy, corpus, recut, row, say, some, timed

VOCABULARY, LONGEST, ROWS = 30_522, 512, 512
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def make_classifier(folder: Path, texts: list[str]) -> None:
    """A folder of FineWeb-Edu's shape."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = list(SPECIAL.values())
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LONGEST, **SPECIAL).save_pretrained(folder)
    torch.manual_seed(0)
    config = tf.BertConfig(vocab_size=VOCABULARY, num_labels=1, pad_token_id=0)
    tf.BertForSequenceClassification(config).save_pretrained(folder)


def ours(classifier: Classifier, blocks: Iterable[list[str]], windows: str) -> tuple[np.ndarray, int, int]:
    """The values of all documents, with the numbers of documents and of tokens."""
    run = classify(classifier, ((texts, None) for texts in blocks), windows=windows)  # type: ignore[arg-type]
    found = [values for _, values in run]
    return np.concatenate(found), run.documents, run.tokens


def published(folder: Path, texts: list[str]) -> Measured:
    """The loop of FineWeb-Edu's card, in bfloat16, reading and writing left out."""
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    model = tf.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).to(DEVICE).eval()

    @torch.no_grad()
    def work(texts: list[str] = texts) -> tuple[int, str]:
        tokens, rated = 0, list[float]()
        for at in range(0, len(texts), ROWS):
            given = tokenizer(texts[at : at + ROWS], return_tensors="pt", padding="longest", truncation=True).to(DEVICE)
            rated += model(**given).logits.squeeze(-1).float().cpu().tolist()
            tokens += int(given.attention_mask.sum())
        return tokens, f"{len(rated):,} documents, batches of {ROWS}, padded"

    work(texts[:ROWS])
    return timed(work)


def measure(folder: Path, blocks: Blocks, windows: str) -> Measured:
    """Ours, text in and values out."""
    classifier = load(folder, DEVICE, "auto")
    say(f"packed: {classifier.model.packed}; {classifier.dtype}, {classifier.budget:,} positions a batch")
    ours(classifier, [some(blocks, 1)], windows)  # warms up

    def work() -> tuple[int, str]:
        _, documents, tokens = ours(classifier, blocks(), windows)
        return tokens, f"{documents:,} documents, windows: {windows}"

    found = timed(work)
    row("bert-base", "ours", found)
    if DEVICE == "cuda":
        share = busy(lambda texts: ours(classifier, texts, windows), some(blocks, 10))
        say(f"bert-base           the GPU computes {share:.1%} of the time")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs="*", default=[], metavar="PATH")
    parser.add_argument("--megabytes", type=float, default=60.0)
    given = parser.parse_args()
    blocks = recut(corpus(given.corpus, "text", given.megabytes), LENGTHS["web"], given.megabytes)
    say(f"{torch.cuda.get_device_name() if DEVICE == 'cuda' else 'CPU'}; torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_classifier(folder, some(blocks, 8))
        first = measure(folder, blocks, "first")
        texts = [text for block in blocks() for text in block]
        peer = published(folder, texts)
        row("bert-base", "plain", peer)
        say(f"bert-base           ours is {peer.seconds / first.seconds:.2f} times that, by documents")
        measure(folder, blocks, "all")


if __name__ == "__main__":
    main()
