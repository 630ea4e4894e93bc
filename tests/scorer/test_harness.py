"""Scores beside those of lm-evaluation-harness, computed by the harness itself: where they agree, and where they part.

The harness reads one prefix token before a document, Winnow a BOS before each window of it; the harness fills a
document's last window with what comes before, Winnow does not; a window of the harness predicts as many tokens as the
context has, one of Winnow one fewer. Each test says which of these it makes coincide, and how. A BOS that a tokenizer
adds by itself is text to predict in the harness unless it is told not to have it: here it is told so.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as tf
from tokenizers import processors

from scorer.causal_lm.mamba2_config import Mamba2Config
from scorer.causal_lm.reference import Reference, load
from scorer.causal_lm.transformer import Transformer
from scorer.engine.scoring import score
from tests.scorer import mamba2_folders
from tests.scorer.model_folders import END, GPT2, GROUPED, PROSE, ROWS, SHAPE, add_tokenizer, byte_level, make_folder

pytest.importorskip("lm_eval", reason="lm_eval is not installed: make test-peers installs it and runs this")

CONFIGS = {"gpt2": tf.GPT2Config(**GPT2), "gpt_neox": tf.GPTNeoXConfig(**SHAPE), "llama": tf.LlamaConfig(**GROUPED)}
MAMBA2 = Mamba2Config(vocab_size=ROWS, hidden=32, layers=2, heads=4, head_dim=16, state=8, groups=2)
SHORT = ["x", PROSE[:40], "é漢字🙂", "    \n  ", "no"]
SIZE = 23  # targets of a window of a context of 24
MakeFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """Model folders of these kinds, whose tokenizers have a BOS or no special token at all."""
    made: dict[tuple[str, bool], Path] = {}

    def make(kind: str, bos: bool = True) -> Path:
        if (kind, bos) not in made:
            folder = made[kind, bos] = tmp_path_factory.mktemp(kind)
            if kind == "mamba2":
                mamba2_folders.hugging_face(folder, MAMBA2)
            else:
                make_folder(folder, CONFIGS[kind])
                (folder / "tokenizer_config.json").unlink()
            add_tokenizer(folder, **({"bos_token": END} if bos else {}))
            if kind == "llama" and bos:  # one that adds it by itself, as Llama's do
                tokenizer = byte_level()
                tokenizer.post_processor = processors.TemplateProcessing(f"{END} $A", special_tokens=[(END, 0)])
                tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END).save_pretrained(folder)
        return made[kind, bos]

    return make


def harness(folder: Path, **settings: Any) -> Any:
    """The harness' own model of a folder, as `lm_eval --model hf` makes it."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(str(folder), device="cpu", dtype="float32", batch_size=4, add_bos_token=False, **settings)


def rolling(lm: Any, texts: list[str]) -> list[float]:
    """The NLL of whole documents, as its perplexity tasks take it."""
    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    return [-total for total in lm.loglikelihood_rolling(requests)]


