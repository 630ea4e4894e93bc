"""Small Hugging Face model folders with random weights and a tokenizer of their own."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from kernels.pack import Pack
from scorer.causal_lm.reference import inspect, load
from scorer.errors import BadReference

ROWS = 320  # of the models' vocabularies: more than the tokenizer has
END = "<|endoftext|>"
PROSE = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. "
SHAPE: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
GROUPED = SHAPE | {"num_key_value_heads": 2}
GPT2 = {"vocab_size": ROWS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24} | {
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def byte_level() -> tokenizers.Tokenizer:
    """A byte-level BPE of some 300 tokens, END the first of them."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([PROSE], trainer)
    return tokenizer


def add_tokenizer(folder: Path, **special: str) -> None:
    """Saves the tokenizer as transformers does; `special` are its bos_token and eos_token, if it has any."""
    PreTrainedTokenizerFast(tokenizer_object=byte_level(), **special).save_pretrained(folder)


def make_model(config: Any) -> Any:
    """A model of this configuration whose predictions are far from uniform."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval().float()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(5)
    return model


def make_folder(folder: Path, config: Any, **special: str) -> Any:
    """Saves such a model and a tokenizer, by default with END as BOS and EOS. Returns the model."""
    model = make_model(config)
    model.save_pretrained(folder)
    add_tokenizer(folder, **(special or {"bos_token": END, "eos_token": END}))
    return model


def change_json(path: Path, **changes: Any) -> None:
    """Sets keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def wrong(folder: Path) -> str:
    """The one-line message with which both the quick look and the loading refuse a folder."""
    with pytest.raises(BadReference) as looked:
        inspect(folder)
    with pytest.raises(BadReference) as loaded:
        load(folder)
    assert str(looked.value) == str(loaded.value)
    assert str(looked.value).startswith(str(folder))
    assert "\n" not in str(looked.value)
    return str(looked.value)


def rows_nll(model: Any, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Our NLL of rows [B, T], given to the model as a pack of B documents."""
    pack = Pack.of([ids.shape[1]] * len(ids), "cpu")
    nll: torch.Tensor = model.nll(ids.flatten(), targets.flatten(), pack)[0]
    return nll.view(targets.shape)


def windowed_nll(model: Any, ids: list[int], bos: int | None, context: int | None) -> float:
    """The sum that the contract defines, window after window, by the model's own `labels=` loss."""
    stream = ids if bos is None else [bos, *ids]
    targets = len(stream) - 1
    size = targets if context is None else context - 1
    total = 0.0
    for start in range(0, targets, size):
        window = [stream[start] if bos is None else bos, *stream[start + 1 : start + 1 + size]]
        x = torch.tensor([window])
        with torch.no_grad():
            total += float(model(input_ids=x, labels=x).loss.double()) * (len(window) - 1)
    return total
