"""Optimizers: the flagship, the baselines, and the classics that they are judged against."""
