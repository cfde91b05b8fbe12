import Foundation
import TestSupport
import Testing

@testable import LatencyHeatmap

@Suite("Forms of the report")
struct ReportTests {
    /// Four minutes: full cells, a small sample, a very small one, an empty cell, a revised one, and wide names.
    private func fixedGrid() throws -> HeatmapGrid {
        let clock = TestClock(monday)
        let engine = try makeEngine(clock: clock)
        let cells: [(group: String, minute: UInt64, latencies: [UInt64], count: UInt64)] = [
            ("iOS-15+", 0, [217], 60), ("📱 🇩🇪 👩‍💻", 0, [12_345], 30), ("Android-12", 1, [8], 12_000),
            ("iOS-15+", 1, [188], 59),
            ("iOS-15+", 2, [142], 58), ("設備一号機", 2, [49, 50], 40), ("iOS-15+", 3, [91], 20),
            ("Android-12", 3, [44], 19),
        ]
        for cell in cells {
            clock.set(second: monday + cell.minute * 60 + 59)
            engine.record(cell.group, at: monday + cell.minute * 60, ms: cell.latencies, count: cell.count)
        }
        for (stage, latency) in [("gateway", UInt64(10)), ("stream", 41)] {
            engine.recordStagePart(
                stage: engine.stage(stage), group: engine.group("iOS-15+"), endUnixNano: (monday + 60) * second,
                latencyNano: latency * millisecond, count: 59)
        }
        clock.set(second: monday + 239)
        engine.record("iOS-15+", at: monday, ms: [217])
        return try engine.grid([("tz", "+08:00")])
    }

    // MARK: Text

    /// Hand-worked: of iOS-15+'s 198 the mean is 173.7 ms, less 10 and 41 in earlier stages 122.7 ms, 71 %.
    static let goldens = [
        60: """
        P95 push latency  2026-11-23 16:00–16:04 +08:00  window 1m
        n=12,327  late 0.01%  error ≤0.54%
        group         16:00   16:01   16:02   16:03       n
        Android-12     ·     8.0 G     ·      --        12k
        iOS-15+      217 R*  188 O  ~142 O   ~91 Y      198
        設備一号機     ·       ·      50 Y     ·         80
        📱 🇩🇪 👩‍💻    ~12s R     ·       ·       ·         30
        G<50  Y<100  O<200  R≥200 ms  ~ n<59  -- n<20  · none
        * revised

        """,
        80: """
        P95 push latency  2026-11-23 16:00–16:04 +08:00  window 1m  n=12,327  late 0.01%
        error ≤0.54%
        group         16:00   16:01   16:02   16:03       n  worst stage
        Android-12     ·     8.0 G     ·      --        12k
        iOS-15+      217 R*  188 O  ~142 O   ~91 Y      198  deliver 71%
        設備一号機     ·       ·      50 Y     ·         80
        📱 🇩🇪 👩‍💻    ~12s R     ·       ·       ·         30
        G<50  Y<100  O<200  R≥200 ms  ~ n<59  -- n<20  · none  * revised

        """,
        200: """
        P95 push latency  2026-11-23 16:00–16:04 +08:00  window 1m  n=12,327  late 0.01%  error ≤0.54%
        group         16:00   16:01   16:02   16:03       n  worst stage
        Android-12     ·     8.0 G     ·      --        12k
        iOS-15+      217 R*  188 O  ~142 O   ~91 Y      198  deliver 71%
        設備一号機     ·       ·      50 Y     ·         80
        📱 🇩🇪 👩‍💻    ~12s R     ·       ·       ·         30
        G<50  Y<100  O<200  R≥200 ms  ~ n<59  -- n<20  · none  * revised

        """,
    ]

    @Test("the text is this for a terminal of 60, 80 and 200 columns", arguments: [60, 80, 200])
    func golden(width: Int) throws {
        #expect(HeatmapText.render(try fixedGrid(), width: width) == Self.goldens[width])
    }

