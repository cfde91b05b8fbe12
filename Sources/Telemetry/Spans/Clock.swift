import CTelemetry

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
    @inlinable
    public static func now() -> Instant { Instant(unixNano: isotherm_now()) }
}
