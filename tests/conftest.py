"""What all tests share."""

from __future__ import annotations

import os

# Runs of tests do not go to the database of whoever starts them; tests of trackers choose for themselves.
os.environ["NESTLEARN_TRACK"] = "none"
