"""What a trained network does: poses, equivariance, galleries, a user's own images."""
