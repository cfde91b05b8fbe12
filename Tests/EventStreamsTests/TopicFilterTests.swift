import Testing

@testable import EventStreams

@Suite("Topics are taken by the rules of NATS subjects")
struct TopicFilterTests {
    // The first eight from https://docs.nats.io/nats-concepts/subjects, the rest by the same rules by hand.
    @Test(
        "a pattern takes what its tokens say",
        arguments: [
            ("time.*.east", ["time.us.east", "time.eu.east"], ["time.us.east.atlanta", "time.east", "time..east"]),
            ("time.us.*", ["time.us.east"], ["time.us", "time.us.east.atlanta", "time.us."]),
            ("time.us.>", ["time.us.east", "time.us.east.atlanta"], ["time.us", "time.us.", "time.eu.east"]),
            ("*.*.east.>", ["time.us.east.atlanta"], ["time.us.east", "time.east.atlanta.x"]),
            (">", ["a", "a.b", "a.b.c", "-"], []),
            ("*", ["a", "orders"], ["a.b", ""]),
            ("orders", ["orders"], ["orders.eu", "order", "orderss", "Orders", ""]),
            ("orders.*", ["orders.eu", "orders.-"], ["orders", "orders.eu.berlin", "ordersxeu", "orders."]),
            ("orders.>", ["orders.eu", "orders.eu.berlin"], ["orders", "orders.", "ordersx.eu"]),
            ("*.eu", ["orders.eu"], [".eu", "eu", "orders.eu.eu", "orders.us"]),
            ("*.*", ["a.b"], ["a", "a.b.c", "a.", ".b"]),
            ("größe.*", ["größe.ä"], ["grosse.a"]),
        ])
    func taken(pattern: String, takes: [String], refuses: [String]) throws {
        let compiled = try TopicPattern(pattern)
        for topic in takes { #expect(compiled.matches(topic), "\(pattern) takes \(topic)") }
        for topic in refuses { #expect(!compiled.matches(topic), "\(pattern) does not take \(topic)") }
        #expect(compiled.isLiteral == (pattern == "orders"))
    }

    @Test("every topic of up to three tokens is taken as a plain reading of the rules has it")
    func byReading() throws {
        // The rules once more, token by token.
        func reads(_ pattern: [String], _ topic: [String]) -> Bool {
            guard let first = pattern.first else { return topic.isEmpty }
            if first == ">" { return !topic.isEmpty }
            guard let token = topic.first, first == "*" || first == token else { return false }
            return reads(Array(pattern.dropFirst()), Array(topic.dropFirst()))
        }
        func sequences(_ alphabet: [String]) -> [[String]] {
            var all: [[String]] = []
            var last: [[String]] = [[]]
            for _ in 1...3 {
                last = last.flatMap { head in alphabet.map { head + [$0] } }
                all += last
            }
            return all
        }
        var taken = 0
        for pattern in sequences(["a", "ab", "*", ">"]) where !pattern.dropLast().contains(">") {
            let compiled = try TopicPattern(pattern.joined(separator: "."))
            for topic in sequences(["a", "ab", "b"]) {
                let isTaken = compiled.matches(topic.joined(separator: "."))
                #expect(isTaken == reads(pattern, topic), "\(compiled) and \(topic)")
                taken += isTaken ? 1 : 0
            }
        }
        #expect(taken > 100)
    }

    @Test(
        "what is no pattern is refused by its name and the reason",
        arguments: [
            ("", "is empty"), (".", "empty token"), (".a", "empty token"), ("a.", "empty token"),
            ("a..b", "empty token"), (">.a", "goes on after >"), ("a.>.b", "goes on after >"), ("a*", "inside a token"),
            ("a.b*c", "inside a token"), ("**", "inside a token"), ("a.>>", "inside a token"), ("a b", "white space"),
            ("a\tb", "white space"), ("a\r\nb", "white space"), ("a\u{0}b", "control character"),
            (String(repeating: "a", count: 129), "129 bytes, the limit is 128"),
        ])
    func refused(pattern: String, reason: String) throws {
        let error = try failure { _ = try TopicPattern(pattern) }
        #expect(error.code == .invalid)
        #expect(error.cause.contains(reason), "\(error.cause)")
        #expect(error.cause.contains(pattern.prefix(1).filter { $0 > " " }))
        #expect(!error.cause.contains("\r") && !error.cause.contains("\0"))
        #expect(try failure { _ = try TopicFilter(["orders", pattern]) } == error)
    }

    @Test("a pattern of 128 bytes is taken, and so is a topic of any length")
    func lengths() throws {
        let name = String(repeating: "a", count: 128)
        #expect(try TopicPattern(name).matches(name))
        #expect(try TopicPattern("a.>").matches("a." + String(repeating: "b.", count: 5_000)))
    }

    @Test("a filter takes the union of its patterns")
    func union() throws {
        let filter = try TopicFilter(["orders.*", "alerts", "orders.*"])
        #expect(filter.patterns.map(\.text) == ["orders.*", "alerts"])
        for topic in ["orders.eu", "alerts"] { #expect(filter.matches(topic: topic)) }
        for topic in ["orders", "alerts.eu"] { #expect(!filter.matches(topic: topic)) }
        #expect(filter.literalTopics == nil)
        #expect(try TopicFilter(["a", "b.c"]).literalTopics == ["a", "b.c"])
        #expect(!filter.isAll)
        #expect(try TopicFilter(["orders.*", ">"]).isAll)
        #expect(try !TopicFilter([">"], types: ["message"]).isAll)
        #expect(TopicFilter.all.isAll && TopicFilter.all.literalTopics == nil)
        #expect(TopicFilter.all.matches(topic: "anything"))
    }

    @Test("a filter by type takes these types, and message for events without one")
    func types() throws {
        func stored(_ type: String?) -> StoredEvent {
            StoredEvent(
                NewEvent(topic: "orders", type: type, acceptedUnixNano: 1), offset: 1, epoch: 1)
        }
        let created = try TopicFilter(["orders"], types: ["created", "paid"])
        for type in ["created", "paid"] { #expect(created.matches(stored(type))) }
        for type in ["Created", "message", "", nil] { #expect(!created.matches(stored(type))) }
        let plain = try TopicFilter(["orders"], types: ["message"])
        for type in ["message", "", nil] { #expect(plain.matches(stored(type))) }
        #expect(!plain.matches(stored("created")))
        #expect(try !TopicFilter(["alerts"], types: ["created"]).matches(stored("created")))
        for type in ["created", nil] { #expect(try TopicFilter(["orders"]).matches(stored(type))) }
    }

    @Test("no pattern, and more patterns or types than the limit, are refused with the limit")
    func limits() throws {
        #expect(try failure { _ = try TopicFilter([]) }.code == .invalid)
        let names = (1...65).map { "t\($0)" }
        #expect(try TopicFilter(Array(names.prefix(64))).patterns.count == 64)
        #expect(
            try failure { _ = try TopicFilter(names) }.cause.contains("65 topic patterns were named, the limit is 64"))
        #expect(try TopicFilter(["a"], types: Set(names.prefix(64))).types.count == 64)
        #expect(try failure { _ = try TopicFilter(["a"], types: Set(names)) }.cause.contains("65 event types"))
    }
}
