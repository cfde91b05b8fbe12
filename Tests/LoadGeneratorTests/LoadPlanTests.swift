import Testing

@testable import LoadGenerator

@Suite("Plans and targets")
struct LoadPlanTests {
    private func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

    @Test("requests of the presets")
    func presets() throws {
        let isotherm = LoadTarget.isotherm("http://127.0.0.1:8080")
        #expect(
            try text(isotherm.subscribeHead(channel: 0, connection: 5))
                == "GET /v1/events/bench?group=bench HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept: text/event-stream\r\n")
        let (bytes, at) = try isotherm.publishRequest(channel: 3, size: 51)
        #expect(
            text(bytes).hasPrefix(
                "POST /v1/events/bench-3 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: text/plain\r\n"
                    + "Content-Length: 51\r\n\r\nxxx"))
        #expect(bytes.count == at + 51)
        let nchan = LoadTarget.nchan("http://[::1]")
        #expect(
            try text(nchan.subscribeHead(channel: 1, connection: 0)).hasPrefix(
                "GET /sub?id=bench-1 HTTP/1.1\r\nHost: [::1]\r\n"))
        // https://mercure.rocks/spec#publication
        let mercure = try LoadTarget.mercure("http://hub:3000").publishRequest(channel: 1, size: 60)
        #expect(text(mercure.bytes).contains("\r\nContent-Length: 79\r\n\r\ntopic=bench-1&data=xxx"))
    }

    @Test("templates and headers take the channel and the connection")
    func templates() throws {
        var target = LoadTarget(
            subscribeURL: "http://h/{channel}/{connection}?c={channel}", publishURL: "http://h/p?x=1#fragment")
        target.channelPrefix = "t"
        target.subscribeHeaders = [("X-Device", "d{connection}")]
        #expect(
            try text(target.subscribeHead(channel: 2, connection: 9))
                == "GET /t-2/9?c=t-2 HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\nX-Device: d9\r\n")
        target.publishBody = "{\"c\":\"{channel}\",\"d\":\"{payload}\"}"
        let (bytes, at) = try target.publishRequest(channel: 0, size: 51)
        #expect(text(Array(bytes[(at - 14)..<at])) == "{\"c\":\"t\",\"d\":\"")
        #expect(text(Array(bytes[(at + 51)...])) == "\"}")
        #expect(text(bytes).hasPrefix("POST /p?x=1 HTTP/1.1\r\n"))
    }

    @Test(
        "URLs that cannot be asked name what is wrong",
        arguments: [
            ("ftp://h", "http://"), ("http://", "host"), ("https://", "host"), ("http://h:0/", "port"),
            ("http://h:65536/", "port"), ("http://h/a b", "space"), ("http://u@h/", "user"), ("http://h/ü", "ASCII"),
        ])
    func wrongURLs(url: String, word: String) {
        let error = #expect(throws: LoadError.self) { try HTTPURL(url) }
        #expect(error?.code == .invalidPlan && error?.cause.contains(word) == true)
    }

    @Test("each limit at it, and beyond it")
    func limits() throws {
        let limits: [(WritableKeyPath<LoadPlan, Int>, good: Int, bad: Int)] = [
            (\.size, 51, 50), (\.size, LoadPlan.maxSize, LoadPlan.maxSize + 1), (\.publishers, 1, 0),
            (\.publishers, 1_024, 1_025), (\.threads, 64, 65), (\.connections, 1_000_000, 1_000_001),
            (\.stalled, 0, -1), (\.channels, 1, 0), (\.channels, 100, 101),
        ]
        for (path, good, bad) in limits {
            var plan = LoadPlan(target: .isotherm("http://127.0.0.1"))
            plan[keyPath: path] = good
            try plan.validate()
            plan[keyPath: path] = bad
            #expect(throws: LoadError.self) { try plan.validate() }
        }
    }

    @Test("rates, durations and storms that make no sense")
    func senseless() throws {
        var plan = LoadPlan(target: .isotherm("http://127.0.0.1"))
        for rate in [0, -1, .nan, .infinity] {
            plan.rate = rate
            #expect(throws: LoadError.self) { try plan.validate() }
        }
        plan.rate = nil
        try plan.validate()
        plan.drain = .seconds(86_401)
        #expect(throws: LoadError.self) { try plan.validate() }
        plan.drain = .seconds(86_400)
        try plan.validate()
        plan.storm = true
        plan.connections = 0
        #expect(throws: LoadError.self) { try plan.validate() }
    }

    @Test("too few open files are refused before anything is opened")
    func openFiles() throws {
        var plan = LoadPlan(target: .isotherm("http://127.0.0.1:1"))
        plan.connections = 1_000_000
        plan.stalled = 1_000_000
        let error = #expect(throws: LoadError.self) { try LoadRun.run(plan) }
        #expect(error?.code == .openFiles && error?.cause.contains("2000") == true)
    }

    @Test("numbers for a person")
    func numbers() {
        #expect(LoadReport.number(1_234_567) == "1,234,567")
        #expect(LoadReport.number(-1_000) == "-1,000")
        #expect(LoadReport.number(999) == "999")
        let texts = [0.0, 0.1234, 1.005, 9.999, 12.34, 123.4, 1_234.5, 20].map { LoadReport.number($0) }
        #expect(texts == ["0", "0.123", "1", "10", "12.3", "123", "1,235", "20"])
        #expect(LoadReport.percent(0.0054, digits: 2) == "0.54 %")
    }
}
