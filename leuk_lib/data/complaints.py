"""What image decoders mutter: libjpeg meets damaged data, goes on with a guess, and tells the terminal only.

OpenCV has no way to ask for these words, so that they are caught where they go: at the process's standard error.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

MUTTERED = re.compile(
    r"^(Corrupt JPEG data.*|Premature end of JPEG.*|Invalid SOS.*|Warning: unknown JFIF.*|.*grfmt_\w+\.cpp.*)$"
)
# Bytes behind the pixels; some cameras and savers leave them there, and the pixels are whole.
HARMLESS = re.compile(r"\d+ extraneous bytes before marker 0xd9$")


@contextmanager
def listening() -> Iterator[list[str]]:
    """Collect what decoders write to standard error inside the block; the list is filled when the block ends.

    For the whole process, threads included: whoever needs to know which file it was decodes one at a time. What others
    wrote meanwhile is passed on at the end.
    """
    words: list[str] = []
    with tempfile.TemporaryFile() as sink:
        sys.stderr.flush()
        saved = os.dup(2)
        try:
            os.dup2(sink.fileno(), 2)
            yield words
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            sink.seek(0)
            lines = sink.read().decode(errors="replace").splitlines()
            words += [line for line in lines if MUTTERED.match(line)]
            if others := [line for line in lines if not MUTTERED.match(line)]:
                print("\n".join(others), file=sys.stderr)