    /// Columns by Unicode's own tables: wide and full-width characters and emoji sequences take two (UAX #11), marks and
    /// format characters none. Reads {width: text} and fails when a line is too long or a column out of line.
    static let columnsProgram = """
        import json, sys, unicodedata as u
        def columns(text):
            out, joined = [], False
            for c in text:
                o = ord(c)
                if o == 0x200D: joined = True; continue
                if o == 0xFE0F and out and out[-1] not in ('', ' '): out.append('')
                if joined or 0x1F3FB <= o <= 0x1F3FF: joined = False; continue
                if u.category(c) in ('Mn', 'Me', 'Cf') or 0x1160 <= o <= 0x11FF: continue
                out.append(c)
                if u.east_asian_width(c) in 'WF': out.append('')
            return out
        for width, text in json.load(sys.stdin):
            assert text.endswith('\\n')
            for c in text:
                assert c == '\\n' or u.category(c) not in ('Cc', 'Zl', 'Zp', 'Cs'), repr(c)
                assert not 0x202A <= ord(c) <= 0x202E and not 0x2066 <= ord(c) <= 0x2069, repr(c)
            lines = text[:-1].split('\\n')
            for line in lines:
                assert len(columns(line)) <= width, (width, len(columns(line)), line)
                assert line == line.rstrip(), line
            head = next((i for i, l in enumerate(lines) if l.startswith('group ')), None)
            if head is None: continue
            header = lines[head]
            foot = next(i for i, l in enumerate(lines) if i > head and l.startswith('G<'))
            stages = header.find('  worst stage')
            end = stages if stages > 0 else len(header)
            assert header[end - 1] == 'n'
            ends = [i + 1 for i in range(end - 8) if header[i] != ' ' and header[i + 1] == ' ' and i > 5]
            for line in lines[head + 1:foot]:
                at = columns(line)
                assert at[end - 1] != ' ' and ' ' not in at[end - 1], line
                assert len(at) == end or at[end] == ' ', (end, line)
                for e in ends:
                    assert at[e - 2] in 'GYOR ', (e, line)
                    assert at[e - 1] in '* ', (e, line)
                    assert at[e - 9] in '* ', (e, line)
        print('ok')
        """

    private func check(_ texts: [(Int, String)]) throws {
        let input = try JSONSerialization.data(withJSONObject: texts.map { [$0.0, $0.1] as [Any] })
        #expect(try Peers.python(Self.columnsProgram, input: input).text == "ok\n")
    }

    @Test("columns stay in line and lines within the width, whatever the script of the names")
    func columns() throws {
        let grid = try fixedGrid()
        try check([40, 47, 60, 79, 80, 81, 120, 200].map { ($0, HeatmapText.render(grid, width: $0)) })
    }

    @Test("columns stay in line whatever the figures", arguments: [UInt64(1), 20, 58, 59, 1_000, 9_999_999, .max])
    func extremes(count: UInt64) throws {
        let engine = try makeEngine()
        let latencies: [UInt64] =
            (0..<20).map { Self.powers[$0] } + [.max, 99_999_499_999, 99_999_500_000, 9_999_500_000]
        for (number, latency) in latencies.enumerated() {
            engine.record(
                stage: engine.stage("deliver"), group: engine.group("group \(number)"), endUnixNano: monday * second,
                latencyNano: latency, count: count)
        }
        for items in [[], [("levels", "1d,999d,9999d")], [("quantile", "99.9999")]] as [[(name: String, value: String)]]
        {
            let grid = try engine.grid(items)
            try check([40, 60, 80].map { ($0, HeatmapText.render(grid, width: $0)) })
        }
    }

    static let powers: [UInt64] = (0..<20).map { (0..<$0).reduce(UInt64(1)) { power, _ in power * 10 } }

    static let hostileNames = [
        "\u{1B}[31mred\u{1B}[0m", "a\r\nb", "line\nbreak", "\rreturn", "\u{202E}evil\u{202C}", "x\u{2066}y\u{2069}",
        "tab\there",
        "nul\u{0}", "\u{7F}\u{85}\u{9B}31m", "\u{2028}\u{2029}", "<script>alert(1)</script>", "\" onmouseover=\"x()",
        "&amp;'<!--",
        "]]></style>", "=cmd|' /C calc'!A0", "+1", "-1", "@x", "\tx", "a,b", "quote\"q\"", "mark\"\u{301},=1+1",
        "'single",
        "＝1", "\u{FEFF}bom", "é\u{301}\u{302}", "हिन्दी", "한국어", "\u{1112}\u{1161}\u{11AB}", "👨‍👩‍👧‍👦👍🏽", "❤", "​zero",
        String(repeating: "語", count: 42), "", " ", "\\back\\slash", "(other)", "עברית", "😀",
    ]

