"""The report's sections that show numbers, from the stream's curves to the first language."""

from __future__ import annotations

from collections.abc import Sequence

from nestlearn.reporting import plots, readings, sentences
from nestlearn.reporting.markup import Content, Html, h, scroll, table
from nestlearn.reporting.schema import Results, Run
from nestlearn.reporting.style import compact, join_words, language_name, number, run_styles, signed

__all__ = ["curves", "first_language", "legend", "levels", "matched", "matrices", "trade"]

_TABLE_ROWS = 120
_COMMITS = 20


def legend(results: Results) -> Html:
    """Name every run beside a piece of its line."""
    items = []
    for style in run_styles(results["runs"]).values():
        dashes = " ".join(f"{length * 2:g}" for length in style.dashes) or None
        piece = h("path", d="M1 5H39", style=f"stroke:var(--{style.variable})", stroke_dasharray=dashes)
        items.append(h("li", h("svg", piece, viewBox="0 0 40 10", aria_hidden="true"), style.label))
    return h("ul", items, class_="legend")


def curves(results: Results) -> Html:
    """Show held-out bits per byte of every language over the whole stream."""
    figures = []
    for index, code in enumerate(results["languages"]):
        name = language_name(code)
        numbers = h("details", h("summary", f"{name} as numbers"), _curve_table(results, code))
        picture = Html(plots.language_plot(results, index))
        figures.append(h("figure", h("figcaption", h("h3", name)), picture, numbers))
    text = (
        "Bits per byte is how many bits a model needs, on average, for one byte of text it has never seen: "
        "lower is better. One panel per language, the same scale in all; shaded, the stage in which that "
        f"language is learned. {_start(results)}"
    )
    return _section("stream", "Every language, over the whole stream", text, legend(results), _grid(figures))


def _start(results: Results) -> str:
    """Say where lines that enter from above come from."""
    runs = list(results["runs"].values())
    highest = max(max(point["bits_per_byte"].values()) for run in runs for point in run["curve"])
    if highest <= plots.axis_range(runs)[1]:
        return ""
    return f"Lines that enter from above start at up to {highest:.1f}."


def _curve_table(results: Results, code: str) -> Html:
    """Show one language's curves as numbers, thinned where there are many evaluations."""
    styles, stages = run_styles(results["runs"]), {}
    values: dict[int, dict[str, float]] = {}
    for run in styles:
        for point in results["runs"][run]["curve"]:
            stages[point["tokens"]] = point["stage"]
            values.setdefault(point["tokens"], {})[run] = point["bits_per_byte"][code]
    tokens = sorted(values)
    shown = readings.thin(tokens, _TABLE_ROWS)
    note = "" if len(shown) == len(tokens) else f", {len(shown)} of {len(tokens)} evaluations"
    names = [language_name(language) for language in results["languages"]]
    rows = [[f"{at:,}", names[stages[at]], *(number(values[at].get(run)) for run in styles)] for at in shown]
    header = ["tokens", "learning", *(style.short for style in styles.values())]
    return table(f"Bits per byte of {language_name(code)}{note}", header, rows, class_="numbers")


def matched(results: Results) -> Html:
    """Show what each run had lost when all had learned the new language equally well."""
    rows = readings.matched_rows(results)
    if not rows:
        return Html()
    styles = run_styles(results["runs"])
    most = max((value for row in rows for value in row["rise"].values()), default=0.0)
    cells = []
    for row in rows:
        name = f"{language_name(row['old'])}, learning {language_name(row['new'])}"
        rises = (_bar(row["rise"].get(run), most, style.variable) for run, style in styles.items())
        cells.append(
            [name, f"{row['at']:.2f}", *rises, number(row.get("ratio")), number(row.get("ratio_in_stage"))]
        )
    header = ["lost of", "at", *(style.short for style in styles.values()), "ratio", "in stage"]
    text = (
        "A model that learns little forgets little, and that earns nothing here. Each row waits until every "
        "run is equally good at the new language (at the level where the worst of them ends, in the column "
        "“at”) and then asks what the old one has lost since it was learned, in bits per byte. The ratio "
        "divides Hope with levels by the same Hope trained the ordinary way: below 1, levels kept more. The "
        "last column is the same ratio for what was lost in this stage alone."
    )
    body = table("Bits per byte lost at equal learning", header, cells, class_="numbers")
    return _section("matched", "What was lost, at equal learning", text, body)


def _bar(value: float | None, most: float, variable: str) -> Html | str:
    """Show a loss as a number over a bar."""
    if value is None:
        return number(value)
    share = max(0.0, min(1.0, value / most)) if most > 0 else 0.0
    style = f"width:{share:.0%};background:var(--{variable})"
    return h("td", signed(value), h("span", h("span", style=style), class_="bar", aria_hidden="true"))


def matrices(results: Results) -> Html:
    """Show every language after every stage, one table per run, coloured by what was lost."""
    runs, styles, stages = results["runs"], run_styles(results["runs"]), range(len(results["languages"]))
    since = [r["matrix"][i][j] - r["matrix"][j][j] for r in runs.values() for i in stages for j in range(i)]
    most = max((abs(value) for value in since), default=0.0)
    forgetting = readings.forgetting(results)
    blocks = []
    for run, style in styles.items():
        text = f"Mean loss of the earlier languages at the end: {signed(forgetting[run])}." if since else ""
        body = _matrix(results, runs[run], most, style.label)
        blocks.append(h("div", h("h3", style.label), body, h("p", text)))
    text = (
        "Rows are moments, columns are languages. The small number is the change since the language was "
        "learned: the warmer, the more was lost; blue, it got better. Grey languages were not learned yet."
    )
    return _section("matrix", "Language by stage", text, _grid(blocks, roomy=len(stages) > 3))


