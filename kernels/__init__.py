"""GPU kernels for scoring, each beside its reference in torch. Imports nothing from the other rooms."""
