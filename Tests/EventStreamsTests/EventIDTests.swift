import Foundation
import TestSupport
import Testing

@testable import EventStreams

@Suite("Event ids")
struct EventIDTests {
    let directory = ScratchDirectory()

    static let allowed = Set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".utf8)
    static let extremes: [(epoch: UInt32, offset: UInt64)] = [
        (0, 0), (1, 0), (1, 1), (1, 255), (1, 256), (7, 65_535), (.max, 1), (1, .max), (.max, .max),
        (0x0102_0304, 0x0506_0708_090a_0b0c),
    ]

    @Test("an id is ev_ and at most 61 letters, digits, hyphens and underscores")
    func form() throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        for (epoch, offset) in Self.extremes {
            let id = stream.id(epoch: epoch, offset: offset)
            #expect(id.utf8.count <= 64)
            #expect(id.hasPrefix("ev_"))
            #expect(id.utf8.allSatisfy { Self.allowed.contains($0) }, "\(id)")
        }
    }

    @Test("an id carries its epoch and offset")
    func roundTrip() {
        let codec = EventIDCodec(key: Array(0..<32), storeID: 0xdead_beef_0123_4567, tenant: "acme")
        for (epoch, offset) in Self.extremes {
            let decoded = codec.decode(codec.encode(epoch: epoch, offset: offset))
            #expect(decoded?.epoch == epoch)
            #expect(decoded?.offset == offset)
        }
    }

    @Test("HMAC-SHA256 gives the values of RFC 4231")
    func hmacVectors() {
        // RFC 4231, sections 4.2, 4.3 and 4.4.
        let cases: [(key: [UInt8], data: [UInt8], digest: String)] = [
            (
                [UInt8](repeating: 0x0b, count: 20), Array("Hi There".utf8),
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
            ),
            (
                Array("Jefe".utf8), Array("what do ya want for nothing?".utf8),
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
            ),
            (
                [UInt8](repeating: 0xaa, count: 20), [UInt8](repeating: 0xdd, count: 50),
                "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"
            ),
        ]
        for (key, data, digest) in cases {
            let computed = KeyedHash(key: key).authenticate(data).map { String(format: "%02x", $0) }.joined()
            #expect(computed == digest)
        }
    }

    @Test("Python's hmac, struct and base64 spell the same ids")
    func python() throws {
        let key = (0..<32).map { UInt8($0 * 7 & 255) }
        let storeID: UInt64 = 0x8123_4567_89ab_cdef
        let program = """
            import base64, hashlib, hmac, struct, sys
            key, store = bytes.fromhex(sys.argv[1]), int(sys.argv[2])
            for line in sys.stdin.buffer.read().decode().splitlines():
                epoch, offset, tenant = line.split(" ", 2)
                label = b"isotherm event id v1" + struct.pack(">Q", store) + tenant.encode()
                tenant_key = hmac.new(key, label, hashlib.sha256).digest()
                head = struct.pack(">BIHQ", 1, int(epoch), 0, int(offset))
                mac = hmac.new(tenant_key, head, hashlib.sha256).digest()[:12]
                print("ev_" + base64.urlsafe_b64encode(head + mac).decode())
            """
        var lines: [String] = []
        var ids: [String] = []
        for tenant in [
            "acme", "caf\u{e9}", "a tenant with a name that is longer than one block of SHA-256 and then some",
        ] {
            let codec = EventIDCodec(key: key, storeID: storeID, tenant: tenant)
            for (epoch, offset) in Self.extremes {
                lines.append("\(epoch) \(offset) \(tenant)")
                ids.append(codec.encode(epoch: epoch, offset: offset))
            }
        }
        let python = FileManager.default.isExecutableFile(atPath: Peers.python) ? Peers.python : "python3"
        let output = try Peers.run(
            python, ["-c", program, key.map { String(format: "%02x", $0) }.joined(), "\(storeID)"],
            input: Data(lines.joined(separator: "\n").utf8))
        #expect(output.text.split(separator: "\n").map(String.init) == ids)
    }

    @Test("the id of a stored event is signed with the directory's key")
    func keyFile() throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        let receipt = try #require(try stream.appendAndWait(texts: ["a"]).first)
        let key = try Data(contentsOf: URL(fileURLWithPath: directory.path + "/cursor.key"))
        #expect(key.count == 32)
        let codec = EventIDCodec(key: Array(key), storeID: store.core.database.storeID, tenant: "acme")
        #expect(codec.encode(epoch: receipt.epoch, offset: receipt.offset) == receipt.id)
        let mode = try FileManager.default.attributesOfItem(atPath: directory.path + "/cursor.key")[.posixPermissions]
        #expect(mode as? Int == 0o600)
    }

    // MARK: What was not written here

    @Test("every bit flip of an id is foreign")
    func bitFlips() throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        let id = try #require(try stream.appendAndWait(texts: ["a", "b"]).last).id
        #expect(stream.resolve(id) == .position(2))
        // Flips in the text, as bytes that may no longer be UTF-8.
        let text = Array(id.utf8)
        for index in text.indices {
            for bit in 0..<8 {
                var flipped = text
                flipped[index] ^= 1 << bit
                #expect(stream.resolve(String(decoding: flipped, as: UTF8.self)) == .foreign)
            }
        }
        // Flips in the 27 bytes behind it.
        let raw = try #require(Self.bytes(id))
        #expect(raw.count == 27)
        #expect(Self.text(raw) == id)
        for index in raw.indices {
            for bit in 0..<8 {
                var flipped = raw
                flipped[index] ^= 1 << bit
                #expect(stream.resolve(Self.text(flipped)) == .foreign, "byte \(index), bit \(bit)")
            }
        }
    }

    @Test("a truncated or extended id is foreign")
    func lengths() throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        let id = try #require(try stream.appendAndWait(texts: ["a"]).first).id
        for count in 0..<id.count {
            #expect(stream.resolve(id.prefix(count)) == .foreign)
            #expect(stream.resolve(id.suffix(count)) == .foreign)
        }
        for other in [id + "A", id + "=", " " + id, id + "\n", id + "\u{0}", id + id, "", "ev_", id.uppercased()] {
            #expect(stream.resolve(other) == .foreign, "\(other.debugDescription)")
        }
        #expect(stream.resolve("ev_" + String(repeating: "A", count: 1 << 20)) == .foreign)
        // A slice of a longer text resolves as what it shows.
        #expect(stream.resolve("<\(id)>".dropFirst().dropLast()) == .position(1))
    }

    @Test("an id of another tenant, directory or newly created store is foreign")
    func others() throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        let neighbour = try store.stream(tenant: "acme2")
        let elsewhere = ScratchDirectory()
        let strange = try elsewhere.open().stream(tenant: "acme")
        let ids = try stream.appendAndWait(texts: ["a", "b"]).map(\.id) + [stream.id(epoch: 1, offset: 0)]
        try neighbour.appendAndWait(texts: ["a", "b"])
        for id in ids {
            if case .position = stream.resolve(id) {} else { Issue.record("\(id) is the stream's own") }
            #expect(neighbour.resolve(id) == .foreign)
            #expect(strange.resolve(id) == .foreign)
        }
        // The same key with a database that was created anew.
        store.close()
        for suffix in ["", "-wal", "-shm"] { try? FileManager.default.removeItem(atPath: directory.database + suffix) }
        let anew = try directory.open()
        let young = try anew.stream(tenant: "acme")
        try young.appendAndWait(texts: ["a", "b"])
        for id in ids { #expect(young.resolve(id) == .foreign) }
    }

    @Test("a position that was never given out is foreign though its signature is right")
    func future() throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        try stream.appendAndWait(texts: ["a", "b"])
        #expect(stream.resolve(stream.id(epoch: stream.epoch, offset: 2)) == .position(2))
        #expect(stream.resolve(stream.id(epoch: stream.epoch, offset: 3)) == .foreign)
        #expect(stream.resolve(stream.id(epoch: stream.epoch, offset: .max)) == .foreign)
        #expect(stream.resolve(stream.id(epoch: stream.epoch + 1, offset: 1)) == .foreign)
        #expect(stream.resolve(stream.id(epoch: .max, offset: .max)) == .foreign)
        // Before the first epoch there was nothing: from the start.
        #expect(stream.resolve(stream.id(epoch: 0, offset: .max)) == .position(0))
    }

    @Test("20,000 random texts are foreign")
    func random() throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        try stream.appendAndWait(texts: ["a"])
        var generator = SeededGenerator(20_260_101)
        let alphabet = Array(Self.allowed).sorted()
        var accepted: [String] = []
        for round in 0..<20_000 {
            let length = round % 2 == 0 ? 36 : Int.random(in: 0...80, using: &generator)
            let bytes: [UInt8] =
                round % 4 < 3
                ? (0..<length).map { _ in alphabet.randomElement(using: &generator) ?? 65 }
                : (0..<length).map { _ in UInt8.random(in: 0...255, using: &generator) }
            let text = (round % 8 < 6 ? "ev_" : "") + String(decoding: bytes, as: UTF8.self)
            if stream.resolve(text) != .foreign { accepted.append(text) }
        }
        #expect(accepted == [])
    }

    /// By Foundation's base64, not by the code under test.
    private static func bytes(_ id: String) -> [UInt8]? {
        let standard = id.dropFirst(3).replacingOccurrences(of: "-", with: "+").replacingOccurrences(of: "_", with: "/")
        return Data(base64Encoded: standard).map { Array($0) }
    }

    private static func text(_ bytes: [UInt8]) -> String {
        "ev_"
            + Data(bytes).base64EncodedString().replacingOccurrences(of: "+", with: "-")
            .replacingOccurrences(of: "/", with: "_")
    }
}
