"""Documents and plots from records: nothing in them is written by hand."""
