"""`relabel`: writes new labels for a whole data set, each row exactly once, and a score of every old label."""
