"""Meta-training by evolution strategies over whole runs of training."""
