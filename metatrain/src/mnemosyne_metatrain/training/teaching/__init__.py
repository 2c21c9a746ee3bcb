"""A decoder taught by what small changes of its decisions do to whole runs."""
