import Foundation
import TestSupport
import Testing

@testable import Gzip

@Suite("Compressed bytes and files, by whichever library there is")
struct CompressionTests {
    private static func sample(_ count: Int) -> [UInt8] {
        var random = SeededGenerator(UInt64(count))
        return (0..<count).map { $0 / 512 % 2 == 0 ? UInt8($0 % 7) : UInt8.random(in: 0...255, using: &random) }
    }

    /// By the `zstd` program.
    private static func zstd(_ plain: [UInt8], _ arguments: [String] = []) throws -> [UInt8] {
        let program =
            "import subprocess, sys; sys.stdout.buffer.write(subprocess.run(['zstd', '-q', '-c', *sys.argv[1:]], "
            + "input=sys.stdin.buffer.read(), capture_output=True, check=True).stdout)"
        return Array(try Peers.python(program, arguments, input: Data(plain)).standardOutput)
    }

    @Test("libdeflate and zlib give the same, for every cut and for a size that lies")
    func libdeflate() throws {
        let library = try #require(Libdeflate.shared)
        for count in [0, 1, 1_000, 200_003] {
            let plain = Self.sample(count)
            let bytes = Gzip.compress(plain, level: 6)
            #expect(bytes.withUnsafeBytes { library.decompress($0, limit: count) } == plain)
            #expect(try Gzip.decompressInPieces(bytes, limit: count) == plain)
            if count > 0 {
                #expect(bytes.withUnsafeBytes { library.decompress($0, limit: count - 1) } == nil)
                #expect(throws: GzipError.tooLarge(limit: count - 1)) { try Gzip.decompress(bytes, limit: count - 1) }
            }
            for length in stride(from: 0, to: bytes.count, by: max(1, bytes.count / 50)) {
                let cut = Array(bytes[..<length])
                let byZlib = Result { try Gzip.decompressInPieces(cut, limit: count) }
                let either = Result { try Gzip.decompress(cut, limit: count) }
                #expect((try? byZlib.get()) == (try? either.get()))
            }
        }
        // Two members, and a size that says 4 GiB.
        let two = Gzip.compress(Self.sample(5_000)) + Gzip.compress(Self.sample(70))
        #expect(try Gzip.decompress(two, limit: 10_000) == Self.sample(5_000) + Self.sample(70))
        var lying = Gzip.compress(Self.sample(5_000))
        lying.replaceSubrange((lying.count - 4)..., with: [0xFF, 0xFF, 0xFF, 0xFF])
        #expect(throws: GzipError.corrupt) { try Gzip.decompress(lying, limit: 1 << 40) }
    }

    @Test("what zstd compressed is decompressed, whole and in pieces, and no more than is allowed")
    func zstandard() throws {
        for count in [0, 1, 1_000, 400_003] {
            let plain = Self.sample(count)
            let bytes = try Self.zstd(plain, ["-19"])
            #expect(Zstd.isZstd(bytes))
            #expect(try Zstd.decompress(bytes, limit: count) == plain)
            #expect(try Zstd.decompress(bytes + bytes, limit: 2 * count) == plain + plain)
            if count > 0 {
                #expect(throws: GzipError.tooLarge(limit: count - 1)) { try Zstd.decompress(bytes, limit: count - 1) }
                #expect(throws: GzipError.truncated) { try Zstd.decompress(Array(bytes.dropLast()), limit: count) }
            }
            let stream = try ZstdInflater()
            var output: [UInt8] = []
            for start in stride(from: 0, to: bytes.count, by: 13) {
                try stream.append(bytes[start..<min(start + 13, bytes.count)], to: &output, limit: count)
            }
            #expect(stream.isAtEnd)
            #expect(output == plain)
        }
        #expect(throws: GzipError.corrupt) { try Zstd.decompress(Array(repeating: 0x28, count: 99), limit: 100) }
    }

    /// 256 MiB of zeros: 256 kB of gzip.
    @Test("bombs are stopped at the limit")
    func bombs() throws {
        let program = "import gzip, sys; sys.stdout.buffer.write(gzip.compress(bytes(1 << 28), 6))"
        let gzip = Array(try Peers.python(program).standardOutput)
        #expect(throws: GzipError.tooLarge(limit: 1 << 20)) { try Gzip.decompress(gzip, limit: 1 << 20) }
        let zstd = try Self.zstd(Array(repeating: 0, count: 1 << 26))
        #expect(throws: GzipError.tooLarge(limit: 1 << 20)) { try Zstd.decompress(zstd, limit: 1 << 20) }
    }

    @Test("a file is read in pieces, whatever it is compressed with, and its progress is told")
    func files() throws {
        let plain = Self.sample(700_001)
        let path = NSTemporaryDirectory() + "compressed-" + UUID().uuidString
        defer { try? FileManager.default.removeItem(atPath: path) }
        for bytes in [plain, Gzip.compress(plain), try Self.zstd(plain), [], [0x28], [0x1F, 0x8B]] {
            try Data(bytes).write(to: URL(fileURLWithPath: path))
            let file = try CompressedFile(path: path)
            #expect(file.byteCount == bytes.count)
            var output: [UInt8] = []
            if bytes == [0x1F, 0x8B] {
                #expect(throws: CompressedFile.Failure.self) { while let piece = try file.next() { output += piece } }
                continue
            }
            while let piece = try file.next() { output += piece }
            #expect(file.bytesRead == bytes.count)
            #expect(output == (bytes.count > 1_000 ? plain : bytes))
        }
        let error = #expect(throws: CompressedFile.Failure.self) { try CompressedFile(path: path + ".missing") }
        #expect(error?.description.contains("No such file") == true)
    }
}
