"""The library of the companion's notebooks. Research software, not a medical device.

Import from its packages, as in ``from leuk_lib.alhe.enhance import alhe``. Importing ``leuk_lib`` itself is fast.
"""

__version__ = "0.1.0"
