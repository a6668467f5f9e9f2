"""The method, distributed on Ray: one module per command, and what they share."""
