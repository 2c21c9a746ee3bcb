"""Tasks that optimizers are meta-trained on, and what a task is."""
