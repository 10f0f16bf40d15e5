"""What all tests share."""

from __future__ import annotations

import os

# Runs of tests are not kept in the database of whoever runs them; tests of trackers choose their own.
os.environ["NESTLEARN_TRACK"] = "none"
