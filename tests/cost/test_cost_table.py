"""In: rows of text. Out: that a table shows them as they are, at any length, right-set where asked."""

from separable.cost import draw_table


def test_text_is_shown_as_it_is_whatever_it_looks_like() -> None:
    text = draw_table(["name"], [["[bold]layer[/bold]"], ["a" * 300], [":smile:"]])
    assert "[bold]layer[/bold]" in text
    assert "a" * 300 in text
    assert ":smile:" in text


def test_numbers_are_set_to_the_right_and_lines_end_where_their_text_ends() -> None:
    lines = draw_table(["name", ">size"], [["a", "1"], ["b", "1,000"]], title="Sizes").splitlines()
    assert lines[0] == "Sizes"
    assert len(lines[3]) == len(lines[4]) == len(lines[2]) - 1
    assert all(line == line.rstrip() for line in lines)


def test_a_table_without_rows_has_its_head() -> None:
    assert draw_table(["name"], []).splitlines()[0] == " name"
