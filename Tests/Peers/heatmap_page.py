"""Opens a heatmap page in Chromium and compares it with the report's JSON. Fails with what differs. Tasks that are joined
by a comma share a browser.

    heatmap_page.py look PAGE.html GRID.json     table, requests, accessibility, in four forms
    heatmap_page.py use PAGE.html GRID.json      keys, pointer, quantiles, windows, exports
    heatmap_page.py compare PAGE.html GRIDS.json marks of a comparison, for other quantiles and windows too
    heatmap_page.py plain PAGE.html…             accessibility and requests of pages without a script
    heatmap_page.py windows PAGE.html GRID.csv   the canvas of each window, against the CSV of the same grid
"""

import csv
import io
import json
import os
import re
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from browser import Browser  # noqa: E402

CHROMIUM = next((p for p in ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
                 if os.access(p, os.X_OK)), "chromium")
TABLE = """[...document.querySelectorAll('#table tr')].map(row => [...row.cells].map(cell => cell.textContent))"""
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def milliseconds(ns):
    """As a person reads it: two digits below ten, whole numbers, then larger units."""
    value = ns / 1e6
    if value < 0.995:
        return f"{value:.2f}"
    if value < 9.95:
        return f"{value:.1f}"
    text = str(int(value + 0.5))
    for unit, length in [("s", 1e3), ("m", 6e4), ("h", 36e5), ("d", 864e5), ("y", 315576e5)]:
        if len(text) <= 5:
            break
        text = str(int(value / length + 0.5)) + unit
    return text


def label(cell):
    if cell is None:
        return "·"
    mark = "*" if cell["state"] == "revised" else ""
    if cell["count"] < 20:
        return "--" + mark
    mark = {"slower": "▲", "faster": "▼"}.get(cell.get("change", {}).get("verdict"), "") + mark
    return ("~" if cell["count"] < 59 else "") + milliseconds(cell["value_ns"]) + " " + cell["level"][0].upper() + mark


def expected(grid):
    return [[CONTROL.sub("\ufffd", g["group"])] + [label(c) for c in g["cells"]] + [label(g["total"])] for g in grid["groups"]]


def read_axe():
    with open(os.path.join(os.path.dirname(__import__("axe_playwright_python").__file__), "axe.min.js")) as file:
        return file.read()


def check_axe(view, axe, form):
    view.run(axe + "; 0")
    found = view.run("axe.run().then(r => r.violations.map(v => v.id + ': ' + v.nodes[0].html + v.nodes[0].failureSummary))")
    assert found == [], (form, found)


def plain(browser, pages):
    axe = read_axe()
    for page in pages:
        for width, dark in [(1440, False), (390, True)]:
            view = browser.open(page, width=width, dark=dark)
            assert view.requests() == [page] and view.errors() == [], (page, view.requests(), view.errors())
            wide = view.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, (page, "the page is wider than the window", wide)
            check_axe(view, axe, (page, width, dark))


def look(browser, page, grid):
    axe = read_axe()
    for width, dark, script in [(1440, False, True), (390, True, True), (1440, True, False), (390, False, False)]:
        view = browser.open(page, width=width, dark=dark, script=script)
        form = f"{width} dark={dark} script={script}"
        rows = view.run(TABLE)[1:]
        wanted = expected(grid)
        assert [r[:len(wanted[0])] for r in rows] == wanted, (form, rows, wanted)
        assert view.errors() == [], (form, view.errors())
        assert view.requests() == [page], (form, view.requests())
        wide = view.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, (form, "the page is wider than the window", wide)
        assert view.run("window.pwned") is None
        if script:
            open_cell(view)
            check_axe(view, axe, form)


def open_cell(view):
    view.run("document.querySelector('#table tbody td:not(.none)').click()")
    assert view.run("document.getElementById('panel').hidden") is False


def choose(view, name, value):
    view.run(f"""(s => {{ s.value = {json.dumps(value)}; s.dispatchEvent(new Event('change')); }})(
        [...document.querySelectorAll('#tools label')].find(l => l.textContent.startsWith('{name}')).querySelector('select'))""")


