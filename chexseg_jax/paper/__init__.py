"""The paper's tables and figures, and an HTML page of them, from the finished runs of a table."""
