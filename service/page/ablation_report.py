"""The report of an ablation as one HTML file without scripts or links to a service."""

from pruner.ablation.result import AblationResult


def ablation_html(result: AblationResult) -> str:
    """The report as HTML."""
    return f"<p>{result.recommendation.text}</p>"
