"""Overlap of task items with documents: 13 words in a row that both have, after GPT-3's rule for contamination."""

import re
from collections.abc import Iterable, Mapping, Sequence

WORDS = 13
_WORD = re.compile(r"\w+")


class Overlap:
    """Looks for the word sequences of items in documents. Items of fewer than 13 words are never found."""

    def __init__(self, items: Mapping[str, Sequence[str]]) -> None:
        """`items`: the texts of each task."""
        self._items: dict[int, set[tuple[str, int]]] = {}
        self._first: set[str] = set()
        self._counts = {task: len(texts) for task, texts in items.items()}
        for task, texts in items.items():
            for number, text in enumerate(texts):
                words = _words(text)
                for start in range(len(words) - WORDS + 1):
                    gram = words[start : start + WORDS]
                    self._first.add(gram[0])
                    self._items.setdefault(hash(tuple(gram)), set()).add((task, number))

    def find(self, text: str) -> set[tuple[str, int]]:
        """The items, as (task, number), that a document overlaps with."""
        found: set[tuple[str, int]] = set()
        if not self._items:
            return found
        words = _words(text)
        for start in range(len(words) - WORDS + 1):
            if words[start] in self._first:
                found |= self._items.get(hash(tuple(words[start : start + WORDS])), set())
        return found

    def shares(self, found: Iterable[set[tuple[str, int]]]) -> dict[str, float]:
        """The share of each task's items that are in one of the documents, by what `find` gave for each."""
        items = set().union(*found)
        return {task: sum(each == task for each, _ in items) / count for task, count in self._counts.items()}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
