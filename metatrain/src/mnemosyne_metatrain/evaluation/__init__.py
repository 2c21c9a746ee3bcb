"""How quality is judged: learned optimizers against a tuned Adam, on the same nets and batches."""
