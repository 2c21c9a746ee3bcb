"""Datasets: made once from installed packages, kept in a cache that any machine can read."""