def winnow(reference: Reference, texts: list[str], stride: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    ((_, nll, n_tokens, *_),) = score(reference, [(texts, None)], on_progress=lambda *_: None, stride=stride)
    return nll, n_tokens


def digits(count: int) -> str:
    """A text of so many tokens: the tokenizer joins no digits."""
    return "".join(map(str, np.random.default_rng(count).integers(10, size=count)))


def packed(reference: Reference) -> Reference:
    """The same that reads documents in packs, as on a GPU."""
    assert isinstance(reference.model, Transformer)
    model = Transformer(reference.model.model, packs=True)
    assert model.packed
    return dataclasses.replace(reference, model=model)


@pytest.mark.parametrize("kind", [*CONFIGS, "mamba2"])
def test_a_document_of_one_window_has_the_harness_score(folder_of: MakeFolder, kind: str) -> None:
    """Nothing has to be made to coincide; to Mamba-2 documents of any length are of one window."""
    folder = folder_of(kind)
    texts = SHORT + [PROSE * n for n in (2, 9)] if kind == "mamba2" else SHORT
    nll, n_tokens = winnow(load(folder), texts)
    lm = harness(folder)
    assert n_tokens.tolist() == [len(lm.tok_encode(text)) for text in texts]
    assert kind == "mamba2" or n_tokens.max() <= SIZE
    assert nll / n_tokens == pytest.approx(np.array(rolling(lm, texts)) / n_tokens, abs=1e-5)


def test_special_token_text_is_a_token_to_the_harness_alone(folder_of: MakeFolder) -> None:
    folder, text = folder_of("gpt2"), f"a {END} b"
    _, (n_tokens,) = winnow(load(folder), [text])
    assert n_tokens > len(harness(folder).tok_encode(text))


@pytest.mark.parametrize("kind", [*CONFIGS, "packs"])
def test_a_window_has_the_score_of_a_document_of_its_own(folder_of: MakeFolder, kind: str) -> None:
    """In the harness' terms: what a BOS before each window means. The whole document scores otherwise there."""
    folder = folder_of("gpt2" if kind == "packs" else kind)
    reference = packed(load(folder)) if kind == "packs" else load(folder)
    text = digits(5 * SIZE + 7)
    (nll,), (n_tokens,) = winnow(reference, [text])
    lm = harness(folder)
    windows = rolling(lm, [text[start : start + SIZE] for start in range(0, len(text), SIZE)])
    assert n_tokens == len(text)
    assert nll / n_tokens == pytest.approx(sum(windows) / n_tokens, abs=1e-5)
    assert abs(nll - rolling(lm, [text])[0]) / n_tokens > 1e-3


@pytest.mark.parametrize(("targets", "stride"), [(SIZE, None), (8 * SIZE, None), (SIZE + 8, 8), (2 * SIZE - 1, 22)])
@pytest.mark.parametrize("kind", [*CONFIGS, "packs"])
def test_a_long_document_has_the_harness_score_where_settings_coincide(
    folder_of: MakeFolder, kind: str, targets: int, stride: int | None
) -> None:
    """A model without BOS reads the prefix, here a line's end, as text; the harness is told Winnow's size of window.

    The last window is full, or is the second: then it begins a stride after the first one, as it does in the harness.
    """
    folder = folder_of("gpt2" if kind == "packs" else kind, bos=False)
    reference = packed(load(folder)) if kind == "packs" else load(folder)
    (prefix,) = reference.tokenizer.encode(["\n"])[0].tolist()
    text = digits(targets)
    (nll,), (n_tokens,) = winnow(reference, ["\n" + text], stride)
    (wanted,) = rolling(harness(folder, max_length=SIZE, prefix_token_id=prefix), [text])
    assert n_tokens == targets
    assert nll / n_tokens == pytest.approx(wanted / n_tokens, abs=1e-5)


@pytest.mark.parametrize("more", [0, 5])
@pytest.mark.parametrize("overlap", [0, 1, 7, 22])
def test_overlapping_windows_are_the_harness_own_but_for_the_last(
    folder_of: MakeFolder, overlap: int, more: int
) -> None:
    """Its tasks overlap none, but its windows can: again without BOS, and with what fills the last one taken away."""
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    folder, stride = folder_of("gpt2", bos=False), SIZE - overlap
    reference = load(folder)
    text = digits(1 + SIZE + 3 * stride + more)
    prefix, *ids = reference.tokenizer.encode([text])[0].tolist()
    windows = [make_disjoint_window(pair) for pair in get_rolling_token_windows(ids, prefix, SIZE, overlap + 1)]
    cut = [(context[-overlap - 1 :], predicted) for context, predicted in windows]
    assert cut[:-1] == windows[:-1]
    assert (cut[-1] == windows[-1]) == (more % stride == 0)
    lm = harness(folder, max_length=SIZE, prefix_token_id=prefix)
    found = lm._loglikelihood_tokens([(("", ""), *window) for window in cut], disable_tqdm=True)
    (nll,), (n_tokens,) = winnow(reference, [text], stride)
    assert n_tokens == len(ids)
    assert nll / n_tokens == pytest.approx(-sum(total for total, _ in found) / n_tokens, abs=1e-5)
