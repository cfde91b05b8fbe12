import Telemetry
import Testing

/// Vectors from https://www.w3.org/TR/trace-context-2/ and its test suite (github.com/w3c/trace-context, test/test.py).
@Suite("W3C Trace Context")
struct PropagationTests {
    private static let trace = "12345678901234567890123456789012"
    private static let span = "1234567890123456"

    @Test("the specification's own example is read and written", arguments: ["00", "01", "02", "03"])
    func example(flags: String) throws {
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-\(flags)"
        let context = try #require(TraceContext.parse(traceparent: header))
        #expect(context.traceID.description == "4bf92f3577b34da6a3ce929d0e0e4736")
        #expect(context.spanID.description == "00f067aa0ba902b7")
        #expect(context.isSampled == (flags == "01" || flags == "03"))
        #expect(context.traceFlags.contains(.random) == (flags == "02" || flags == "03"), "case 24")
        #expect(context.isRemote && context.isValid && context.traceState == nil)
        #expect(context.traceparent == header)
    }

    @Test(
        "a later version is read, also with more behind it; what is written is version 00 (case 21)",
        arguments: [
            "cc-\(trace)-\(span)-01", "cc-\(trace)-\(span)-01-what-the-future-will-be-like", "01-\(trace)-\(span)-01",
            "fe-\(trace)-\(span)-01-",
        ])
    func laterVersion(header: String) throws {
        let context = try #require(TraceContext.parse(traceparent: header))
        #expect(context.traceparent == "00-\(Self.trace)-\(Self.span)-01")
    }

    @Test("flags that are not defined are not passed on")
    func unknownFlags() throws {
        let context = try #require(TraceContext.parse(traceparent: "00-\(Self.trace)-\(Self.span)-ff"))
        #expect(context.traceparent == "00-\(Self.trace)-\(Self.span)-03")
    }

    @Test(
        "a traceparent that is not valid is rejected (case 21)",
        arguments: [
            "", "-", "00", "ff-\(trace)-\(span)-01", "ff-\(trace)-\(span)-01-what", "00-\(trace)-\(span)-01.",
            "00-\(trace)-\(span)-01-what",
            "cc-\(trace)-\(span)-01.what-the-future-will-be-like", ".0-\(trace)-\(span)-01", "0.-\(trace)-\(span)-01",
            "0-\(trace)-\(span)-01",
            "000-\(trace)-\(span)-01", "00-.2345678901234567890123456789012-\(span)-01",
            "00-1234567890123456789012345678901.-\(span)-01",
            "00-123456789012345678901234567890123-\(span)-01", "00-1234567890123456789012345678901-\(span)-01",
            "00-00000000000000000000000000000000-\(span)-01", "00-\(trace)-0000000000000000-01",
            "00-\(trace)-.234567890123456-01",
            "00-\(trace)-123456789012345.-01", "00-\(trace)-12345678901234567-01", "00-\(trace)-123456789012345-01",
            "00-\(trace)-\(span)-.0",
            "00-\(trace)-\(span)-0.", "00-\(trace)-\(span)-001", "00-\(trace)-\(span)-1", "00-\(trace)-\(span)-",
            "00-\(trace)-\(span)",
            "00-ABCDEF78901234567890123456789012-\(span)-01", "00-\(trace)-ABCDEF7890123456-01",
            "00-\(trace)-\(span)-0A", "CC-\(trace)-\(span)-01",
            "00_\(trace)_\(span)_01", "00-\(trace)-\(span)-0\u{661}", " 00-\(trace)-\(span)-01",
            "00-\(trace)-\(span)-01 ", "0x-\(trace)-\(span)-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47é-00f067aa0ba902b7-01",
        ])
    func invalid(header: String) {
        #expect(TraceContext.parse(traceparent: header) == nil)
    }

    @Test("an id is read from hexadecimal digits in lower case only")
    func identifiers() {
        #expect(TraceID(hex: "4bf92f3577b34da6a3ce929d0e0e4736")?.description == "4bf92f3577b34da6a3ce929d0e0e4736")
        #expect(TraceID(hex: "4BF92F3577B34DA6A3CE929D0E0E4736") == nil)
        #expect(TraceID(hex: "4bf92f") == nil)
        #expect(SpanID(hex: "00f067aa0ba902b7")?.rawValue == 0x00f0_67aa_0ba9_02b7)
        #expect(SpanID(hex: "00f067aa0ba902bg") == nil)
        #expect(SpanID(hex: "") == nil)
    }

    // MARK: tracestate

    private func state(_ header: String) -> String? {
        // Case 22: whatever the tracestate is, the traceparent counts.
        let context = TraceContext.parse(traceparent: "00-\(Self.trace)-\(Self.span)-01", tracestate: header)
        #expect(context?.traceparent == "00-\(Self.trace)-\(Self.span)-01")
        return context?.traceState?.description
    }

    @Test(
        "a valid tracestate is passed on, its entries in order",
        arguments: [
            ("foo=1", "foo=1"), ("foo=1,bar=2", "foo=1,bar=2"), ("foo=1 \t , \t bar=2, \t baz=3", "foo=1,bar=2,baz=3"),
            ("foo=1,,,bar=2,", "foo=1,bar=2"), ("foo=1\t", "foo=1"), (" foo=1", "foo=1"), ("foo= 1", "foo= 1"),
            ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
            ("fw529a3039@dt=FfAKTh,0key=1,a_-*/b=2", "fw529a3039@dt=FfAKTh,0key=1,a_-*/b=2"),
            ("foo=a b!\"#$%&'()*+-./:;<>?@[]^_`{|}~", "foo=a b!\"#$%&'()*+-./:;<>?@[]^_`{|}~"),
        ])
    func validState(header: String, expected: String) {
        #expect(state(header) == expected)
    }

