"""Where the real images and weights lie, and the mark of the tests that need them."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"real images and weights are not in {SHARED}"
)
