"""The C part of the products of matrices."""
