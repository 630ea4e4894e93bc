"""Turns a native state-spaces Mamba-2 checkpoint into a Hugging Face model folder with weights in safetensors."""

import json
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from scorer.causal_lm.checkpoint import WEIGHTS, read_config, read_object, read_weights
from scorer.causal_lm.mamba2 import canonical
from scorer.causal_lm.mamba2_config import parse_config
from scorer.errors import BadReference
from scorer.tokenizer.tokenizer import END_OF_TEXT

_NATIVE_WEIGHTS = "pytorch_model.bin"


def convert(source: Path, out: Path, tokenizer: Path | None = None) -> None:
    """Writes the model of `source` (config.json, and pytorch_model.bin or safetensors) to `out`, weights as stored.

    `tokenizer` is a folder with a tokenizer.json, or that file; by default the source folder's own. The result scores
    the same, and loads with AutoTokenizer and AutoModelForCausalLM; a hybrid, for which transformers has no model, has
    its native config.json. Raises BadReference for a source that is not a whole Mamba-2 checkpoint, or where there is
    no tokenizer that fits it.
    """
    if out.resolve() == source.resolve():
        raise BadReference(f"{out}: is the checkpoint itself, which would be lost; give another folder to --out")
    raw = read_config(source)
    config = parse_config(source, raw)
    given = tokenizer or source
    folder = given if given.is_dir() else None
    vocabulary = _read_tokenizer(given / "tokenizer.json" if folder else given)
    if vocabulary.get_vocab_size() > config.vocab_size:
        raise BadReference(
            f"{given}: the tokenizer has {vocabulary.get_vocab_size()} tokens, the model only {config.vocab_size} rows;"
            " give the tokenizer it was trained with by --tokenizer"
        )
    weights = source / _NATIVE_WEIGHTS
    tensors = canonical(source, _unpickle(weights) if weights.is_file() else read_weights(source), config)

    out.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in tensors.items()}, out / WEIGHTS, {"format": "pt"})
    shutil.copyfile(given / "tokenizer.json" if folder else given, out / "tokenizer.json")
    shutil.copymode(out / "tokenizer.json", out / WEIGHTS)  # else nobody but its owner may read it
    settings = _tokenizer_settings(folder, vocabulary)
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    if folder and (special := folder / "special_tokens_map.json").is_file():
        shutil.copyfile(special, out / special.name)
    ids = {f"{kind}_id": _id_of(settings.get(kind), vocabulary) for kind in ("bos_token", "eos_token", "pad_token")}
    # Last, for without it no reader takes the folder for a model.
    described = raw if config.hybrid else config.to_json()
    (out / "config.json").write_text(json.dumps(described | ids, indent=2) + "\n")


def _unpickle(path: Path) -> dict[str, Tensor]:
    """The one place that reads a pickle: only tensors and plain containers, nothing that runs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles by torch: what they hold is told below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise BadReference(f"{path}: holds something else than tensors, which is not read; get safetensors") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BadReference(f"{path}: cannot be read as weights ({reason[0]})") from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise BadReference(f"{path}: is not a table of named tensors")
    return state


def _read_tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise BadReference(f"{path}: there is no tokenizer; give a folder with a tokenizer.json by --tokenizer")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise BadReference(f"{path}: cannot be read as a tokenizer ({error})") from None


def _tokenizer_settings(folder: Path | None, vocabulary: Tokenizer) -> dict[str, Any]:
    """The tokenizer_config.json of `folder`, or else one that names the special tokens that are known."""
    if folder and (path := folder / "tokenizer_config.json").is_file():
        return read_object(path)
    end = END_OF_TEXT if vocabulary.token_to_id(END_OF_TEXT) is not None else None
    ends: dict[str, Any] = {"bos_token": end, "eos_token": end}
    if folder and (path := folder / "special_tokens_map.json").is_file():
        named = read_object(path)
        ends = {name: named.get(name) for name in ends}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **ends, "clean_up_tokenization_spaces": False}


def _id_of(token: Any, vocabulary: Tokenizer) -> int | None:
    """The id of a special token, written as text or as {"content": text}."""
    text = token.get("content") if isinstance(token, dict) else token
    return vocabulary.token_to_id(text) if isinstance(text, str) else None
