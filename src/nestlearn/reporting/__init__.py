"""What a demo shows: the HTML report, the terminal summary, several seeds together, the README's picture.

Importing this never imports matplotlib; drawing does, and says what to install where it is missing.
"""

from nestlearn.reporting.html import render_report, write_report
from nestlearn.reporting.schema import Results, load_results, validate
from nestlearn.reporting.summary import aggregate, write_readme_figure
from nestlearn.reporting.terminal import print_summary, retention_table

__all__ = [
    "Results",
    "aggregate",
    "load_results",
    "print_summary",
    "render_report",
    "retention_table",
    "validate",
    "write_readme_figure",
    "write_report",
]
