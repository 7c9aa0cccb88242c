"""leuk_lib: the tested library under the companion's notebooks (research software, no medical device).

Import what you need from its rooms; importing the package itself loads nothing heavy:

>>> from leuk_lib.alhe.enhance import alhe  # doctest: +SKIP
"""

__version__ = "0.1.0"
