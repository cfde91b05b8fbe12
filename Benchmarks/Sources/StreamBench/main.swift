import BenchSupport
import Foundation

// The embedded log: appends, reads after a cursor, a long history, retention. Prints figures for `run`.
//
//     StreamBench --directory DIR [--repetitions N] [--history N] [--only append,read,history,trim]
//
// DIR must be on the disk that is meant, and is removed. The history has 10 million events by default, 5 GB.

guard !Settings.directory.isEmpty else { fail("say where the log goes: --directory DIR") }
try? FileManager.default.removeItem(atPath: Settings.directory)
try FileManager.default.createDirectory(atPath: Settings.directory, withIntermediateDirectories: true)
defer { try? FileManager.default.removeItem(atPath: Settings.directory) }

if Settings.parts.contains("append") { try await measureAppends() }
if Settings.parts.contains("read") { try await measureReads() }
if Settings.parts.contains("history") { try await measureHistory() }
if Settings.parts.contains("trim") { try await measureTrimming() }
