"""On a GPU: classifiers read packs, and give the values of transformers in float32 and its integers in bfloat16."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf

from scorer.classifier.classifier import Classifier, load
from scorer.classifier.scoring import classify
from tests.gpu.references import sources
from tests.scorer.classifier_folders import CONFIGS, make_classifier, own_values

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

TEXTS = [text[start : start + 3000] for text in sources(3_000_000) for start in range(0, len(text), 3000)]


def values(classifier: Classifier, texts: list[str]) -> np.ndarray:
    blocks = [(texts[start : start + 100], None) for start in range(0, len(texts), 100)]
    return np.concatenate([found for _, found in classify(classifier, blocks)])


@pytest.mark.parametrize("kind", CONFIGS)
def test_values_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    make_classifier(tmp_path, kind)
    classifier = load(tmp_path, "cuda", "float32")
    assert classifier.model.packed == (kind != "deberta-v2")
    np.testing.assert_allclose(values(classifier, TEXTS[:50]), own_values(tmp_path, TEXTS[:50]), atol=2e-4, rtol=0)


def test_the_shape_of_fineweb_edus(tmp_path: Path) -> None:
    """In bfloat16 the integer scores of 99 % of the texts are those of float32; two runs give the same bits."""
    make_classifier(tmp_path)
    torch.manual_seed(0)
    config = tf.BertConfig(vocab_size=300, num_labels=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = tf.BertForSequenceClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(20)
        model.classifier.bias.fill_(2.2)
    model.save_pretrained(tmp_path)
    single, half = load(tmp_path, "cuda", "float32"), load(tmp_path, "cuda", "bfloat16")
    assert half.model.packed
    expected, found = values(single, TEXTS), values(half, TEXTS)
    assert np.mean(np.rint(expected.clip(0, 5)) == np.rint(found.clip(0, 5))) >= 0.99
    assert values(half, TEXTS).tobytes() == found.tobytes()
    np.testing.assert_allclose(expected[:20], own_values(tmp_path, TEXTS[:20]), atol=2e-4, rtol=0)
