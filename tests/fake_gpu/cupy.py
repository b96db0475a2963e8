"""CuPy's twin, where a process asks for CuPy."""

from __future__ import annotations

import sys

from tests.fake_cupy import make_cupy

sys.modules["cupy"] = make_cupy()[0]
