"""ACDB-GAN: synthetic cells for rare classes, screened for class, realism and novelty.

``balance`` sets sampling weights and quotas. ``networks``, ``losses``, ``ada`` and ``train`` are the GAN, ``generate``
samples from it. ``features`` and ``verifier`` measure a cell, ``gate`` accepts or rejects it, ``controls`` tests the
gate. ``deliver`` fills the quotas, ``pipeline`` runs all steps in order. ``fidelity`` and ``inception`` score the result.
"""
