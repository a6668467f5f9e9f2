"""Networks on storage: model directories, checkpoints, weights, what a training starts from, actors that run them."""
