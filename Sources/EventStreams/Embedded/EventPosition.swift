/// The primary key of a stored event: its log's number in the upper 17 bits, its offset in the lower 46, so that one
/// log is one range and an append goes to that range's end.
enum EventPosition {
    static let offsetBits: Int64 = 46
    static let maximumOffset: UInt64 = 1 << 46 - 1
    static let maximumLog = 1 << 17 - 1

    static func of(log: Int64, offset: UInt64) -> Int64 {
        log << offsetBits | Int64(offset)
    }

    static func offset(_ position: Int64) -> UInt64 {
        UInt64(position) & maximumOffset
    }
}

/// A row of the table `logs`.
struct LogRecord {
    var id: Int64
    /// One more than the last durable offset, or, after a clean end, than the last used one.
    var nextOffset: UInt64 = 1
    var trimmedThrough: UInt64 = 0
    var events: Int = 0
    var bytes: Int = 0
    /// The last offset that `blocks` and `latest` know.
    var indexedThrough: UInt64 = 0
    var holes = LogHoles()
}
