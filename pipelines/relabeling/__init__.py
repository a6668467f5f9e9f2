"""`relabel`: better labels for a whole data set, exactly once, with a score of every old label."""
