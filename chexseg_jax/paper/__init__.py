"""The paper's tables and figures, and a page to look at, from a table's finished runs."""
