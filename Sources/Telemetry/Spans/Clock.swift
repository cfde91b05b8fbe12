import Glibc

/// A moment: nanoseconds since 1970, exact to the nanosecond.
public struct Instant: Hashable, Comparable, Sendable {
    public let unixNano: UInt64

    @inlinable public init(unixNano: UInt64) { self.unixNano = unixNano }

    @inlinable
    public static func < (one: Instant, other: Instant) -> Bool { one.unixNano < other.unixNano }
}

/// The process's clock: the wall clock as it was read once, and the monotonic clock since then. It never steps back, so
/// no span ends before it starts, whatever happens to the wall clock.
public enum Clock {
    @usableFromInline
    static let offset: UInt64 = {
        var wall = timespec()
        var monotonic = timespec()
        clock_gettime(CLOCK_REALTIME, &wall)
        clock_gettime(CLOCK_MONOTONIC, &monotonic)
        return nano(wall) - nano(monotonic)
    }()

    @inlinable
    public static func now() -> Instant {
        var monotonic = timespec()
        clock_gettime(CLOCK_MONOTONIC, &monotonic)
        return Instant(unixNano: nano(monotonic) &+ offset)
    }

    @inlinable @inline(__always)
    static func nano(_ time: timespec) -> UInt64 {
        UInt64(truncatingIfNeeded: time.tv_sec) &* 1_000_000_000 &+ UInt64(truncatingIfNeeded: time.tv_nsec)
    }
}
