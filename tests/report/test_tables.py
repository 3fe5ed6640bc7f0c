import math

from chexseg_jax.report.tables import interval, latex, markdown, number


def test_markdown_lines_up():
    assert markdown(["task", "IoU"], [["Edema", "0.5"], ["Lung Lesion", "-"]]) == [
        "| task        | IoU |",
        "| ----------- | --: |",
        "| Edema       | 0.5 |",
        "| Lung Lesion |   - |",
    ]


def test_numbers_and_dashes():
    assert [number(0.25), number(0.256, 1), number(None), number(math.nan)] == ["0.250", "0.3", "-", "-"]
    assert interval(0.27, 0.25, 0.29) == "0.270 [0.250, 0.290]"
    assert interval(0.27, math.nan, math.nan) == "0.270"
    assert interval(math.nan, 0.1, 0.2) == "-"


def test_latex_escapes_what_it_would_read_as_its_own():
    lines = latex(["name", "share"], [["a_b & c", "57.2 %"], ["**mean**", r"\~^"]], below="50 %")
    assert lines[0] == r"\begin{tabular}{lr}"
    assert lines[4:6] == [
        r"a\_b \& c & 57.2 \% \\",
        r"\textbf{mean} & \textbackslash{}\textasciitilde{}\textasciicircum{} \\",
    ]
    assert lines[-3:] == [r"\multicolumn{2}{l}{50 \%} \\", r"\bottomrule", r"\end{tabular}"]