    @Test(
        "a tracestate that is not valid is dropped, and the traceparent stays (case 22)",
        arguments: [
            "", " ", ",", "foo", "foo=", "=1", "foo=1=2", "foo @=1", "foo@ =1", "Foo=1", "foo =1", "FOO=1", "foo.bar=1",
            "foo=bar=baz", "foo=,bar=3",
            "foo@=1,bar=2", "@foo=1,bar=2", "foo@@bar=1,bar=2", "foo@bar@baz=1,bar=2", "foo@1bar=1",
            "foo=1,bar=\u{1}", "foo=1,foo=1", "foo=1,foo=2", "foo=é", "ü=1", "_a=1", "*a=1", "@v=1", "foo=1,bar",
            "foo=a\u{7F}",
        ])
    func invalidState(header: String) {
        #expect(state(header) == nil)
    }

    @Test("32 members are passed on, and with more all are dropped (case 23)", arguments: [31, 32, 33, 1_000])
    func memberCount(count: Int) {
        let header = (0..<count).map { "k\($0)=v" }.joined(separator: ",")
        #expect(state(header) == (count <= 32 ? header : nil))
    }

    @Test("keys and values may have 256 characters and no more", arguments: [255, 256, 257])
    func lengths(count: Int) {
        let key = String(repeating: "z", count: count)
        #expect(state("\(key)=1") == (count <= 256 ? "\(key)=1" : nil))
        #expect(state("k=\(key)") == (count <= 256 ? "k=\(key)" : nil))
    }

    @Test("a tenant may have 241 characters and a vendor 14", arguments: [(241, 14), (242, 1), (1, 15), (1, 14)])
    func multiTenantLengths(tenant: Int, vendor: Int) {
        let key = String(repeating: "t", count: tenant) + "@" + String(repeating: "v", count: vendor)
        #expect(state("foo=1,\(key)=1") == (tenant <= 241 && vendor <= 14 ? "foo=1,\(key)=1" : nil))
    }

    @Test("of more than 512 characters whole entries go, those over 128 characters first (case 23)")
    func shortened() throws {
        // Hand-worked. Entries of 100, 130, 100, 129, 100 characters and four commas are 563.
        func entry(_ key: String, _ length: Int) -> String { "\(key)=" + String(repeating: "v", count: length - 2) }
        let all = [entry("a", 100), entry("b", 130), entry("c", 100), entry("d", 129), entry("e", 100)]
        #expect(state(all.joined(separator: ",")) == [all[0], all[1], all[2], all[4]].joined(separator: ","))
        // 512 exactly: four of 127 and a fifth of none; 4 × 127 + 3 = 511; one more character makes 512; one more is too long.
        let four = ["a", "b", "c", "d"].map { entry($0, 127) }
        #expect(state(four.joined(separator: ",")) == four.joined(separator: ","))
        let exact = [entry("a", 128)] + four.dropFirst()
        #expect(state(exact.joined(separator: ","))?.count == 512)
        let over = [entry("a", 128), entry("b", 128)] + four.dropFirst(2)
        #expect(state(over.joined(separator: ",")) == over.prefix(3).joined(separator: ","))
    }

    @Test("a state of which nothing may stay is no state")
    func nothingLeft() {
        // 256 + 1 + 256 characters: valid, and over 512.
        let long = String(repeating: "k", count: 256) + "=" + String(repeating: "v", count: 256)
        #expect(state(long) == nil)
        #expect(state("\(long),a=1") == "a=1")
    }

    @Test("entries are found by their key")
    func lookUp() throws {
        let state = try #require(TraceState(header: "congo=t61,rojo=1"))
        #expect(state["rojo"] == "1")
        #expect(state["other"] == nil)
        #expect(state.entries.map(\.key) == ["congo", "rojo"])
        #expect(state == TraceState(header: "congo=t61 , rojo=1"))
        #expect(state.hashValue == TraceState(header: "congo=t61 , rojo=1")?.hashValue)
    }

    @Test("an entry that is set comes to the front, and the last of too many goes")
    func mutation() throws {
        let state = try #require(TraceState(header: "a=1,b=2,c=3"))
        #expect(state.setting("b", to: "4").description == "b=4,a=1,c=3")
        #expect(state.setting("d", to: "5").description == "d=5,a=1,b=2,c=3")
        #expect(state.removing("b")?.description == "a=1,c=3")
        #expect(state.removing("other") == state)
        #expect(TraceState(key: "a", value: "1")?.removing("a") == nil)
        // Neither key nor value is checked by others: what is not valid changes nothing.
        for (key, value) in [("A", "1"), ("a", ""), ("a", "x,y"), ("a", "x "), ("", "1"), ("a", "é")] {
            #expect(state.setting(key, to: value) == state)
            #expect(TraceState(key: key, value: value) == nil)
        }
        let full = try #require(TraceState(header: (0..<32).map { "k\($0)=v" }.joined(separator: ",")))
        let more = full.setting("new", to: "1")
        #expect(more.entries.count == 32 && more.entries.first?.key == "new" && more.entries.last?.key == "k30")
        #expect(full.setting("k31", to: "1").entries.last?.key == "k30")
    }
}
