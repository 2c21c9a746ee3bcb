"""The program that meta-trains: windows, outer steps, checkpoints, metrics."""
