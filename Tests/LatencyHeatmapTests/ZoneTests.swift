import Foundation
import TestSupport
import Testing

@testable import LatencyHeatmap

@Suite("Time zones")
struct ZoneTests {
    /// By Python's zoneinfo, which reads the same files: of every zone the offsets at 40 moments, and of 30 zones those around
    /// each change of the clocks from 1960 to 2060. `[[name, [second, offset, …]], …]`
    private static let program = """
        import datetime, json, random, zoneinfo
        random.seed(9)
        utc = datetime.timezone.utc
        def offset(zone, second):
            moment = datetime.datetime(1970, 1, 1, tzinfo=utc) + datetime.timedelta(seconds=second)
            return int(moment.astimezone(zone).utcoffset().total_seconds())
        names = sorted(n for n in zoneinfo.available_timezones() if not n.startswith(('right/', 'posix')))
        names = [n for n in names if n not in ('localtime', 'Factory')]
        many = set(random.sample(names, 22)) | {'Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Tehran',
            'Africa/Casablanca', 'America/Sao_Paulo', 'Europe/Dublin', 'Antarctica/Troll'}
        found = []
        for name in names:
            zone = zoneinfo.ZoneInfo(name)
            seconds = [random.randrange(-2_500_000_000, 6_000_000_000) for _ in range(40)]
            if name in many:
                week = 7 * 86400
                for start in range(-315_619_200, 2_840_140_800, week):
                    low, high = start, start + week
                    if offset(zone, low) == offset(zone, high): continue
                    while high - low > 1:
                        middle = (low + high) // 2
                        if offset(zone, middle) == offset(zone, low): low = middle
                        else: high = middle
                    seconds += [low, high]
            found.append([name, [x for s in seconds for x in (s, offset(zone, s))]])
        print(json.dumps(found))
        """

