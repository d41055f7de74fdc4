"""The TD3 algorithm: networks, updates, flat parameters, kernels."""
