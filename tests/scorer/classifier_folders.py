"""Small classifiers of several architectures, with random weights, as transformers saves them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tests.scorer.model_folders import PROSE

CONTEXT = 24
PAD, CLS, SEP, UNK = "[PAD]", "[CLS]", "[SEP]", "[UNK]"
_SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "num_labels": 1,
    "pad_token_id": 0,
}
_MODERN = _SHAPE | {"local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2}
_MODERN |= {"bos_token_id": 1, "eos_token_id": 2}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
CONFIGS: dict[str, Any] = {
    "bert": lambda: tf.BertConfig(**_SHAPE),
    "modernbert": lambda: tf.ModernBertConfig(**_MODERN, classifier_pooling="cls"),
    "modernbert-mean": lambda: tf.ModernBertConfig(**_MODERN, classifier_pooling="mean"),
    "xlm-roberta": lambda: tf.XLMRobertaConfig(**(_SHAPE | {"max_position_embeddings": CONTEXT + 1})),
    "deberta-v2": lambda: tf.DebertaV2Config(**_SHAPE, **_DEBERTA),
}

# Models whose outputs depend on the padding beside a text.
CHANGED_BY_PADDING: dict[str, Any] = {
    "fnet": lambda: tf.FNetConfig(**{name: value for name, value in _SHAPE.items() if name != "num_attention_heads"}),
}


def word_pieces() -> Tokenizer:
    """A WordPiece tokenizer as BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNK))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=[PAD, CLS, SEP, UNK], show_progress=False)
    tokenizer.train_from_iterator([PROSE, "0123456789 abcdefghijklmnopqrstuvwxyz"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}", special_tokens=[(CLS, 1), (SEP, 2)]
    )
    return tokenizer


def make_classifier(folder: Path, kind: str = "bert", *, length: int = CONTEXT, center: float = 2.5) -> Any:
    """Saves such a model and a tokenizer that cuts texts to `length` ids. Its outputs lie around `center`."""
    torch.manual_seed(0)
    model = tf.AutoModelForSequenceClassification.from_config((CONFIGS | CHANGED_BY_PADDING)[kind]()).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
        last = next(m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1)
        last.weight.mul_(5)
        last.bias.fill_(center)
    model.save_pretrained(folder)
    special = {"pad_token": PAD, "cls_token": CLS, "sep_token": SEP, "unk_token": UNK}
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=word_pieces(), model_max_length=length, **special)
    tokenizer.save_pretrained(folder)
    return model


def own_values(folder: Path, texts: list[str]) -> np.ndarray:
    """The outputs of transformers' own classes, a text at a time, as the card of FineWeb-Edu's classifier shows it."""
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    model = tf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    values = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", padding="longest", truncation=True)
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            values.append(model(**inputs).logits.squeeze(-1).float().item())
    return np.array(values, np.float32)
