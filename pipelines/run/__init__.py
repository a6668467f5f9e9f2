"""The run of a command: its session on a cluster, its output and who owns it, its log."""