    private enum Item: Decodable {
        case name(String)
        case figures([Int64])

        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            if let name = try? container.decode(String.self) {
                self = .name(name)
            } else {
                self = .figures(try container.decode([Int64].self))
            }
        }
    }

    @Test("every zone of the database has Python's offsets, to the second of each change")
    func offsets() throws {
        let found = try JSONDecoder().decode([[Item]].self, from: Peers.python(Self.program).standardOutput)
        #expect(found.count > 300)
        var compared = 0
        for zone in found {
            guard case .name(let name) = zone[0], case .figures(let figures) = zone[1] else { continue }
            let rules = try #require(ZoneRules(named: name), "\(name)")
            for at in stride(from: 0, to: figures.count, by: 2) {
                let offset = rules.offset(atUnixSecond: figures[at])
                if offset != figures[at + 1] {
                    Issue.record("\(name) at \(figures[at]): \(offset), not \(figures[at + 1])")
                    break
                }
                compared += 1
            }
        }
        #expect(compared > 15_000)
    }

    @Test(
        "rules for years to come are read as POSIX writes them",
        arguments: [
            // 2027-03-28 and -10-31 are last Sundays; worked by hand.
            ("CET-1CEST,M3.5.0,M10.5.0/3", 1_806_195_599, 3_600), ("CET-1CEST,M3.5.0,M10.5.0/3", 1_806_195_600, 7_200),
            ("CET-1CEST,M3.5.0,M10.5.0/3", 1_824_944_399, 7_200), ("CET-1CEST,M3.5.0,M10.5.0/3", 1_824_944_400, 3_600),
            ("<+08>-8", 1_806_195_600, 28_800), ("EST5", 0, -18_000), ("XXX-5:30:15", 0, 19_815),
            // All year; RFC 9636, section 3.3.1.
            ("EST5EDT,0/0,J365/25", 1_798_761_600, -14_400), ("EST5EDT,0/0,J365/25", 1_798_779_600, -14_400),
            // Summer over the new year: 2027-01-01 and 2027-07-01.
            ("AEST-10AEDT,M10.1.0,M4.1.0/3", 1_798_761_600, 39_600),
            ("AEST-10AEDT,M10.1.0,M4.1.0/3", 1_814_400_000, 36_000),
            // The 60th day but for 29 February, and the one with it: 2028-02-29 and 2028-03-01 at 02:00.
            ("AAA0BBB,J60,J300", 1_835_395_200, 0), ("AAA0BBB,J60,J300", 1_835_488_800, 3_600),
            ("AAA0BBB,59,J300", 1_835_402_400, 3_600),
        ])
    func posix(text: String, second: Int64, offset: Int64) throws {
        let rule = try #require(YearlyRule(posix: Array(text.utf8)))
        #expect(rule.offset(atUnixSecond: second) == offset)
    }

    @Test(
        "rules that are none are refused",
        arguments: [
            "", "A", "AB5", "CET", "CET-25", "CET-1CEST", "CET-1CEST,M3.5.0", "CET-1CEST,M13.1.0,M10.5.0", "<+8-8",
            "CET-1CEST,M3.6.0,M10.5.0", "CET-1CEST,M3.5.7,M10.5.0", "CET-1CEST,J0,J5", "CET-1CEST,366,J5",
            "CET-1CEST,J1/168,J5", "CET-1:60", "CET-1CEST,J1,J5,", "CET-99999999999999999999",
        ])
    func noRules(text: String) { #expect(YearlyRule(posix: Array(text.utf8)) == nil) }

    private static let file = "/usr/share/zoneinfo/Europe/Berlin"

    @Test("a file that is cut off anywhere is refused, and no change of its bytes leads out of it")
    func hostile() throws {
        let whole = [UInt8](try Data(contentsOf: URL(fileURLWithPath: Self.file)))
        #expect(ZoneRules(tzif: whole)?.offset(atUnixSecond: 1_795_420_800) == 3_600)
        for length in 0..<whole.count { #expect(ZoneRules(tzif: Array(whole[..<length])) == nil) }
        // Counts of 2^32 - 1, and a file beyond the limit.
        for count in 0..<6 {
            var bytes = whole
            bytes.replaceSubrange((20 + count * 4)..<(24 + count * 4), with: [255, 255, 255, 255])
            #expect(ZoneRules(tzif: bytes) == nil)
        }
        #expect(ZoneRules(tzif: whole + [UInt8](repeating: 0, count: ZoneRules.maxBytes - whole.count)) != nil)
        #expect(ZoneRules(tzif: whole + [UInt8](repeating: 0, count: ZoneRules.maxBytes - whole.count + 1)) == nil)
        var generator = SeededGenerator(12)
        for _ in 0..<20_000 {
            guard let rules = ZoneRules(tzif: mutated(whole, &generator)) else { continue }
            for second in [Int64.min, -1, 1_795_420_800, 6_000_000_000, .max] {
                #expect((-700_000...700_000).contains(rules.offset(atUnixSecond: second)))
            }
        }
    }

    @Test(
        "names that lead elsewhere, or nowhere, are no zones",
        arguments: ["", "/etc/localtime", "../zoneinfo/Europe/Berlin", "Europe", "Europe/", "No/Where", "Ä", "A\0B"])
    func noNames(name: String) { #expect(CivilTime(named: name) == nil) }

    @Test("times are read as RFC 3339 has them")
    func parse() {
        let monday: UInt64 = 1_795_420_800 * 1_000_000_000
        #expect(CivilTime.parse("2026-11-23T08:00:00Z") == monday)
        #expect(CivilTime.parse("2026-11-23t16:00:00.000000001+08:00") == monday + 1)
        #expect(CivilTime.parse("2026-11-23T02:30:00.5-05:30") == monday + 500_000_000)
        #expect(CivilTime.parse("2028-02-29T00:00:00Z") == 1_835_395_200 * 1_000_000_000)
        for text in [
            "", "2026-11-23", "2026-11-23T08:00:00", "2026-11-23T08:00Z", "2026-11-31T08:00:00Z",
            "2027-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-11-23T24:00:00Z",
            "2026-11-23T08:60:00Z", "2026-11-23T08:00:00.Z", "2026-11-23T08:00:00.1234567890Z",
            "2026-11-23T08:00:00+0800", "1969-12-31T23:59:59Z", "2026-11-23T08:00:00Zx", "9999-01-01T00:00:00Z",
        ] {
            #expect(CivilTime.parse(text) == nil, "\(text)")
        }
    }
}
