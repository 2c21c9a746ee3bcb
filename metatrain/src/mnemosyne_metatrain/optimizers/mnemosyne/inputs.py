"""Names of what a chunk's token is made of, in the order of the pool's rows.

Before them come the pooled tokens of its cells. "g" is the gradient, "e" and "m" are g and r1 over
root(s), "d" is the direction of the step before.
"""

from __future__ import annotations

# Ratios and cosines of the chunk's own sums; see `features.py`.
STATISTICS = (
    "g2/s", "cos(g,r1)", "cos(e,r2)", "cos(m,r2)", "cos(e,d)", "m2", "r2^2", "d2", "e2",
)  # fmt: skip
OWN = (*STATISTICS, "s/tensor", "log step")
# The tensor, the clock, the loss and what else is told; see `conditions.py`.
CONDITIONS = (
    "fan in", "fan out", "size", "matrix", "log age", "start",
    "loss 0", "loss 1", "loss 2", "loss told", "left", "horizon told", "rms", "rms told",
)  # fmt: skip
CHUNK_INPUTS = (*OWN, *CONDITIONS)
# The name of all pooled tokens of cells together.
CELLS = "cells"
