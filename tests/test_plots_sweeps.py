"""The Pareto figure shows every record and joins those that no other beats."""

from itertools import pairwise

import pytest
from matplotlib.colors import to_rgb

from tensornet_interp.plots import curves, dots, pareto


def record(method, parameters, relative_error, **more):
    return {"method": method, "options": {}, "parameters": parameters, "relative_error": relative_error, **more}


RECORDS = [
    record("cp", 100, 0.5),
    record("cp", 1000, 0.05),
    record("eigen", 100, 0.8),
    record("eigen", 400, 0.5),  # as good as a smaller one
    record("eigen", 2000, 0.01, cosine=0.9),
    {"method": "cp", "options": {}, "error": "ValueError: no"},
    record("cp", 10, float("nan")),
]


def lines(figure):
    return {line.get_label(): [list(line.get_xdata()), list(line.get_ydata())] for line in figure.axes[0].lines}


def test_the_front_is_what_no_record_beats():
    figure = pareto(RECORDS)
    assert lines(figure)["Pareto front"] == [[100, 1000, 2000], [0.5, 0.05, 0.01]]
    axes = figure.axes[0]
    shown = {points.get_label(): points.get_offsets().tolist() for points in axes.collections}
    assert shown == {"cp": [[100, 0.5], [1000, 0.05]], "eigen": [[100, 0.8], [400, 0.5], [2000, 0.01]]}
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("parameters", "relative error")
    assert figure.get_suptitle().startswith("2 records without")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["Pareto front", "cp", "eigen"]


@pytest.mark.parametrize(("methods", "inside"), [(10, True), (11, False)])
def test_a_legend_of_more_lines_than_half_of_the_axes_has_is_below(methods, inside):
    # axes 3.465 inches high have room for 24 lines of 8 points, so half of them for 12: front, methods and a title
    figure = pareto([record(f"m{i}", 10 * (i + 1), 0.5) for i in range(methods)])
    assert (figure.axes[0].get_legend() is not None) is inside
    assert len(figure.legends) == (not inside)


def test_larger_may_be_better():
    rows = [record("cp", x, 0, cosine=y) for x, y in ((10, 0.05), (20, 0.04), (30, 0.9))]
    figure = pareto(rows, y="cosine", maximize=True)
    assert lines(figure)["Pareto front"] == [[10, 30], [0.05, 0.9]]
    assert figure.axes[0].get_yscale() == "linear"
    assert figure.get_suptitle() == ""


def test_options_are_fields_too():
    rows = [record("cp", 10, 0.5) | {"options": {"rank": rank}} for rank in (1, 2)]
    figure = pareto(rows, x="rank", by="rank")
    assert [points.get_label() for points in figure.axes[0].collections] == ["1", "2"]


def test_zero_is_never_on_a_logarithmic_axis():
    figure = pareto([record("cp", 10, 0.0), record("cp", 1000, 1.0)])
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == ("log", "linear")


@pytest.mark.parametrize("rows", [[], RECORDS[5:]])
def test_nothing_to_show_is_an_error(rows):
    with pytest.raises(ValueError, match="no record has finite numbers for both x='parameters' and y='relative_error'"):
        pareto(rows)


STRENGTHS = [record("cp", 10, 0.1, cosine=0.9 - s, options={"strength": s}) for s in (0.3, 0.01, 0.1)]


def test_curves_have_a_panel_a_field_and_a_line_a_group():
    rows = [*STRENGTHS, record("eigen", 10, 0.2, options={"strength": 1.0})]  # no cosine: not in that panel
    figure = curves(rows, "strength", ["relative_error", "cosine"], by="method", whole={"cosine": 0.95})
    first, second = figure.axes
    drawn = {line.get_label(): [list(line.get_xdata()), list(line.get_ydata())] for line in first.lines}
    assert drawn == {"cp": [[0.01, 0.1, 0.3], [0.1] * 3], "eigen": [[1.0], [0.2]]}
    reference, line = second.lines
    assert (reference.get_label(), set(reference.get_ydata())) == ("reference", {0.95})
    assert list(line.get_ydata()) == pytest.approx([0.89, 0.8, 0.6])
    assert (first.get_xscale(), first.get_yscale()) == ("log", "linear")
    assert (first.get_xlabel(), first.get_ylabel()) == ("strength", "relative error")
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["cp", "eigen"]


def test_the_legend_is_on_the_first_panel_that_has_all_lines():
    rows = [{"x": x, "some": x, "all": x, "by": name} for name in ("a", "b", "c") for x in (1, 2)]
    rows = [row if row["by"] != "c" else row | {"some": None} for row in rows]
    first, second, third = curves(rows, "x", ["some", "all", "all"], by="by").axes
    assert (len(first.lines), len(second.lines)) == (2, 3)
    assert [text.get_text() for text in second.get_legend().get_texts()] == ["a", "b", "c"]
    assert first.get_legend() is None is third.get_legend()


def test_a_single_curve_needs_no_legend():
    figure = curves(STRENGTHS[1:], "strength", ["cosine"])
    assert figure.axes[0].get_legend() is None
    assert figure.axes[0].get_xscale() == "linear"  # a factor 10 is not more than a factor 10


