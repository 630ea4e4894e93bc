"""The peer of our training: the loop that a practised user writes in an hour.

transformers' GPT-2, torch.compile, bfloat16 autocast, whole logits, fused AdamW.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from scorer.training.batches import Batches
from scorer.training.tokens import save_tokenizer, tokenize

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Plain:
    """GPT-2 124M, its optimizer, and a step."""

    def __init__(self, vocabulary: int, rate: float = 6e-4) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config = GPT2Config(vocab_size=vocabulary, bos_token_id=0, eos_token_id=0, use_cache=False, **dropout)
        self.model = GPT2LMHeadModel(config).to(DEVICE).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )
        self.rate = rate
        self.compiled = torch.compile(self.model)

    def step(self, rows: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor
        with torch.autocast(DEVICE, torch.bfloat16):
            logits = self.compiled(rows[:, :-1]).logits
            loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def train_plain(texts: list[str], budget: int, folder: Path, work: Path) -> int:
    """The plain loop, 16 x 1,024, warm-up of 5 % and a cosine to zero, over rows that cross documents."""
    learnt = Tokenizer.from_file(str(work / "tokenizer.json"))
    data = tokenize(lambda: iter(texts), learnt, budget, work, lambda: None).trained
    vocabulary = -(-learnt.get_vocab_size() // 16) * 16
    plain = Plain(vocabulary)
    batches = Batches(data, 1024, 16, 0, 0)
    steps = budget // (16 * 1024)
    warm = max(1, round(0.05 * steps))
    for step in range(steps):
        factor = (step + 1) / warm
        if step >= warm:
            factor = 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        batch = batches.layout.split(batches.vector(16 * step))
        rows = torch.cat((batch.ids, batch.targets[:, -1:]), dim=1)
        plain.step(rows.to(DEVICE), factor)
    plain.model.save_pretrained(folder)
    save_tokenizer(work / "tokenizer.json", folder)
    return steps * 16 * 1024
