"""`train`: the driver and what each of its workers does."""
