"""``python -m nestlearn.streams``: build or check the corpus, and say what is there."""

import sys

from nestlearn.streams import DataError, load_parallel_help


def main() -> int:
    """Load the corpus into the cache; the exit code."""
    try:
        corpus = load_parallel_help()
    except DataError as error:
        print(f"nestlearn: {error}", file=sys.stderr)
        return 2
    counts = ", ".join(
        f"{len(rows)} {split}" for split, rows in corpus.paragraphs[corpus.languages[0]].items()
    )
    print(f"{corpus.name}: {counts} paragraphs in {', '.join(corpus.languages)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
