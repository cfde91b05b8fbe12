import Foundation
import Gzip
import LatencyHeatmap
import OTLP
import Synchronization

/// Reads files of OTLP into an engine: in all the forms of `OTLPMessageStream`, compressed or not, two files at a time. Holds
/// one message of each at a time, however long the files are.
struct HeatmapFileReader {
    let engine: HeatmapEngine
    /// Called now and then from either thread with the bytes read so far, and those of all files; 0 if that is not known.
    var progress: @Sendable (_ read: Int, _ total: Int) -> Void = { _, _ in }

    private static let threads = 2

    /// Throws for the first source, in their order, that could not be read; the others are read all the same.
    func read(_ sources: [String]) throws(SettingError) {
        let total = sources.reduce(0) { $0 + Self.byteCount($1) }
        let done = Mutex(0)
        let next = Atomic(0)
        let failures = Mutex<[Int: String]>([:])
        DispatchQueue.concurrentPerform(iterations: min(Self.threads, sources.count)) { _ in
            while true {
                let number = next.wrappingAdd(1, ordering: .relaxed).oldValue
                guard number < sources.count else { return }
                do {
                    try read(sources[number]) { bytes in
                        let all = done.withLock { done in
                            done += bytes
                            return done
                        }
                        progress(all, total)
                    }
                } catch {
                    failures.withLock { $0[number] = "\(error)" }
                }
            }
        }
        if let first = failures.withLock({ $0.min { $0.key < $1.key } }) { throw SettingError(first.value) }
    }

    private static func byteCount(_ source: String) -> Int {
        guard source != "-", let attributes = try? FileManager.default.attributesOfItem(atPath: source) else {
            return 0
        }
        return (attributes[.size] as? NSNumber)?.intValue ?? 0
    }

    private func read(_ source: String, _ note: (Int) -> Void) throws {
        let file: CompressedFile
        do { file = try CompressedFile(path: source) } catch {
            throw SettingError("\(source) cannot be read (\(error.cause)); give a server's URL, OTLP files, or -")
        }
        var stream = OTLPMessageStream()
        var before = 0
        do {
            while let piece = try file.next() {
                try stream.append(piece, ingest)
                note(file.bytesRead - before)
                before = file.bytesRead
            }
            try stream.finish(ingest)
        } catch let error as OTLPDecodingError {
            throw SettingError("\(source) is not OTLP (JSON lines or protobuf): \(error)")
        }
    }

    private func ingest(_ isJSON: Bool, _ message: UnsafeRawBufferPointer) throws {
        guard isJSON else {
            try engine.ingest(protobuf: message)
            return
        }
        // A file has one signal; the first key says which.
        if message.prefix(64).firstRange(of: Array("resourceMetrics".utf8)) != nil {
            try engine.ingestMetrics(json: message)
        } else {
            try engine.ingest(json: message)
        }
    }
}
