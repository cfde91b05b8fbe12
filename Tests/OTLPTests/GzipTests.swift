import Foundation
import Gzip
import TestSupport
import Testing

@Suite("Gzip reads and writes what Python's gzip module writes and reads")
struct GzipTests {
    private static func sample(_ count: Int) -> [UInt8] {
        var random = SeededGenerator(UInt64(count))
        // Half noise, half repetition.
        return (0..<count).map { $0 / 512 % 2 == 0 ? UInt8($0 % 7) : UInt8.random(in: 0...255, using: &random) }
    }

    @Test(
        "Python decompresses what was compressed", arguments: [0, 1, 1_000, 65_536, 1_000_003], [1, 6, 9] as [Int32])
    func compressed(count: Int, level: Int32) throws {
        let plain = Self.sample(count)
        let output = try Peers.python(
            "import gzip, sys; sys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))",
            input: Data(Gzip.compress(plain, level: level)))
        #expect(Array(output.standardOutput) == plain)
    }

    private static func byPython(_ plain: [UInt8], level: Int = 6, members: Int = 1) throws -> [UInt8] {
        let program = """
            import gzip, sys
            data = sys.stdin.buffer.read(); level, members = int(sys.argv[1]), int(sys.argv[2])
            size = -(-len(data) // members) or 1
            for at in range(0, max(len(data), 1), size): sys.stdout.buffer.write(gzip.compress(data[at:at + size], level))
            """
        return Array(try Peers.python(program, ["\(level)", "\(members)"], input: Data(plain)).standardOutput)
    }

    @Test(
        "what Python compressed is decompressed, whole and byte by byte", arguments: [0, 1, 1_000, 65_536, 200_003],
        [0, 9])
    func decompressed(count: Int, level: Int) throws {
        let plain = Self.sample(count)
        let bytes = try Self.byPython(plain, level: level)
        #expect(Gzip.isGzip(bytes))
        #expect(try Gzip.decompress(bytes, limit: count) == plain)
        guard count <= 1_000 else { return }
        let inflater = try Inflater()
        var output: [UInt8] = []
        for index in bytes.indices { try inflater.append(bytes[index...index], to: &output, limit: count) }
        #expect(output == plain)
        #expect(inflater.isAtEnd)
    }

    @Test("several members in a row are one text (RFC 1952, section 2.2)")
    func members() throws {
        let plain = Self.sample(10_000)
        #expect(try Gzip.decompress(Self.byPython(plain, members: 5), limit: 10_000) == plain)
    }

    @Test("every truncation is called truncated")
    func truncated() throws {
        let bytes = try Self.byPython(Self.sample(1_500))
        for end in 1..<bytes.count {
            #expect(throws: GzipError.truncated) { try Gzip.decompress(Array(bytes[..<end]), limit: 10_000) }
        }
    }

    @Test("a wrong checksum, a wrong length and anything that is not gzip are corrupt")
    func corrupt() throws {
        let bytes = try Self.byPython(Self.sample(1_500))
        // The last eight bytes are the CRC and the length.
        for index in (bytes.count - 8)..<bytes.count {
            var damaged = bytes
            damaged[index] ^= 0x10
            #expect(throws: GzipError.corrupt) { try Gzip.decompress(damaged, limit: 10_000) }
        }
        #expect(throws: GzipError.corrupt) { try Gzip.decompress(Array("not gzip at all".utf8), limit: 10_000) }
        #expect(throws: GzipError.corrupt) { try Gzip.decompress(bytes + Array("trailing".utf8), limit: 10_000) }
        #expect(!Gzip.isGzip(Array("{}".utf8)))
    }

    @Test("the limit holds below, at and above it, and for a bomb")
    func limit() throws {
        let plain = Self.sample(100_000)
        let bytes = try Self.byPython(plain)
        #expect(throws: GzipError.tooLarge(limit: 99_999)) { try Gzip.decompress(bytes, limit: 99_999) }
        #expect(try Gzip.decompress(bytes, limit: 100_000).count == 100_000)
        #expect(try Gzip.decompress(bytes, limit: 100_001).count == 100_000)
        // 200 MB of zeroes in 200 KB.
        let bomb = Gzip.compress([UInt8](repeating: 0, count: 200_000_000))
        #expect(throws: GzipError.tooLarge(limit: 1_000_000)) { try Gzip.decompress(bomb, limit: 1_000_000) }
    }
}