def compare(browser, page, grids):
    """The engine's verdicts on each question are the page's, which has the answer to the first one only."""
    def marks(rows, columns):
        return [[row[0]] + [re.sub("[^▲▼]", "", cell) for cell in row[1:columns]] for row in rows]
    view = browser.open(page)
    for question in ["asked", "median", "longer", "zone"]:
        grid = grids[question]
        wanted = expected(grid)
        columns = len(wanted[0])
        if question == "median":
            choose(view, "Quantile", "0.5")
        if question == "longer":
            choose(view, "Quantile", str(grid["quantile"]))
            choose(view, "Window", str(grid["window_seconds"]))
        if question == "zone":
            choose(view, "Window", str(grid["window_seconds"]))
            choose(view, "Zone", "UTC")
        found = marks(view.run(TABLE)[1:], columns)
        assert found == marks(wanted, columns), (question, found, marks(wanted, columns))
        assert "▲" in "".join(sum(found, [])), (question, found)
    choose(view, "Quantile", str(grids["asked"]["quantile"]))
    row, place, cell = next(
        (row, place, cell) for row, group in enumerate(grids["asked"]["groups"])
        for place, cell in enumerate(group["cells"]) if cell and cell["change"]["verdict"] == "slower")
    choose(view, "Window", str(grids["asked"]["window_seconds"]))
    view.run(f"document.querySelector('#table tbody').rows[{row}].cells[{place + 1}].click()")
    text = view.run("document.getElementById('panel').innerText")
    assert f"against {grids['asked']['compared_with']}" in text and "slower for sure" in text, text
    assert f"{milliseconds(cell['change']['baseline_ns'])} ms of n={cell['change']['baseline_count']:,}" in text, (text, cell)
    assert view.errors() == [], view.errors()


def use(browser, page, grid):
    view = browser.open(page)
    focused = "document.activeElement.parentNode.sectionRowIndex + ',' + document.activeElement.cellIndex"
    # Tab reaches the grid once; arrows walk in it; Enter opens, Escape closes and comes back.
    view.run("document.getElementById('scroll').focus()")
    view.key("Tab")
    assert view.run(focused) == "0,1", view.run(focused)
    for key in ["ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowLeft", "ArrowUp"]:
        view.key(key)
    assert view.run(focused) == "1,1", view.run(focused)
    view.key("End")
    total = len(grid["windows"]) + 1
    assert view.run(focused) == f"1,{total}", view.run(focused)
    view.key("Enter")
    text = view.run("document.getElementById('panel').innerText")
    cell = grid["groups"][1]["total"]
    assert f"n={cell['count']:,}" in text and milliseconds(cell["max_ns"]) in text, text
    for stage in cell["stages"]:
        assert f"{stage['stage']} {stage['percent']} %" in text, text
    if cell.get("confidence_95_ns"):
        assert f"{milliseconds(cell['confidence_95_ns'][0])} ms – {milliseconds(cell['confidence_95_ns'][1])} ms" in text, (text, cell)
    links = view.run("[...document.querySelectorAll('#panel .traces a')].map(a => a.href)")
    assert links == [f"https://jaeger.example/trace/{id}" for id in cell["trace_ids"][:3]], (links, cell)
    view.key("Escape")
    assert view.run("document.getElementById('panel').hidden") is True and view.run(focused) == f"1,{total}"
    # The pointer shows the same in short.
    box = view.run("(b => [b.x + 5, b.y + 5])(document.activeElement.getBoundingClientRect())")
    view.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    tip = view.run("document.getElementById('tip').textContent")
    assert grid["groups"][1]["group"] in tip and f"n={cell['count']:,}" in tip, tip

    # Another quantile, from the embedded sketches: to within what the report says of its own figures.
    for name, key in [("0.5", "p50_ns"), ("0.99", "p99_ns")]:
        choose(view, "Quantile", name)
        for row, group in zip(view.run(TABLE)[1:], grid["groups"], strict=True):
            for shown, cell in zip(row[1:], group["cells"] + [group["total"]]):
                if cell is None or cell["count"] < 20:
                    assert shown in ("·", "--", "--*"), shown
                    continue
                value = float(re.match(r"~?([\d.]+)", shown).group(1))
                assert abs(value * 1e6 - cell[key]) <= 0.0055 * cell[key] + 0.51e6, (shown, cell)
    choose(view, "Quantile", str(grid["quantile"]))
    assert [r[:total + 1] for r in view.run(TABLE)[1:]] == expected(grid)

    # Exports hold what is shown; longer windows lose nothing.
    with tempfile.TemporaryDirectory() as directory:
        browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=directory)

        def export(kind):
            view.run(f"[...document.querySelectorAll('#tools button')].find(b => b.textContent === '{kind}').click()")
            path = os.path.join(directory, "heatmap." + kind.lower())
            view.until(lambda: os.path.exists(path) and os.path.getsize(path) > 0, f"{kind} is saved")
            with open(path, "rb") as file:
                content = file.read()
            os.remove(path)
            return content

        def counted(content):
            rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
            assert all(r["device_group"][:1] not in tuple("=+-@") for r in rows)
            return sum(int(r["count"]) for r in rows), {(r["window_start"], r["window_end"]) for r in rows}

        count, windows = counted(export("CSV"))
        assert count == grid["count"], (count, grid["count"])
        assert windows == {(w["start"], w["end"]) for w in grid["windows"]}, windows
        lengths = view.run("""[...[...document.querySelectorAll('#tools label')].find(l => l.textContent.startsWith('Window'))
            .querySelectorAll('option')].map(o => o.value)""")
        choose(view, "Window", lengths[-1])
        count, joined = counted(export("CSV"))
        assert count == grid["count"] and len(joined) < len(windows), (count, joined)
        assert export("PNG").startswith(b"\x89PNG")
        drawing = ElementTree.fromstring(export("SVG"))
        words = "".join(drawing.itertext())
        assert grid["groups"][0]["group"] in words and "% of a window’s latencies are at most this" in words, words
        # What is written last is on top: no figure lies below a rectangle of a cell.
        kinds = [part.tag.split("}")[1] for part in drawing]
        figures = [part.text for part in drawing if re.match(r"~?[\d.]+ [GYOR]", part.text or "")]
        assert len(figures) >= len(grid["groups"]), figures
        for at, part in enumerate(drawing):
            if kinds[at] != "text" or part.text not in figures:
                continue
            x, y = float(part.get("x")) - 3, float(part.get("y")) - 3
            over = [r for r in list(drawing)[at:] if r.tag.endswith("rect") and float(r.get("x")) < x < float(r.get("x"))
                    + float(r.get("width")) and float(r.get("y")) < y < float(r.get("y")) + float(r.get("height"))]
            assert not over, (part.text, over[0].attrib)
    choose(view, "Zone", "UTC")
    choose(view, "Order", "slowest")
    slowest = max(grid["groups"], key=lambda g: g["total"]["value_ns"])["group"]
    assert view.run(TABLE)[1][0] == slowest
    assert view.errors() == [], view.errors()
    assert all(r == page or r.startswith("blob:") for r in view.requests()), view.requests()


