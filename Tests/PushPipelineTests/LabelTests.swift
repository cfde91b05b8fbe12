import PushPipeline
import Testing

@Suite("Names, groups and tenants")
struct LabelTests {
    @Test(
        "a group is derived from the User-Agent",
        arguments: [
            ("Mozilla/5.0 (iPhone; CPU iPhone OS 15_8_2 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148", "iOS-15"),
            ("Mozilla/5.0 (iPad; CPU OS 17_4 like Mac OS X) AppleWebKit/605.1.15 Version/17.4", "iOS-17"),
            ("Mozilla/5.0 (Linux; Android 12; SM-G991B) AppleWebKit/537.36 Chrome/120.0.0.0 Mobile", "Android-12"),
            ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0", "Windows-10"),
            ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Safari/605.1.15", "macOS-10"),
            ("MyApp/3 CFNetwork/1490.0.4 Darwin/23.2.0", "Darwin-23"),
            ("Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36", "ChromeOS"),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:126.0) Gecko/20100101 Firefox/126.0", "Linux"),
            ("curl/7.88.1", "curl-7"), ("okhttp/4.12.0", "okhttp-4"), ("CarAgent", "CarAgent"), ("", "unknown"),
            ("<script>/1", "unknown"), ("Android x", "Android"),
        ])
    func derive(agent: String, group: String) {
        #expect(DeviceGroup.derive(userAgent: agent) == group)
    }

    @Test("no User-Agent is the group unknown, and a very long one is cut")
    func odd() {
        #expect(DeviceGroup.derive(userAgent: nil) == "unknown")
        #expect(DeviceGroup.derive(userAgent: String(repeating: "x", count: 100_000)).count == 32)
    }

    @Test(
        "a topic is 1 to 128 of the allowed characters",
        arguments: [
            ("a", true), (String(repeating: "t", count: 128), true), ("orders.eu-1_x", true), ("", false),
            (String(repeating: "t", count: 129), false), (".hidden", false), ("a/b", false), ("a b", false),
            ("é", false),
            ("a\u{0}", false), ("a\n", false),
        ])
    func topics(topic: String, isValid: Bool) {
        let refused = Result { () throws(GatewayError) in try EventLabels.validateTopic(topic) }
        switch refused {
        case .success: #expect(isValid)
        case .failure(let error): #expect(!isValid && error.code == .invalidTopic)
        }
    }

    @Test("a label of text has a limit in bytes and no control character")
    func labels() throws {
        try EventLabels.validate("微信-安卓", named: "group", limit: 13)
        #expect(throws: GatewayError.self) { try EventLabels.validate("微信-安卓", named: "group", limit: 12) }
        #expect(throws: GatewayError.self) { try EventLabels.validate("", named: "group", limit: 12) }
        for control in ["\r", "\n", "\u{0}", "\u{7F}", "\u{1B}"] {
            #expect(throws: GatewayError.self) { try EventLabels.validate("a\(control)", named: "type", limit: 12) }
        }
    }

    @Test("groups beyond the limit share a number")
    func registry() {
        let registry = GroupRegistry(limit: 3)
        let numbers = ["a", "b", "c", "d", "e", "a"].map { registry.number(of: $0) }
        #expect(numbers == [1, 2, 3, 0, 0, 1])
        #expect(registry.name(of: 2) == "b" && registry.name(of: 0) == "__other__")
    }

    @Test("a directory of tenants refuses what is ambiguous, and finds by token")
    func tenants() throws {
        func directory(_ tenants: [TenantConfiguration]) throws -> TenantDirectory {
            var configuration = GatewayConfiguration()
            configuration.tenants = tenants
            return try TenantDirectory(configuration: configuration, nowUnixNano: 0)
        }
        #expect(throws: GatewayError.self) { try directory([.init(name: "Acme", tokens: ["12345678"])]) }
        #expect(throws: GatewayError.self) { try directory([.init(name: "a", tokens: [])]) }
        #expect(throws: GatewayError.self) { try directory([.init(name: "a", tokens: ["1234567"])]) }
        #expect(throws: GatewayError.self) {
            try directory([.init(name: "a", tokens: ["12345678"]), .init(name: "b", tokens: ["12345678"])])
        }
        #expect(throws: GatewayError.self) {
            try directory([.init(name: "a", tokens: ["12345678"]), .init(name: "a", tokens: ["87654321"])])
        }
        let two = try directory([.init(name: "a", tokens: ["12345678"]), .init(name: "b", tokens: ["abcdefgh"])])
        #expect(try two.tenant(authorization: "Bearer abcdefgh", token: nil).name == "b")
        #expect(try two.tenant(authorization: nil, token: "12345678").name == "a")
        for bad in ["Basic abcdefgh", "Bearer", "bearer  ", "Bearer abcdefgi"] {
            #expect(throws: GatewayError.self) { try two.tenant(authorization: bad, token: nil) }
        }
        #expect(try directory([]).tenant(authorization: nil, token: nil).name == "default")
    }
}
