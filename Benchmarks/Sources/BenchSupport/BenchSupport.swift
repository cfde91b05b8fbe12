import CGlibc
import Glibc

/// CPU and wall clocks, in nanoseconds.
public enum BenchClock {
    public static var thread: UInt64 { read(CLOCK_THREAD_CPUTIME_ID) }
    public static var process: UInt64 { read(CLOCK_PROCESS_CPUTIME_ID) }
    public static var wall: UInt64 { read(CLOCK_MONOTONIC) }
    public static var unix: UInt64 { read(CLOCK_REALTIME) }

    private static func read(_ clock: clockid_t) -> UInt64 {
        var time = timespec()
        clock_gettime(clock, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}

/// Figures on stdout for `run`: key, unit, one value per repetition, and what else must be known.
public func report(_ key: String, _ unit: String, _ values: [Double], _ note: String = "") {
    print("figure\t\(key)\t\(unit)\t\(values.map { "\($0)" }.joined(separator: " "))\t\(note)")
    fflush(nil)
}

/// A figure that this run could not measure.
public func reportMissing(_ key: String, _ cause: String) {
    print("missing\t\(key)\t\(cause)")
    fflush(nil)
}

/// Keeps the optimiser from leaving work out.
@inline(never)
public func keep<T>(_ value: T) { withUnsafePointer(to: value) { _ = $0 } }

/// Resident bytes of this process, after the allocator has given back what it can.
public func residentBytes() -> Int {
    malloc_trim(0)
    guard let file = fopen("/proc/self/statm", "r") else { return 0 }
    defer { fclose(file) }
    var line = [CChar](repeating: 0, count: 256)
    guard fgets(&line, 256, file) != nil else { return 0 }
    let text = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    let fields = text.split(separator: " ")
    return (Int(fields[1]) ?? 0) * Int(getpagesize())
}

/// The same numbers in every run.
public struct Xorshift: RandomNumberGenerator {
    private var state: UInt64

    public init(seed: UInt64) { state = seed | 1 }

    public mutating func next() -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state &* 0x2545_F491_4F6C_DD1D
    }
}

/// The argument after `name`.
public func option(_ name: String) -> String? {
    let arguments = CommandLine.arguments
    guard let index = arguments.firstIndex(of: name), index + 1 < arguments.count else { return nil }
    return arguments[index + 1]
}

public func fail(_ cause: String) -> Never {
    let line = Array("Error: \(cause)\n".utf8)
    write(STDERR_FILENO, line, line.count)
    exit(1)
}
