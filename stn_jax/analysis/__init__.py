"""What a trained network does: poses, galleries, a user's own images."""
