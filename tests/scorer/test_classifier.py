"""Classifiers: the values of transformers' own classes, over rows and packs, and folders that are none."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from kernels.pack import Pack
from scorer.classifier import windows
from scorer.classifier.classifier import Classifier, inspect, load
from scorer.classifier.forward import ClassifierModel
from scorer.classifier.scoring import classify
from scorer.classifier.windows import WindowTokenizer
from scorer.errors import BadReference
from scorer.tokenizer.backends import Encoded
from tests.scorer.classifier_folders import CHANGED_BY_PADDING, CONFIGS, CONTEXT, make_classifier, own_values
from tests.scorer.model_folders import PROSE, change_json, wrong

TEXTS = [PROSE, "x", PROSE * 9, "the [SEP] of", "é漢字🙂 \0 nul", "a b", PROSE[7:60], "12 " * 40, "  \n "]


def values(classifier: Classifier, texts: list[str], size: int = 4, **options: str) -> np.ndarray:
    blocks = [(texts[start : start + size], start) for start in range(0, len(texts), size)]
    found = list(classify(classifier, blocks, **options))  # type: ignore[arg-type]
    assert [tag for tag, _ in found] == [tag for _, tag in blocks]
    return np.concatenate([part for _, part in found])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bert")
    make_classifier(made)
    return made


@pytest.mark.parametrize("kind", CONFIGS)
def test_values_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    make_classifier(tmp_path, kind)
    expected = own_values(tmp_path, TEXTS)
    classifier = load(tmp_path)
    found = values(classifier, TEXTS)
    assert found.dtype == np.float32
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=0)
    packs = ClassifierModel(classifier.model.model, classifier.tokenizer.pad, packs=True)
    assert packs.packed == (kind != "deberta-v2")
    classifier.model = packs
    np.testing.assert_allclose(values(classifier, TEXTS), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("kind", CHANGED_BY_PADDING)
def test_a_model_that_padding_changes_reads_one_document_at_a_time(tmp_path: Path, kind: str) -> None:
    make_classifier(tmp_path, kind)
    np.testing.assert_allclose(values(load(tmp_path), TEXTS), own_values(tmp_path, TEXTS), atol=2e-4, rtol=0)


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_packs_are_filled_up_for_a_compiled_body(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_classifier(tmp_path, kind)
    classifier = load(tmp_path)
    expected = values(classifier, TEXTS)
    packs = ClassifierModel(classifier.model.model, classifier.tokenizer.pad, packs=True)
    sizes: list[int] = []

    def compiled(body: Any, dynamic: bool) -> Any:
        assert dynamic is False
        return lambda module, ids, places: sizes.append(ids.shape[1]) or body(module, ids, places)

    monkeypatch.setattr(torch, "compile", compiled)  # which compiler makes it is torch's
    packs.compile(40)
    assert packs.compiled is not None
    assert packs.compiled.tokens == 40
    classifier.model, classifier.budget = packs, 40
    np.testing.assert_allclose(values(classifier, TEXTS), expected, atol=2e-4, rtol=0)
    assert len(sizes) > 1  # of the trial, and of full packs
    assert set(sizes) == {40}
    monkeypatch.setattr(
        torch, "compile", lambda body, dynamic: lambda module, ids, places: body(module, ids.roll(1), places)
    )
    packs.compile(40)
    assert packs.compiled is None  # its hidden states are not those of the model


@pytest.mark.parametrize("kind", ["bert", "modernbert", "modernbert-mean", "xlm-roberta"])
def test_a_document_in_a_pack_is_as_alone(kind: str) -> None:
    torch.manual_seed(1)
    model = tf.AutoModelForSequenceClassification.from_config(CONFIGS[kind]()).eval()
    packs = ClassifierModel(model, 0, packs=True)
    ids = torch.randint(3, 300, (45,))
    together = packs.values(ids, Pack.of([5, 1, CONTEXT, 15], "cpu"))
    alone = [packs.values(part, Pack.of([len(part)], "cpu")) for part in ids.split([5, 1, CONTEXT, 15])]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0)


def test_values_depend_on_no_blocks_and_little_on_the_budget(folder: Path) -> None:
    classifier = load(folder)
    texts = [PROSE[n % 50 :] * (n % 5) + "x" for n in range(120)]
    classifier.budget = 64
    first = values(classifier, texts, 120)
    assert values(classifier, texts, 7).tobytes() == values(classifier, texts, 1).tobytes() == first.tobytes()
    classifier.budget = 1 << 16
    np.testing.assert_allclose(values(classifier, texts), first, atol=1e-5)


def test_all_windows_of_a_document_give_their_mean_or_the_largest(folder: Path) -> None:
    classifier = load(folder)
    words = PROSE.split()
    text = " ".join(words * 5)
    ids = tf.AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
    model = tf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    windows = [[1, *ids[start : start + CONTEXT - 2], 2] for start in range(0, len(ids), CONTEXT - 2)]
    assert len(windows) > 3
    with torch.no_grad():
        outputs = [model(input_ids=torch.tensor([window])).logits.item() for window in windows]
    for aggregate, expected in (("mean", np.mean(outputs)), ("max", np.max(outputs))):
        found = values(classifier, [text, words[0]], windows="all", aggregate=aggregate)
        assert found[0] == pytest.approx(expected, abs=2e-4)
        assert found[1] == pytest.approx(own_values(folder, [words[0]])[0], abs=2e-4)


def test_long_texts_are_tokenized_as_whole_ones(folder: Path) -> None:
    """With and without white space near the place where a text is cut before it is tokenized."""
    texts = [PROSE * 200, "a" * 5000 + " b", "ab " * 4000, "1" * 530 + " " + "x" * 5000, " " * 9000 + "end"]
    own = tf.AutoTokenizer.from_pretrained(folder)
    found = WindowTokenizer(folder, CONTEXT).encode(texts, all_windows=False)
    assert [ids.tolist() for ids in found.ids] == own(texts, truncation=True)["input_ids"]


def windows_of(folder: Path, texts: list[str], size: int) -> list[list[list[int]]]:
    """The windows of each text, from the ids of the whole text by transformers, between two special tokens."""
    ids = tf.AutoTokenizer.from_pretrained(folder)(texts, add_special_tokens=False, truncation=False)["input_ids"]
    return [[[1, *each[start : start + size], 2] for start in range(0, max(1, len(each)), size)] for each in ids]


@pytest.mark.parametrize("library", ["nanotoken", "tokenizers"])
def test_windows_are_those_of_transformers(folder: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if library == "tokenizers":
        monkeypatch.setattr(windows, "_nanotoken", lambda _: None)
    else:
        pytest.importorskip(library)
    tokenizer = WindowTokenizer(folder, CONTEXT)
    assert tokenizer.library.startswith(f"{library} ")
    texts = [*TEXTS, "", PROSE * 50, "a\x0bb\x1cc \u0300d\u00a0e\u3000f", "ẛ̣ ß İ ǅ " * 20, "[CLS]a[SEP]" * 30]
    expected = windows_of(folder, [*texts, "? a"], CONTEXT - 2)
    assert max(map(len, expected)) > 40
    texts.append("\ud800 a")
    found = tokenizer.encode(texts, all_windows=True)
    assert [ids.tolist() for ids in found.ids] == [window for each in expected for window in each]
    assert found.document.tolist() == [number for number, each in enumerate(expected) for _ in each]
    found = tokenizer.encode(texts, all_windows=False)
    assert [ids.tolist() for ids in found.ids] == [each[0] for each in expected]
    assert found.document.tolist() == list(range(len(texts)))


def test_a_fast_way_that_differs_or_fails_is_left_for_good(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def quick(texts: list[str]) -> Encoded:
        if "fail" in texts:
            raise ValueError("too deep")
        return Encoded.of(
            [[7] if text == "odd" else exact.encode(text, add_special_tokens=False).ids for text in texts]
        )

    monkeypatch.setattr(windows, "_nanotoken", lambda _: quick)
    for odd in ("odd", "fail"):
        tokenizer = WindowTokenizer(folder, CONTEXT)
        tokenizer.check([PROSE])
        assert tokenizer.library.startswith("nanotoken ")
        tokenizer.check([PROSE, odd])
        assert tokenizer.library.startswith("tokenizers ")
        assert [tokenizer.encode([odd], False).ids[0].tolist()] == windows_of(folder, [odd], CONTEXT - 2)[0]


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("side", ["right", "left"])
def test_tokens_that_depend_on_text_far_behind_them(tmp_path: Path, split: bool, side: str) -> None:
    """A special token that takes away the white space before it, and pieces that go over spaces."""
    pieces = ["<s>", "<unk>", "<mask>", "\n", "▁", "▁a", "a", "b", "▁b", "a▁b", "b▁a"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(len(piece) % 3)) for piece in pieces], unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True),
        model_max_length=7,
        truncation_side=side,
    ).save_pretrained(tmp_path)
    texts = [
        f"a{space * size}<mask> b{end}" for space in " \n" for size in (5, 546, 2000) for end in ("", " a b" * 300)
    ]
    texts += ["a b " * 400 + "x", " " * 554 + "a b" * 10, "ab" * 900]
    own = tf.AutoTokenizer.from_pretrained(tmp_path)
    found = WindowTokenizer(tmp_path, 10**9).encode(texts, all_windows=False)
    assert [ids.tolist() for ids in found.ids] == own(texts, truncation=True)["input_ids"]


def test_the_tokenizers_length_counts_where_it_is_smaller(tmp_path: Path) -> None:
    make_classifier(tmp_path, length=7)
    np.testing.assert_allclose(values(load(tmp_path), TEXTS), own_values(tmp_path, TEXTS), atol=2e-4, rtol=0)
    make_classifier(tmp_path, length=10**30)
    assert load(tmp_path).tokenizer.limit == CONTEXT
    for length in ("7", float("nan")):
        change_json(tmp_path / "tokenizer_config.json", model_max_length=length)
        with pytest.raises(BadReference, match=r"model_max_length in tokenizer_config\.json is .*; set it to a number"):
            load(tmp_path)


def test_what_reading_raises_is_raised_and_reading_ends(folder: Path) -> None:
    closed = []

    def texts() -> Iterator[tuple[list[str], None]]:
        try:
            yield ["a"], None
            raise OSError("gone")
        finally:
            closed.append(True)

    with pytest.raises(OSError, match="gone"):
        list(classify(load(folder), texts()))
    assert closed
    scoring = classify(load(folder), ((["a"], n) for n in range(10_000)))
    next(iter(scoring))
    scoring.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertForMaskedLM"]}, "is no sequence-classification model .*BertForMaskedLM"),
        ({"id2label": {"0": "bad", "1": "good"}}, "the classifier has 2 outputs; give one with a single output"),
        ({"id2label": None}, "the classifier has 2 outputs"),
        ({"hidden_size": 40}, "has a different shape from that in config.json"),
        ({"num_hidden_layers": 3}, r"tensor bert\.encoder\.layer\.2\..* is missing"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    make_classifier(tmp_path)
    change_json(tmp_path / "config.json", **changes)
    with pytest.raises(BadReference, match=message) as refused:
        load(tmp_path)
    assert str(refused.value).startswith(str(tmp_path))


def test_a_classifier_is_no_reference(folder: Path) -> None:
    message = wrong(folder)
    assert "is a classifier (BertForSequenceClassification), no language model; give it as a classifier" in message


def test_a_changed_folder_is_refused(tmp_path: Path) -> None:
    make_classifier(tmp_path)
    before = inspect(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.2}))
    with pytest.raises(BadReference, match="has changed since it was chosen"):
        load(tmp_path, expected=before)