def test_a_long_curve_has_no_markers():
    rows = [{"x": float(i), "y": float(i % 7)} for i in range(500)]
    (line,) = curves(rows, "x", ["y"]).axes[0].lines
    assert line.get_marker() in ("None", "")
    assert len(line.get_xdata()) == 500


def test_curves_of_nothing_are_errors():
    with pytest.raises(ValueError, match="no record has finite numbers for both x='strength' and y='accuracy'"):
        curves(STRENGTHS, "strength", ["cosine", "accuracy"])
    with pytest.raises(ValueError, match="y is empty: name the fields to draw"):
        curves(STRENGTHS, "strength", [])
    with pytest.raises(TypeError, match=r"y must be a list of fields, as \['cosine'\], got 'cosine'"):
        curves(STRENGTHS, "strength", "cosine")


SETTINGS = [
    {"gate": "none", "accuracy": 0.97, "accuracy_low": 0.96, "accuracy_high": 0.98, "gap": -0.1},
    {"gate": "relu", "accuracy": 0.99, "gap": 0.2},
    {"gate": "silu", "accuracy": 0.95, "gap": float("nan")},
]


def test_dots_show_every_record_with_its_interval():
    figure = dots(SETTINGS, ["accuracy", "gap"], "gate", title="digits")
    first, second = figure.axes
    assert first.lines[0].get_xydata().tolist() == [[0.97, 0], [0.99, 1], [0.95, 2]]
    assert second.lines[0].get_xydata().tolist() == [[-0.1, 0], [0.2, 1]]
    (interval,) = first.collections[0].get_segments()
    assert interval.tolist() == [[0.96, 0], [0.98, 0]]
    assert second.collections[0].get_segments() == []
    assert [text.get_text() for text in first.get_yticklabels()] == ["none", "relu", "silu"]
    assert first.get_ylim() == second.get_ylim() == (2.5, -0.5)  # the first record on top
    assert (first.get_xlabel(), figure.get_suptitle()) == ("accuracy", "digits")


def test_dots_of_nothing_are_errors():
    with pytest.raises(ValueError, match="records is empty: there is nothing to draw"):
        dots([], ["gap"], "gate")
    with pytest.raises(ValueError, match="y is empty: name the fields to draw"):
        dots(SETTINGS, [], "gate")
    with pytest.raises(ValueError, match="no record has a finite number y='gap'"):
        dots(SETTINGS[2:], ["accuracy", "gap"], "gate")
    with pytest.raises(TypeError, match=r"y must be a list of fields, as \['gap'\], got 'gap'"):
        dots(SETTINGS, "gap", "gate")


def test_bands_lie_around_their_own_line():
    rows = [
        {"k": k, "kind": kind, "cosine": y, "low": y - 0.1, "high": y + 0.2}
        for kind, y in (("a", 0.5), ("b", 0.7))
        for k in (2, 1)
    ]
    rows.append({"k": 3, "kind": "a", "cosine": 0.4, "low": float("nan"), "high": 1.0})  # drawn without its band
    axes = curves(rows, "k", ["cosine"], by="kind", bands={"cosine": ("low", "high")}).axes[0]
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2, 3], [1, 2]]
    for band, line, y in zip(axes.collections, axes.lines, (0.5, 0.7), strict=True):
        box = band.get_paths()[0].get_extents()
        assert [box.x0, box.x1] == [1, 2]
        assert [box.y0, box.y1] == pytest.approx([y - 0.1, y + 0.2])
        assert tuple(band.get_facecolor()[0][:3]) == pytest.approx(to_rgb(line.get_color()))
    assert not curves(rows, "k", ["low"], by="kind", bands={"cosine": ("low", "high")}).axes[0].collections


def test_the_few_values_of_a_logarithmic_axis_are_named():
    records = [{"k": k, "loss": 1.0 / k} for k in (1, 2, 4, 8, 16, 32)]
    figure = curves(records, "k", ["loss"])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4", "8", "16", "32"]
    assert not any(label.get_text() for label in axes.get_xticklabels(minor=True))


def test_whole_numbers_have_whole_ticks() -> None:
    records = [{"rank": rank, "share": 0.5, "ridge": rank / 8} for rank in (4, 6, 8)]
    (ranks,) = curves(records, "rank", ["share"]).axes
    assert all(tick == int(tick) for tick in ranks.get_xticks())
    (ridges,) = curves(records, "ridge", ["share"]).axes
    assert any(tick != int(tick) for tick in ridges.get_xticks())


def test_wide_numbers_on_a_linear_axis_do_not_overlap():
    figure = curves([{"trained": 102_400 * 2**n, "loss": 1.0 / (n + 1)} for n in range(4)], "trained", ["loss"] * 3)
    figure.canvas.draw()
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        low, high = axes.get_window_extent().x0, axes.get_window_extent().x1
        shown = [box for box in boxes if low <= (box.x0 + box.x1) / 2 <= high]
        assert len(shown) > 2
        assert all(left.x1 < right.x0 for left, right in pairwise(shown))
