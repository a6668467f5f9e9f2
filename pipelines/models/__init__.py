"""Networks on storage: model directories, checkpoints, weights, the setup of a training, and actors that run models."""
