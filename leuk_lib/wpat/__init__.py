"""WPAT: attention inside windows of the encoder's feature maps, and a few latent tokens through which windows speak."""
