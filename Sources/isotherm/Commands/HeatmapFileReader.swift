import Foundation
import Gzip
import LatencyHeatmap
import OTLP
import Synchronization

/// Reads files of OTLP into an engine: in all the forms of `OTLPMessageStream`, compressed or not, two files at a time. Holds
/// one message of each at a time, however long the files are.
struct HeatmapFileReader {
    let engine: HeatmapEngine
    /// Called after each piece, from either thread, with the bytes read so far of all files, and how many there are; that is
    /// 0 if it is not known, because one of the sources is no file. Compressed files count as they are on disk.
    var progress: (@Sendable (_ bytesRead: UInt64, _ totalBytes: UInt64) -> Void)?

    private static let threads = 2

    /// Throws for the first source, in their order, that could not be read; the others are read all the same.
    func read(_ sources: [String]) throws(SettingError) {
        let sizes = sources.map(Self.byteCount)
        let total = sizes.contains(nil) ? 0 : sizes.reduce(0) { $0 + ($1 ?? 0) }
        let done = Mutex<UInt64>(0)
        let next = Atomic(0)
        let failures = Mutex<[Int: String]>([:])
        DispatchQueue.concurrentPerform(iterations: min(Self.threads, sources.count)) { _ in
            while true {
                let number = next.wrappingAdd(1, ordering: .relaxed).oldValue
                guard number < sources.count else { return }
                do {
                    try read(sources[number]) { bytes in
                        guard let progress else { return }
                        // Under the lock, so that it never seems to go back.
                        done.withLock { done in
                            done += UInt64(bytes)
                            progress(done, total)
                        }
                    }
                } catch {
                    failures.withLock { $0[number] = "\(error)" }
                }
            }
        }
        if let first = failures.withLock({ $0.min { $0.key < $1.key } }) { throw SettingError(first.value) }
    }

    /// Nil for what is no regular file.
    private static func byteCount(_ source: String) -> UInt64? {
        guard source != "-", let attributes = try? FileManager.default.attributesOfItem(atPath: source),
            attributes[.type] as? FileAttributeType == .typeRegular
        else { return nil }
        return (attributes[.size] as? NSNumber)?.uint64Value
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
        } catch let error as SettingError {
            throw SettingError("\(source): \(error)")
        }
    }

    private func ingest(_ isJSON: Bool, _ message: UnsafeRawBufferPointer) throws {
        switch try isJSON ? OTLPSignal(json: message) : OTLPSignal(protobuf: message) {
        case .metrics where isJSON: try engine.ingestMetrics(json: message)
        case .metrics: try engine.ingestMetrics(protobuf: message)
        case .logs: throw SettingError("logs have no latencies; give a file of traces or of metrics")
        case .traces where isJSON, nil where isJSON: try engine.ingest(json: message)
        case .traces, nil: try engine.ingest(protobuf: message)
        }
    }
}
