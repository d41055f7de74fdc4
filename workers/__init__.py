"""The processes of a trading host, one package a worker, and the libraries they share."""
