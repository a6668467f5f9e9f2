"""`train`: the driver, and the training loop of its workers."""
