"""Documents in, (nll, n_tokens) out: models, tokenizing, batching, scoring, training. Knows no file, job or HTTP."""
