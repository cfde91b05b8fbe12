/// Identifies a trace: 16 bytes, not all zero.
public struct TraceID: Hashable, Sendable, CustomStringConvertible {
    public let high: UInt64
    public let low: UInt64

    @inlinable
    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// From 32 lower-case hexadecimal digits; nil for anything else.
    public init?(hex: some StringProtocol) {
        guard hex.utf8.count == 32, let high = Hex.value(hex.utf8.prefix(16)), let low = Hex.value(hex.utf8.suffix(16))
        else { return nil }
        self.init(high: high, low: low)
    }

    @inlinable public var isValid: Bool { high | low != 0 }
    /// 32 lower-case hexadecimal digits.
    public var description: String {
        String(unsafeUninitializedCapacity: 32) { buffer in
            guard let base = buffer.baseAddress else { return 0 }
            writeDigits(to: base)
            return 32
        }
    }

    /// Writes the 32 digits of ``description``.
    package func writeDigits(to place: UnsafeMutablePointer<UInt8>) {
        Hex.write(high, to: place)
        Hex.write(low, to: place + 16)
    }
}

/// Identifies a span in its trace: 8 bytes, not all zero.
public struct SpanID: Hashable, Sendable, CustomStringConvertible {
    public let rawValue: UInt64

    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// From 16 lower-case hexadecimal digits; nil for anything else.
    public init?(hex: some StringProtocol) {
        guard hex.utf8.count == 16, let value = Hex.value(hex.utf8) else { return nil }
        self.init(rawValue: value)
    }

    @inlinable public var isValid: Bool { rawValue != 0 }
    /// 16 lower-case hexadecimal digits.
    public var description: String {
        String(unsafeUninitializedCapacity: 16) { buffer in
            guard let base = buffer.baseAddress else { return 0 }
            Hex.write(rawValue, to: base)
            return 16
        }
    }
}

/// The flags of a trace, as `traceparent` carries them.
public struct TraceFlags: OptionSet, Hashable, Sendable {
    public let rawValue: UInt8

    @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }

    public static let sampled = TraceFlags(rawValue: 0x01)
    /// The lower seven bytes of the trace id are random (W3C Trace Context, level 2).
    public static let random = TraceFlags(rawValue: randomBit)
    @usableFromInline static let randomBit: UInt8 = 0x02
}

/// What travels from one span to the next, in a process and between processes.
public struct SpanContext: Hashable, Sendable {
    public let traceID: TraceID
    public let spanID: SpanID
    public let traceFlags: TraceFlags
    /// Nil when there are no entries, which is the rule.
    public let traceState: TraceState?
    /// Came from another process.
    public let isRemote: Bool

    @inlinable
    public init(
        traceID: TraceID, spanID: SpanID, traceFlags: TraceFlags, traceState: TraceState? = nil, isRemote: Bool = false
    ) {
        self.traceID = traceID
        self.spanID = spanID
        self.traceFlags = traceFlags
        self.traceState = traceState
        self.isRemote = isRemote
    }

    @inlinable public var isSampled: Bool { traceFlags.rawValue & 1 != 0 }
    @inlinable public var isValid: Bool { traceID.isValid && spanID.isValid }
}

enum Hex {
    private static let digits: StaticString = "0123456789abcdef"

    /// Writes 16 digits.
    static func write(_ value: UInt64, to place: UnsafeMutablePointer<UInt8>) {
        var value = value
        var index = 15
        while index >= 0 {
            place[index] = digits.utf8Start[Int(value & 15)]
            value >>= 4
            index -= 1
        }
    }

    /// Lower-case digits only, as the specification demands; nil for anything else.
    static func value(_ digits: some Sequence<UInt8>) -> UInt64? {
        var value: UInt64 = 0
        for digit in digits {
            switch digit {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): value = value << 4 | UInt64(digit - UInt8(ascii: "0"))
            case UInt8(ascii: "a")...UInt8(ascii: "f"): value = value << 4 | UInt64(digit - UInt8(ascii: "a") + 10)
            default: return nil
            }
        }
        return value
    }
}
