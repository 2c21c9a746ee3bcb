"""Meta-training of the learned optimizers that Mnemosyne hosts."""
