"""Analysis of trained networks: poses, equivariance, errors and intervals."""
