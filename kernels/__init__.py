"""GPU kernels for scoring, each beside its reference in torch. Imports nothing of the other rooms."""
