"""Checks LaTeX tables as far as possible without LaTeX."""

from __future__ import annotations

import re

ESCAPED = re.compile(r"\\[\\&%$#_{}]")


def check(text: str) -> list[list[str]]:
    """Return the cells of a table's rows; fail where LaTeX would."""
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    body = "\n".join(lines)
    plain = ESCAPED.sub("", body.replace("\\\\", "\n"))
    depth = 0
    for sign in plain:
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0, "a brace closes that was not opened"
    assert depth == 0, "a brace is left open"
    assert plain.count("$") % 2 == 0, "a formula is left open"
    assert not re.search(r"[#%~^\"]", plain), "a special sign stands bare"
    opened: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if what == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name, f"{name} ends out of turn"
    assert not opened, f"{opened} left open"
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", body)
    assert columns, "no columns"
    found = [row(line) for line in lines if line.endswith("\\\\")]
    for cells in found:
        assert len(cells) == len(columns[1]), f"{len(cells)} cells: {cells}"
    outside = [line for line in lines if not line.endswith("\\\\")]
    assert not re.search(r"[&_]", ESCAPED.sub("", "\n".join(outside))), "a bare sign outside"
    assert body.index(r"\toprule") < body.index(r"\midrule") < body.index(r"\bottomrule")
    return found


def row(line: str) -> list[str]:
    """Return the cells of a row; every & and _ in them must be escaped."""
    text = line.removesuffix("\\\\").strip()
    cells = re.split(r"(?<!\\)&", text)
    for cell in cells:
        assert "_" not in ESCAPED.sub("", cell), f"bare underscore: {cell}"
    return [cell.strip() for cell in cells]
