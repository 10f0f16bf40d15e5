import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestlearn.streams import LANGUAGES, DataError
from nestlearn.streams.languages import check_languages
from nestlearn.streams.rows import SPLITS, ParallelRow, assign_splits, encode_rows, select_texts, unique
from tests.streams.fakes import sentence


def numbered_rows(count: int) -> list[ParallelRow]:
    return [
        ParallelRow(f"par_id{n}", tuple(sentence(language, n) for language in LANGUAGES))
        for n in range(count)
    ]


def test_first_row_of_an_english_text_is_kept() -> None:
    first, second = numbered_rows(2)
    again = ParallelRow("other", (first.texts[0], *second.texts[1:]))
    assert unique([first, second, again]) == [first, second]


def test_split_is_about_two_percent_each_and_known_forever() -> None:
    rows = assign_splits(numbered_rows(5000))
    counts = {split: sum(row.split == split for row in rows) for split in SPLITS}
    # These change only with the rule, and then cache.FORMAT must change too.
    assert counts == {"train": 4801, "validation": 92, "test": 107}
    assert [row.id for row in rows if row.split == "test"][:3] == ["par_id127", "par_id128", "par_id154"]


def test_split_of_a_row_does_not_depend_on_the_other_rows() -> None:
    rows = numbered_rows(1000)
    every = {row.id: row.split for row in assign_splits(rows)}
    some = {row.id: row.split for row in assign_splits(rows[::-3])}
    assert some == {key: every[key] for key in some}


@pytest.mark.parametrize("change", [str, str.upper, lambda text: text.replace(".", " !?")])
@pytest.mark.parametrize("language", range(len(LANGUAGES)))
def test_rows_that_share_a_text_in_any_language_train(language: int, change: object) -> None:
    assert callable(change)
    rows = numbered_rows(200)
    held_out = next(row.id for row in assign_splits(rows) if row.split == "test")
    position = [row.id for row in rows].index(held_out)
    texts = list(rows[0].texts)
    texts[language] = change(rows[position].texts[language])
    shared = [ParallelRow("twin", tuple(texts)), *rows[1:]]
    splits = {row.id: row.split for row in assign_splits(shared)}
    assert splits[held_out] == splits["twin"] == "train"


text = st.text(st.characters(exclude_categories=("Cs",)))


@given(st.lists(st.tuples(text, st.tuples(text, text, text, text, text)), max_size=5))
def test_canonical_bytes_read_back(content: list[tuple[str, tuple[str, ...]]]) -> None:
    rows = assign_splits([ParallelRow(name, texts) for name, texts in content])
    data = encode_rows(rows)
    assert data.count(b"\n") == len(rows)
    read = select_texts(data, ("de", "en"))
    assert list(read) == ["de", "en"]
    for language in read:
        index = LANGUAGES.index(language)
        for split in SPLITS:
            assert read[language][split] == tuple(row.texts[index] for row in rows if row.split == split)


def test_languages_keep_the_order_asked_for() -> None:
    assert check_languages(["de", "en"]) == ("de", "en")
    assert check_languages("fr") == ("fr",)


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        (["en", "xx"], r"Unknown language 'xx': choose from en, fr, de, es, it\."),
        ([], r"No language was asked for: choose from en, fr"),
        (["en", "fr", "en"], r"named twice in en, fr, en"),
    ],
)
def test_bad_selections_of_languages(languages: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_languages(languages)
