import Foundation

/// A value behind a lock of pthread's: ThreadSanitizer reports false races on a contended `Mutex` on Linux.
public final class Locked<Value>: @unchecked Sendable {  // guarded by `lock`
    private var value: Value
    private let lock = NSLock()

    public init(_ value: Value) { self.value = value }

    public func withLock<Result>(_ body: (inout Value) throws -> Result) rethrows -> Result {
        lock.lock()
        defer { lock.unlock() }
        return try body(&value)
    }
}
