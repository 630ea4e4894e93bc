"""Documents in, (nll, n_tokens) out: tokenizing, models, scoring, training. Knows no file layout, job or HTTP."""
