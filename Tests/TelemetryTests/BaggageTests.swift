import Foundation
import Telemetry
import TestSupport
import Testing

/// Vectors from https://www.w3.org/TR/baggage/ and its test suite (github.com/w3c/baggage, test/test_baggage.py).
@Suite("W3C Baggage")
struct BaggageTests {
    private func read(_ headers: String...) -> Baggage { Baggage(headers: headers) }

    @Test("the specification's examples are read, in one header and in several")
    func examples() {
        let one = read("key1=value1;property1;property2, key2 = value2, key3=value3; propertyKey=propertyValue")
        #expect(
            one.entries == [
                Baggage.Entry(key: "key1", value: "value1", metadata: "property1;property2"),
                Baggage.Entry(key: "key2", value: "value2"),
                Baggage.Entry(key: "key3", value: "value3", metadata: "propertyKey=propertyValue"),
            ])
        #expect(one.header == "key1=value1;property1;property2,key2=value2,key3=value3;propertyKey=propertyValue")
        let several = read("userId =   alice", "serverNode = DF%2028, isProduction = false")
        #expect(several.map(\.value) == ["alice", "DF 28", "false"])
        #expect(several.header == "userId=alice,serverNode=DF%2028,isProduction=false")
    }

    @Test("white space around keys, values and properties is no part of them")
    func whiteSpace() {
        let baggage = read(
            "SomeKey \t = \t SomeValue \t ; \t SomeProp \t , \t SomeKey2 \t = \t SomeValue2 \t ; \t ValueProp \t = \t PropVal"
        )
        #expect(baggage.header == "SomeKey=SomeValue;SomeProp,SomeKey2=SomeValue2;ValueProp=PropVal")
    }

    @Test("a value may contain = and any character as UTF-8 with percent signs")
    func values() {
        #expect(read("SomeKey=SomeValue=equals")["SomeKey"] == "SomeValue=equals")
        let value = "\t \"';=asdf!@#$%^&*()"
        let encoded = "%09%20%22%27%3B%3Dasdf%21%40%23%24%25%5E%26%2A%28%29"
        #expect(read("SomeKey=\(encoded)")["SomeKey"] == value)
        #expect(Baggage(dictionaryLiteral: ("SomeKey", value)).header == "SomeKey=%09%20%22'%3B=asdf!@#$%25^&*()")
        #expect(read("k=%E5%8C%97%e4%ba%AC")["k"] == "北京")
        #expect(Baggage(dictionaryLiteral: ("k", "北京")).header == "k=%E5%8C%97%E4%BA%AC")
        #expect(read("k=")["k"] == "")
        #expect(Baggage(dictionaryLiteral: ("k", "")).header == "k=")
    }

    @Test(
        "what is no percent-encoding stands for itself, and what is no UTF-8 becomes U+FFFD",
        arguments: [("%", "%"), ("%4", "%4"), ("%zz", "%zz"), ("a%25b", "a%b"), ("%FF", "\u{FFFD}"), ("+", "+")])
    func oddEncodings(encoded: String, value: String) {
        #expect(read("k=\(encoded)")["k"] == value)
    }

    @Test(
        "a member that is not valid is left out, and the others stay",
        arguments: [
            "", " ", "novalue", "=v", "k y=v", "k=a b", "k=\"q\"", "k=a\\b", "k=é", "é=v", "k\u{0}=v", "k=v;", "k=v;;",
            "k(=v", "k=v;p q", "k=v;=x", "k=v;p=\"", "k=\u{7F}", ";p",
        ])
    func invalidMembers(member: String) {
        let baggage = read("a=1,\(member),b=2")
        // An empty property is none.
        let kept = member.hasPrefix("k=v;") && member.allSatisfy { $0 != "p" && $0 != "x" }
        #expect(baggage.header == (kept ? "a=1,k=v,b=2" : "a=1,b=2"))
    }

    @Test("a key may come twice: both are passed on, and the last one is read")
    func duplicates() {
        var baggage = read("k=1,a=x,k=2")
        #expect(baggage["k"] == "2" && baggage.header == "k=1,a=x,k=2")
        baggage.set("k", to: "3", metadata: "p")
        #expect(baggage.header == "k=3;p,a=x")
        baggage.remove("k")
        #expect(baggage.header == "a=x" && baggage["k"] == nil)
    }

    @Test("64 members are passed on, and no more", arguments: [63, 64, 65, 500])
    func members(count: Int) {
        let header = (0..<count).map { "key\($0)=value" }.joined(separator: ",")
        #expect(read(header).entries.count == min(count, 64))
        var made = Baggage()
        for index in 0..<count { made.set("key\(index)", to: "value") }
        #expect(made.header.split(separator: ",").count == min(count, 64))
        #expect(read(made.header).header == made.header)
    }

    @Test("8,192 bytes are passed on, and what does not fit is left out whole")
    func bytes() {
        for length in [8_191, 8_192, 8_193] {
            let header = "a=" + String(repeating: "0", count: length - 2)
            #expect(read(header).header == (length <= 8_192 ? header : ""))
            #expect(
                Baggage(dictionaryLiteral: ("a", String(header.dropFirst(2)))).header.utf8.count
                    == (length <= 8_192 ? length : 0))
        }
        // 4,096 and a comma and 4,095 are 8,192; one more is too many, and the short one behind still fits.
        let half = "a=" + String(repeating: "0", count: 4_094)
        for length in [4_095, 4_096] {
            let second = "b=" + String(repeating: "1", count: length - 2)
            #expect(read("\(half),\(second)").header == (length == 4_095 ? "\(half),\(second)" : half))
            #expect(read(half, second, "c=1").header == (length == 4_095 ? "\(half),\(second)" : "\(half),c=1"))
        }
        // It is the encoded form that counts.
        let wide = Baggage(dictionaryLiteral: ("a", String(repeating: " ", count: 2_731)))
        #expect(wide.header.isEmpty)
    }

    @Test("a key that is no token and properties that are not valid are not sent")
    func notSendable() {
        var baggage: Baggage = ["a b": "1", "": "2", "ok": "3"]
        baggage.set("with", to: "4", metadata: "bad property")
        baggage.set("lines", to: "5\r\nx: y", metadata: "p\r\nx: y")
        #expect(baggage.header == "ok=3,with=4,lines=5%0D%0Ax:%20y")
    }

    @Test("the Python SDK reads what is written, and what it writes is read")
    func againstPython() throws {
        let values = [
            "plain", "with space", "a+b", "100%", "50%25", "=,;\\\"", "北京 ü 🎉", "\t\n\r", "~!@#$^&*()_-", "x=y;z",
        ]
        let program = """
            import json, sys
            from opentelemetry import baggage
            from opentelemetry.baggage.propagation import W3CBaggagePropagator
            p = W3CBaggagePropagator()
            given = json.load(sys.stdin)
            read = p.extract(dict(baggage=given["header"]))
            context = None
            for i, v in enumerate(given["values"]): context = baggage.set_baggage(f"k{i}", v, context)
            carrier = {}
            p.inject(carrier, context)
            print(json.dumps(dict(values=[baggage.get_baggage(f"k{i}", read) for i in range(len(given["values"]))], header=carrier["baggage"])))
            """
        struct Exchange: Codable {
            let values: [String]
            let header: String
        }
        var baggage = Baggage()
        for (index, value) in values.enumerated() { baggage.set("k\(index)", to: value) }
        let input = try JSONEncoder().encode(Exchange(values: values, header: baggage.header))
        let output = try JSONDecoder().decode(
            Exchange.self, from: Peers.python(program, [], input: input).standardOutput)
        // That SDK strips white space after decoding.
        #expect(output.values == values.map { $0.trimmingCharacters(in: .whitespacesAndNewlines) })
        let read = Baggage(headers: [output.header])
        // It writes a space as +, which W3C Baggage does not know.
        #expect(read.map(\.value) == values.map { $0.replacingOccurrences(of: " ", with: "+") })
    }
}
