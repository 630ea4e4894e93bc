"""Converts a native state-spaces Mamba-2 checkpoint to a Hugging Face model folder with weights in safetensors."""

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
from scorer.causal_lm.mamba2 import rename_tensors
from scorer.causal_lm.mamba2_config import parse_config
from scorer.errors import BadReference
from scorer.tokenizer.tokenizer import END_OF_TEXT

_NATIVE_WEIGHTS = "pytorch_model.bin"


def convert(source: Path, out: Path, tokenizer: Path | None = None) -> None:
    """Writes the model in `source` (config.json, and pytorch_model.bin or safetensors) to `out`, weights as stored.

    `tokenizer` is a folder with a tokenizer.json, or that file; by default the source folder's own. The result gives
    the same scores, and loads with AutoTokenizer and AutoModelForCausalLM. A hybrid, for which transformers has no
    model, keeps its native config.json. Raises BadReference if `source` is not a complete Mamba-2 checkpoint, or if
    there is no tokenizer that fits it.
    """
    if out.resolve() == source.resolve():
        raise BadReference(f"{out}: is the source folder, which would be overwritten; give another folder to --out")
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
    tensors = rename_tensors(source, _unpickle(weights) if weights.is_file() else read_weights(source), config)

    out.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in tensors.items()}, out / WEIGHTS, {"format": "pt"})
    shutil.copyfile(given / "tokenizer.json" if folder else given, out / "tokenizer.json")
    shutil.copymode(out / "tokenizer.json", out / WEIGHTS)  # safetensors makes files that only the owner reads
    settings = _tokenizer_settings(folder, vocabulary)
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    if folder and (special := folder / "special_tokens_map.json").is_file():
        shutil.copyfile(special, out / special.name)
    ids = {f"{kind}_id": _id_of(settings.get(kind), vocabulary) for kind in ("bos_token", "eos_token", "pad_token")}
    # Written last: a folder without it is not taken for a model.
    written = raw if config.hybrid else config.to_json()
    (out / "config.json").write_text(json.dumps(written | ids, indent=2) + "\n")


def _unpickle(path: Path) -> dict[str, Tensor]:
    """Reads a pickle, the only place that does: tensors and plain containers only, no code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about pickles: errors are raised below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise BadReference(f"{path}: holds other objects than tensors, which are not read; get safetensors") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BadReference(f"{path}: cannot be read as weights ({reason[0]})") from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise BadReference(f"{path}: is not a dictionary of named tensors")
    return state


def _read_tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise BadReference(f"{path}: there is no tokenizer; give a folder with a tokenizer.json by --tokenizer")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no narrower class
        raise BadReference(f"{path}: cannot be read as a tokenizer ({error})") from None


def _tokenizer_settings(folder: Path | None, vocabulary: Tokenizer) -> dict[str, Any]:
    """The tokenizer_config.json of `folder`, or else one with the special tokens that are known."""
    if folder and (path := folder / "tokenizer_config.json").is_file():
        return read_object(path)
    end = END_OF_TEXT if vocabulary.token_to_id(END_OF_TEXT) is not None else None
    ends: dict[str, Any] = {"bos_token": end, "eos_token": end}
    if folder and (path := folder / "special_tokens_map.json").is_file():
        named = read_object(path)
        ends = {name: named.get(name) for name in ends}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **ends, "clean_up_tokenization_spaces": False}


def _id_of(token: Any, vocabulary: Tokenizer) -> int | None:
    """The id of a special token given as text or as {"content": text}."""
    text = token.get("content") if isinstance(token, dict) else token
    return vocabulary.token_to_id(text) if isinstance(text, str) else None
