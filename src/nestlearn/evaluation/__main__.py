"""``python -m nestlearn.evaluation``: lm-eval's own command line, which knows our models and tasks here."""

import sys

from lm_eval.__main__ import cli_evaluate

import nestlearn.evaluation.harness  # noqa: F401  (registers the models)
from nestlearn.evaluation.documents import TASKS

if __name__ == "__main__":
    if len(sys.argv) > 2 and "--include_path" not in sys.argv and sys.argv[1] != "validate":
        sys.argv += ["--include_path", str(TASKS)]
    cli_evaluate()
