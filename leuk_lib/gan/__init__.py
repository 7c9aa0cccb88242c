"""ACDB-GAN: synthetic cells for the classes that need them, of their class, and not copies.

Import from the modules: ``from leuk_lib.gan.train import train_gan``.
"""
