"""The stage contract: typed parameters, inputs, atomic outputs, checkpoints, run cards."""
