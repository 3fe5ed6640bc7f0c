"""Reports: one writer for what any run shows."""
