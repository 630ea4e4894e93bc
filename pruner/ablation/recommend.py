"""The recommendation of an ablation: one sentence with its conditions, and none where the arms do not differ."""

from typing import NamedTuple

from pruner.ablation.compare import ALL, SHARES, Arm, Comparison, RunKey
from pruner.ablation.result import Recommendation
from pruner.ablation.statistics import CONFIDENCE, Difference, steps_to_baseline

_UNCORRECTED = 5  # selections


class Conditions(NamedTuple):
    """What a recommendation holds for."""

    proxies: str  # such as "nano proxies of 0.9 M parameters"
    tokens: int  # of a run
    target: str = ""  # such as " for 1e9 parameters and 2e10 tokens"


def is_clear(comparison: Comparison, arm: Arm, looks: int) -> bool:
    """Whether a selection is better than `all` and than its random arm.

    Of simulated experiments in which none of up to five selections is better, at most 1 in 25 has one that passes both
    by chance: up to five need no correction. Each five of more, and `looks`, the number of times that the results were
    looked at while seeds were added, share the chance of a wrong answer (Bonferroni).
    """
    shares = looks * max(1.0, len(comparison.ranked()) / _UNCORRECTED)
    return _is_better(comparison, arm, 1 - (1 - CONFIDENCE) / shares)


def _is_better(comparison: Comparison, arm: Arm, confidence: float) -> bool:
    others = (ALL, arm.control) if arm.control is not None else ()
    return bool(others) and all(comparison.difference(arm.name, other).is_better(confidence) for other in others)


def order_holds(comparison: Comparison, arm: Arm) -> bool | None:
    """Whether the arm is better than `all` and its random arm at the other learning rates too; None if none was run."""
    keys = [key for key in comparison.runs if key.arm == arm.name and key.factor != 1]
    found = []
    for key in keys:
        for other in (ALL, arm.control):
            there = RunKey(other or ALL, key.seed, key.factor)
            if there in comparison.runs:
                found.append(comparison.at_rate(key) < comparison.at_rate(there))
    return all(found) if found else None


def recommend(comparison: Comparison, conditions: Conditions, looks: int = 1) -> Recommendation:
    """Recommends the best selection if it is clearly better than `all` and its random arm, else none."""
    clear = [arm for arm in comparison.ranked() if is_clear(comparison, arm, looks)]
    if not clear:
        return Recommendation(selection=None, text=_nothing(comparison, conditions))
    best = clear[0]
    holds = order_holds(comparison, best)
    if holds is False:
        text = (
            f"No recommendation: {best.name} is better at the preset's learning rate and not at a lower one, so the "
            "order of the arms says nothing at this size. Ablate with a larger preset or more tokens."
        )
        return Recommendation(selection=None, text=text)
    return Recommendation(selection=best.name, text=_sentence(comparison, best, conditions, holds))


def _sentence(comparison: Comparison, arm: Arm, conditions: Conditions, holds: bool | None) -> str:
    found = comparison.difference(arm.name, ALL)
    against = comparison.difference(arm.name, arm.control or ALL)
    seeds = [seed for seed in comparison.seeds(arm.name) if seed in comparison.seeds(ALL)]
    curve = [comparison.value(arm.name, share) for share in range(len(SHARES))]
    faster = steps_to_baseline(SHARES, curve, comparison.value(ALL))
    passes = max(comparison.runs[RunKey(arm.name, seed)].passes for seed in seeds)
    speed = f", {'at least ' if faster >= 4 else ''}{faster:.2f} times faster" if faster is not None else ""
    equal = [other.name for other in comparison.ranked()[:2] if other is not arm]
    rival = ""
    if equal:
        between = comparison.difference(arm.name, equal[0])
        if not between.is_better():
            rival = f"; {equal[0]} is not clearly worse"
    return (
        f"{arm.name} is recommended: {_amount(found)} bits per byte of {_measure(comparison)} better than all "
        f"documents{speed}, and "
        f"{_amount(against)} better than as many random ones ({len(seeds)} paired seeds){rival}; measured with "
        f"{conditions.proxies} on {conditions.tokens:,} tokens, for up to {max(passes, 1):.1f} passes over the kept "
        f"documents{conditions.target}"
        + ("; the order holds at other learning rates" if holds else "")
        + ". Confirm it with a larger preset before a costly training."
    )


def _amount(found: Difference) -> str:
    return f"{-found.value:.4f} ± {found.half_width() or 0:.4f}"


def _nothing(comparison: Comparison, conditions: Conditions) -> str:
    noise = comparison.noise()
    seeds = len(comparison.seeds(ALL))
    if noise.detectable is None and seeds > 1:
        return "No recommendation: one held-out document or question gives no interval. Give more of them."
    if noise.detectable is None:
        return "No recommendation: one seed gives no interval. Ablate with three seeds or more."
    arms = comparison.ranked()
    better = [arm for arm in arms if comparison.difference(arm.name, ALL).is_better()]
    why = "no selection is clearly better than all documents"
    if both := [arm for arm in better if _is_better(comparison, arm, CONFIDENCE)]:
        why = f"{both[0].name} passes at 95 %, and not at the stricter level that many selections or looks ask for"
    elif better:
        why = f"{better[0].name} is better than all documents, but not clearly better than as many random ones"
    return (
        f"No recommendation: {why}. The smallest difference that {seeds} seeds could have shown is "
        f"{noise.detectable:.4f} bits per byte of {_measure(comparison)}, with {conditions.proxies} on "
        f"{conditions.tokens:,} tokens{conditions.target}."
    )


def _measure(comparison: Comparison) -> str:
    return "the right answers" if comparison.which == "tasks" else "held-out text"
