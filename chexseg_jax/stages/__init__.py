"""One stage, one file: a function from inputs to an artifact on disk."""
