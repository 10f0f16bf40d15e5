"""The languages of the parallel corpora, and the check of a selection of them."""

from collections.abc import Iterable, Sequence

from nestlearn.streams.errors import DataError

LANGUAGES: tuple[str, ...] = ("en", "fr", "de", "es", "it")


def check_languages(languages: Iterable[str], known: Sequence[str] = LANGUAGES) -> tuple[str, ...]:
    """Return the selection as a tuple, in the order given, which is the order of the stream.

    Args:
        languages: Language codes, at least one, none twice.
        known: What may be asked for.

    Raises:
        DataError: No language, one named twice, or one that is not known; the message lists the known ones.
    """
    # A bare string is a sequence of letters: "fr" would be reported as the unknown languages "f" and "r".
    selection = (languages,) if isinstance(languages, str) else tuple(languages)
    choice = f"choose from {', '.join(known)}"
    if not selection:
        raise DataError(f"No language was asked for: {choice}.")
    unknown = [language for language in selection if language not in known]
    if unknown:
        raise DataError(f"Unknown language {', '.join(map(repr, unknown))}: {choice}.")
    if len(set(selection)) < len(selection):
        raise DataError(f"A language is named twice in {', '.join(selection)}: name each one once.")
    return selection
