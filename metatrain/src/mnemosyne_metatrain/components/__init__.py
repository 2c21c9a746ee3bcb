"""Building blocks of the learned optimizers, each with its equation and source.

The table in `docs/components.md` lists them.
"""