def _matrix(results: Results, run: Run, most: float, label: str) -> Html:
    """Make one run's table."""
    names = [language_name(code) for code in results["languages"]]
    rows = []
    for i, name in enumerate(names):
        cells = []
        for j, value in enumerate(run["matrix"][i]):
            change = value - run["matrix"][j][j]
            share = min(1.0, abs(change) / most) if most > 0 else 0.0
            tone = "loss" if change > 0 else "gain"
            style = f"background:rgb(var(--{tone}) / {0.75 * share:.0%})" if j < i else None
            note = "not yet" if j > i else "learned" if j == i else signed(change)
            kind = "ahead" if j > i else "own" if j == i else None
            cells.append(h("td", f"{value:.2f}", h("small", note), class_=kind, style=style))
        rows.append([f"after {name}", *cells])
    caption = f"{label}: bits per byte of each language after each stage"
    corner = h("span", "stage", class_="hidden")
    return table(caption, [corner, *names], rows, class_="heat", hidden_caption=True)


def trade(results: Results) -> Html:
    """Show learning against forgetting, one path per run."""
    rows = readings.matched_rows(results)
    if not rows:
        return Html()
    figures = []
    for index, row in enumerate(rows):
        title = f"{language_name(row['old'])} while learning {language_name(row['new'])}"
        picture = Html(plots.trade_plot(results, row, f"trade-{index}"))
        figures.append(h("figure", h("figcaption", h("h3", title)), picture))
    text = (
        "Each path is one run through one stage: to the right it learns the new language, upwards it loses "
        "the old one. A run that forgets less only because it learns less stays on the others’ path and "
        "stops early; one that really keeps more runs below them. Circles mark the comparison made above."
    )
    return _section("trade", "Learning against forgetting", text, legend(results), _grid(figures))


def levels(results: Results) -> Html:
    """Show when each level updated."""
    runs, styles = results["runs"], run_styles(results["runs"])
    with_levels = [run for run in styles if runs[run].get("levels")]
    if not with_levels:
        return Html()
    blocks: list[Html] = []
    for index, run in enumerate(with_levels):
        label = f"When each level of {styles[run].label} updated"
        picture = scroll(label, h("div", Html(plots.level_plot(results, run, f"levels-{index}"))))
        blocks += [h("h3", styles[run].label), h("figure", picture, class_="lanes"), _level_table(runs[run])]
    others = [styles[run].label for run in styles if run not in with_levels]
    text = (
        "A level is a set of weights with its own clock: it gathers gradients over its period and is the "
        "same to the bit in between. Each mark is one update."
    )
    if others:
        text += f" {join_words(others)}: every weight at every step."
    return _section("levels", "When each level updated", text, blocks)


def _level_table(run: Run) -> Html:
    """Make the table beside a plot of levels."""
    updates = run.get("updates") or {}
    rows = [
        [
            level["name"],
            f"{level['period']:,}",
            f"{len(updates.get(level['name'], [])):,}",
            number(level.get("lr"), "g"),
            "yes" if level.get("consolidate") else "no",
            number(level.get("params"), ",.0f"),
        ]
        for level in run.get("levels") or []
    ]
    commits, note = run.get("commits") or [], ""
    if commits:
        rest = f" and {len(commits) - _COMMITS} times more" if len(commits) > _COMMITS else ""
        note = f"Key memories were committed at {', '.join(map(compact, commits[:_COMMITS]))} tokens{rest}."
    header = ["level", "period, tokens", "updates", "learning rate", "consolidated", "parameters"]
    return h("div", table("Levels", header, rows, class_="numbers", hidden_caption=True), h("p", note))


def first_language(results: Results) -> Html:
    """Compare the runs honestly before the stream first moves on."""
    first, styles = readings.first_language(results), run_styles(results["runs"])
    name = language_name(first.language)
    rows = [
        [
            style.short,
            f"{first.bits_per_byte[run]:.3f}",
            f"{signed(100 * first.excess[run], 1)}%" if run in first.excess else number(None),
            f"{results['runs'][run]['params']:,}",
            f"{readings.stage_ends(results['runs'][run], 1)[0]:,}",
        ]
        for run, style in styles.items()
    ]
    header = ["", "bits per byte", "against Transformer", "parameters", "tokens"]
    body = table(f"{name} at the end of its stage", header, rows, class_="numbers")
    figure = h("figure", Html(plots.first_language_plot(results)))
    title = f"How well {name} was learned in the first place"
    text = f"Keeping {name} is worth little if it was learned badly. "
    text += sentences.first_language_sentence(results)
    return _section("first", title, text, legend(results), h("div", figure, body, class_="beside"))


def _grid(items: Sequence[Html], *, roomy: bool = False) -> Html:
    return h("div", items, class_=f"grid of-{min(len(items), 3)}{' roomy' if roomy else ''}")


def _section(key: str, title: str, text: str, *content: Content) -> Html:
    """Make a section under a heading."""
    heading = f"{key}-heading"
    return h("section", h("h2", title, id=heading), h("p", text), content, aria_labelledby=heading)
