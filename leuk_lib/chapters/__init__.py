"""One module per chapter: what its notebook needs and no method should hold."""
