"""WPAT, the windowed patch attention transformer: local window attention, and global attention through latent tokens."""