    private func hostileGrid() throws -> HeatmapGrid {
        let engine = try makeEngine()
        for (number, name) in Self.hostileNames.enumerated() {
            engine.record(name, at: monday, ms: [UInt64(number) + 1], count: 30)
            engine.record(name, at: monday + 120, ms: [5], count: 1)
        }
        return try engine.grid()
    }

    @Test("no name moves the cursor, turns the text around, or starts a line")
    func hostileNames() throws {
        let grid = try hostileGrid()
        try check([40, 60, 80, 200].map { ($0, HeatmapText.render(grid, width: $0)) })
        let coloured = HeatmapText.render(grid, width: 80, style: .ansi)
        // Each cell of 30 has one colour and its end, and there is no other escape.
        #expect(coloured.unicodeScalars.count { $0 == "\u{1B}" } == 2 * grid.rows.count)
        #expect(
            coloured.split(separator: "\n").count == HeatmapText.render(grid, width: 80).split(separator: "\n").count)
    }

    @Test("no stage's name does either, and a long one does not widen the title")
    func hostileStages() throws {
        for stage in [
            "\u{1B}[2Jx\u{202E}", "a\nb", String(repeating: "long ", count: 30), String(repeating: "語", count: 60),
        ] {
            let engine = try makeEngine { $0.stageChain = ["gateway", stage] }
            engine.record("a", at: monday, ms: [30], stage: stage, count: 30)
            engine.record("a", at: monday, ms: [10], stage: "gateway", count: 30)
            let grid = try engine.grid([("stage", stage)])
            let none = try engine.grid([("stage", stage), ("since", "2026-11-24T00:00:00Z")])
            #expect(none.rows.isEmpty)
            for each in [grid, none] {
                try check([40, 60, 80, 200].map { ($0, HeatmapText.render(each, width: $0)) })
            }
        }
    }

    @Test(
        "columns of seconds, of days, and more windows than fit",
        arguments: [
            (1, 200, "1s"), (10, 30, "10s"), (3_600, 100, "1h"), (86_400, 40, "1d"),
        ])
    func lengths(length: UInt64, count: UInt64, window: String) throws {
        let engine = try makeEngine { $0.window = .seconds(length) }
        for number in 0..<count { engine.record("設備", at: monday + number * length, ms: [20], count: 100) }
        let grid = try engine.grid([("window", window), ("tz", "Asia/Kathmandu")])
        let texts = [40, 60, 80, 200].map { ($0, HeatmapText.render(grid, width: $0)) }
        try check(texts)
        // Windows that do not fit are joined; none is left out.
        #expect(texts[0].1.contains("are joined to fit"))
        #expect(texts.allSatisfy { $0.1.contains("n=\(Figures.grouped(count * 100))") })
    }

    @Test("styles differ in marks only: without them the text is the same")
    func styles() throws {
        let grid = try fixedGrid()
        let plain = HeatmapText.render(grid, width: 120)
        for colours in HeatmapText.Colours.allCases {
            let text = HeatmapText.render(grid, width: 120, style: .init(colours: colours))
            #expect(text.replacing(/\u{1B}\[[0-9;]*m/, with: "") == plain)
            #expect(text.contains("\u{1B}") == (colours != .none))
        }
        var emoji = HeatmapText.render(grid, width: 120, style: .emoji)
        for (mark, letter) in [("🟢", "G"), ("🟡", "Y"), ("🟠", "O"), ("🔴", "R")] {
            // In the legend a mark stands where the letter stands, in a cell it takes the blank before it too.
            emoji = emoji.replacing("\(mark)<", with: "\(letter)<").replacing("\(mark)≥", with: "\(letter)≥")
                .replacing(mark, with: " \(letter)")
        }
        #expect(emoji == plain)
        var blocks = HeatmapText.render(grid, width: 120, style: .init(marks: .blocks))
        for (mark, letter) in [("▁", "G"), ("▃", "Y"), ("▅", "O"), ("█", "R")] {
            blocks = blocks.replacing(mark, with: letter)
        }
        #expect(blocks == plain)
    }

    /// Hand-worked: six minutes of 70 latencies each, one of them slow. In columns of 5 minutes the first has 350 latencies
    /// of which 5 are slow, so that rank ⌈0.95 · 350⌉ = 333 is a fast one; by averages it would be (5 · 500 + …) / 5.
    @Test(
        "windows that do not fit the width are joined by merging, and no latency is lost", arguments: [40, 60, 80, 120])
    func joined(width: Int) throws {
        let engine = try makeEngine()
        for minute: UInt64 in 0..<60 {
            engine.record("a", at: monday + minute * 60, ms: [10], count: 60)
            engine.record("a", at: monday + minute * 60, ms: [500], count: minute % 6 == 0 ? 10 : 0)
        }
        let grid = try engine.grid()
        #expect(grid.windows.count == 60)
        let joined = grid.joined(toAtMost: 12)
        #expect(joined.windowSeconds == 300 && joined.windows.count == 12)
        // What the engine says of windows of 5 minutes.
        let asked = try engine.grid([("window", "5m")])
        #expect(joined.everything == asked.everything)
        #expect(HeatmapText.render(grid, width: width).split(separator: "\n")[1].count <= width)
        for columns in [1, 2, 7, 30, 59] {
            let some = grid.joined(toAtMost: columns)
            #expect(some.windows.count <= columns)
            #expect(some.rows[0].cells.reduce(0) { $0 + ($1?.count ?? 0) } == 60 * 60 + 10 * 10)
            for (before, after) in zip(some.windows, some.windows.dropFirst()) { #expect(before.end == after.start) }
        }
    }

    @Test("rows that are left out are counted")
    func omitted() throws {
        let engine = try makeEngine { $0.maxGroups = 1_100 }
        for number in 0..<1_200 { engine.record("g\(number)", at: monday, ms: [20], count: 2) }
        let grid = try engine.grid()
        let text = HeatmapText.render(grid, width: 80)
        #expect(text.contains("901 more groups are not shown: "))
        #expect(text.contains("200 latencies are in (other): "))
        #expect(HeatmapHTML.render(grid).contains("<p>101 more groups are in the CSV.</p>"))
        #expect(HeatmapText.render(try engine.grid([("limit", "10")]), width: 80).contains("1091 more groups"))
    }

    /// Every assigned character by Python's Unicode tables: [first, last, columns].
    static let widthProgram = """
        import json, sys, unicodedata as u
        runs = []
        for o in range(0x20, 0x110000):
            c = chr(o)
            category = u.category(c)
            if category in ('Cn', 'Cc', 'Cs', 'Co', 'Cf', 'Zl', 'Zp'): continue
            if 0x1160 <= o <= 0x11FF or 0xD7B0 <= o <= 0xD7FF: continue
            # Takes room in later versions of Unicode.
            if o == 0x1171E: continue
            width = 0 if category in ('Mn', 'Me') else 2 if u.east_asian_width(c) in 'WF' else 1
            if runs and runs[-1][1] == o - 1 and runs[-1][2] == width: runs[-1][1] = o
            else: runs.append([o, o, width])
        print(json.dumps(runs))
        """

    @Test("each character takes as many columns as Unicode's tables say")
    func widths() throws {
        let runs = try JSONDecoder().decode([[UInt32]].self, from: Peers.python(Self.widthProgram).standardOutput)
        var wrong: [String] = []
        for run in runs {
            for value in run[0]...run[1] {
                guard let scalar = Unicode.Scalar(value) else { continue }
                if TextWidth.of(Character(scalar)) != run[2] { wrong.append(String(value, radix: 16)) }
            }
        }
        #expect(wrong.isEmpty, "\(wrong.count): \(wrong.prefix(40))")
        #expect(TextWidth.of("\u{1112}\u{1161}\u{11AB}") == 2)
        #expect(TextWidth.of("👨‍👩‍👧‍👦👍🏽🇩🇪❤️") == 8)
        #expect(TextWidth.of("e\u{301}\u{200D}") == 1)
    }

    // MARK: CSV and JSON

    /// What the grid holds, written by the test and not by the code under test.
    private func mirror(_ grid: HeatmapGrid) -> [String: Any] {
        func cell(_ cell: HeatmapGrid.Cell) -> [String: Any] {
            [
                "count": cell.count, "value_ns": cell.quantileNano, "p50_ns": cell.p50Nano, "p90_ns": cell.p90Nano,
                "p95_ns": cell.p95Nano, "p99_ns": cell.p99Nano, "max_ns": cell.maxNano, "level": cell.level.rawValue,
                "over_slo_count": cell.overSLO, "late_count": cell.late, "state": cell.state.rawValue,
                "trace_ids": cell.slowest.map(\.traceID),
                "stages": cell.stages.map { [$0.stage, $0.meanNano, $0.share, $0.percent] },
                "confidence_95_ns": cell.interval.map { [$0.lower, $0.upper] as Any } ?? NSNull(),
                "nearest_trace_id": cell.nearestTrace.map { $0.traceID as Any } ?? NSNull(),
            ]
        }
        return [
            "quantile": grid.quantile, "stage": grid.stage, "group_by": grid.groupBy, "filters": grid.filters,
            "time_zone": grid.timeZone,
            "window_seconds": grid.windowSeconds, "count": grid.count, "late_count": grid.late,
            "relative_error": grid.relativeError, "slo_ns": grid.sloNano, "levels_ns": grid.levels,
            "overflowed_count": grid.overflowed, "omitted_groups": grid.omittedRows,
            "windows": grid.windows.map { [$0.start, $0.end] },
            "groups": grid.rows.map { row in
                [
                    "group": row.group, "total": cell(row.total),
                    "cells": row.cells.map { $0.map(cell) ?? NSNull() as Any },
                ] as [String: Any]
            },
        ]
    }

    /// Reads {mirror, json, csv}; compares the JSON with the mirror, and the CSV with the JSON.
    static let tablesProgram = """
        import csv, io, json, jsonschema, sys
        from datetime import datetime
        data = json.load(sys.stdin)
        grid, wanted = json.loads(data['json']), data['mirror']
        jsonschema.validate(grid, json.load(open(sys.argv[1])), cls=jsonschema.Draft202012Validator)
        def instant(text): return int(datetime.fromisoformat(text).timestamp())
        def stages(cell):
            if cell is not None:
                for a, b in zip(cell['stages'], next(pending)['stages'], strict=True):
                    assert [a['stage'], a['mean_ns']] == b[:2] and abs(a['share'] - b[2]) <= 0.00005, (a, b)
                    assert a['percent'] == b[3]
                assert not cell['stages'] or sum(s['percent'] for s in cell['stages']) == 100
                for key in ['confidence_95_ns', 'nearest_trace_id']: cell.setdefault(key, None)
        windows = grid['windows']
        assert [[instant(w['start']), instant(w['end'])] for w in windows] == wanted['windows']
        def cells(g): return [c for row in g['groups'] for c in [row['total'], *row['cells']]]
        pending = iter([c for c in cells(wanted) if c is not None])
        for c in cells(grid): stages(c)
        for c in cells(grid) + cells(wanted):
            if c is not None: del c['stages']
        for key in wanted:
            if key != 'windows': assert grid[key] == wanted[key], (key, grid[key], wanted[key])
        assert set(grid) == set(wanted)

        text = data['csv']
        assert text.endswith('\\r\\n')
        # Outside of quotes every line break is CRLF, and quotes stand around whole fields (RFC 4180).
        quoted = False
        for i, c in enumerate(text):
            if c == '"': quoted = not quoted
            elif c == '\\n' and not quoted: assert text[i - 1] == '\\r'
            elif c == '\\r' and not quoted: assert text[i + 1] == '\\n'
        rows = list(csv.DictReader(io.StringIO(text, newline=''), strict=True, restkey='MORE', restval='LESS'))
        assert list(rows[0]) == ('window_start window_end device_group stage count p50_ms p90_ms p95_ms p99_ms max_ms level '
            'slo_ms over_slo_count late_count state trace_ids').split(), list(rows[0])
        assert len(rows) == len(windows) * len(grid['groups'])
        def ms(ns): return f'{(ns + 500) // 1000 // 1000}.{(ns + 500) // 1000 % 1000:03}'
        at = iter(rows)
        for group in grid['groups']:
            for window, cell in zip(windows, group['cells'], strict=True):
                row = next(at)
                assert 'MORE' not in row and 'LESS' not in row.values(), row
                assert [row['window_start'], row['window_end']] == [window['start'], window['end']]
                name = group['group']
                field = row['device_group']
                assert not field or field[0] not in '=+-@\\t\\r\\n\\uff1d\\uff0b\\uff0d\\uff20', field
                assert field == (name if name == field else "'" + name), (field, name)
                assert (field != name) == bool(name and name[0] in '=+-@\\t\\r\\n\\uff1d\\uff0b\\uff0d\\uff20')
                assert row['stage'] == grid['stage'] and row['slo_ms'] == ms(grid['slo_ns'])
                if cell is None:
                    assert row['state'] == 'empty' and row['count'] == '0'
                    for key in 'p50_ms p90_ms p95_ms p99_ms max_ms level over_slo_count late_count trace_ids'.split():
                        assert row[key] == '', (key, row)
                else:
                    assert row['count'] == str(cell['count']) and row['state'] == cell['state']
                    for key in ['p50', 'p90', 'p95', 'p99', 'max']: assert row[key + '_ms'] == ms(cell[key + '_ns'])
                    for key in ['level', 'over_slo_count', 'late_count']: assert row[key] == str(cell[key])
                    assert row['trace_ids'].split() == cell['trace_ids']
        total = sum(int(r['count']) for r in rows)
        assert total == sum(g['total']['count'] for g in grid['groups'])
        assert total == grid['count'] or grid['omitted_groups'] > 0
        print('ok', len(rows))
        """

    private func checkTables(_ grid: HeatmapGrid) throws {
        let input = try JSONSerialization.data(withJSONObject: [
            "mirror": mirror(grid), "json": HeatmapJSON.render(grid), "csv": HeatmapCSV.render(grid),
        ])
        let rows = grid.rows.count * grid.windows.count
        let schema = Peers.repositoryRoot.appendingPathComponent("docs/heatmap.schema.json").path
        #expect(try Peers.python(Self.tablesProgram, [schema], input: input).text == "ok \(rows)\n")
    }

    @Test("CSV and JSON hold the grid, as Python reads them")
    func tables() throws {
        try checkTables(fixedGrid())
        let engine = try makeEngine()
        let requests = try PeerRequests.shared.get()
        for message in requests.messages { try engine.ingest(protobuf: message) }
        try checkTables(engine.grid([("tz", "Europe/Berlin"), ("quantile", "0.999"), ("slo", "75ms")]))
        try checkTables(engine.grid([("window", "5m"), ("tz", "-03:30"), ("limit", "3"), ("sort", "count")]))
    }

    @Test("hostile names come out of CSV and JSON whole, and start no formula")
    func hostileTables() throws { try checkTables(hostileGrid()) }

    @Test("a grid with nothing in it is empty in every form, and says so")
    func nothing() throws {
        let grid = try makeEngine().grid()
        #expect(HeatmapText.render(grid, width: 80) == "P95 push latency (deliver): no latencies in this range yet\n")
        #expect(HeatmapCSV.render(grid).split(separator: "\r\n").count == 1)
        #expect(HeatmapHTML.render(grid).contains("No latencies in this range yet."))
        let read = try #require(
            JSONSerialization.jsonObject(with: Data(HeatmapJSON.render(grid).utf8)) as? [String: Any])
        #expect((read["windows"] as? [Any])?.isEmpty == true)
        #expect((read["groups"] as? [Any])?.isEmpty == true)
    }

    @Test(
        "figures of machines are milliseconds to the microsecond, rounded",
        arguments: [
            (0, "0.000"), (499, "0.000"), (500, "0.001"), (1_000_000, "1.000"), (1_234_567, "1.235"),
            (999_999_999, "1000.000"),
            (UInt64.max, "18446744073709.552"),
        ] as [(UInt64, String)])
    func exactMilliseconds(nanoseconds: UInt64, text: String) {
        #expect(Figures.exactMilliseconds(nanoseconds) == text)
    }

    // MARK: HTML

    @Test("a figure in seconds is not called milliseconds")
    func units() throws {
        let engine = try makeEngine()
        engine.record("a", at: monday, ms: [300_000], count: 100)
        let grid = try engine.grid([("levels", "1s,2m,1h")])
        for report in [HeatmapHTML.render(grid), HeatmapText.render(grid, width: 120)] {
            #expect(report.firstMatch(of: /[0-9][smhdy] ms/) == nil)
            #expect(report.contains("1000"))
        }
    }
}