def windows(browser, page, table):
    wanted = {(r["window_start"], r["device_group"]): r for r in csv.DictReader(io.StringIO(table, newline=""))}
    view = browser.open(page)
    assert view.run("document.getElementById('fine').hidden") is False
    colours = view.run("""(c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size)(
        document.getElementById('canvas'))""")
    assert colours > 8, "nothing is drawn"
    with tempfile.TemporaryDirectory() as directory:
        browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=directory)
        view.run("[...document.querySelectorAll('#tools button')].find(b => b.textContent === 'CSV').click()")
        path = os.path.join(directory, "heatmap.csv")
        view.until(lambda: os.path.exists(path) and os.path.getsize(path) > 0, "CSV is saved")
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    assert len(rows) == len(wanted), (len(rows), len(wanted))
    for row in rows:
        true = wanted[row["window_start"], row["device_group"]]
        count, shown = int(true["count"]), int(row["count"])
        # Counts in steps, but never over one of the limits of honesty; levels exactly.
        assert (count < 20, count < 59) == (shown < 20, shown < 59) and abs(count - shown) <= count / 4, (row, true)
        if count >= 20:
            assert row["level"] == true["level"], (row, true)
    # Keys walk on the canvas too, and say where they are.
    view.run("document.getElementById('canvas').focus()")
    view.key("ArrowDown")
    assert rows[0]["device_group"] not in view.run("document.getElementById('said').textContent")
    view.key("Enter")
    assert "From here on" in view.run("document.getElementById('panel').innerText")
    assert view.errors() == [], view.errors()
    print(view.run("document.documentElement.dataset.drawn"), file=sys.stderr)


def main():
    if sys.argv[1] == "plain":
        with Browser(CHROMIUM) as browser:
            plain(browser, ["file://" + page for page in sys.argv[2:]])
        print("ok")
        return
    _, task, page, table = sys.argv
    with open(table, newline="") as file:
        content = file.read()
    with Browser(CHROMIUM) as browser:
        address = "file://" + page
        for one in task.split(","):
            if one == "windows":
                windows(browser, address, content)
                continue
            grid = json.loads(content)
            if one == "look":
                grid = grid.get("asked", grid)
            {"look": look, "use": use, "compare": compare}[one](browser, address, grid)
    print("ok")


main()
