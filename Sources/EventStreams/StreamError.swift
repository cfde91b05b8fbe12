/// Why an append, a read or an opening failed.
public struct StreamError: Error, Sendable, Equatable, CustomStringConvertible {
    /// A closed set; `rawValue` serves as a metric label.
    public enum Code: String, Sendable, CaseIterable {
        /// The bound on events that wait for the disk is reached. Nothing was sequenced; try again shortly.
        case full
        /// The store was closed.
        case closed
        /// The disk refused the write for lack of space. Nothing of the batch is in the log.
        case storageFull = "storage_full"
        /// Stored bytes do not match their checksum, or the file is damaged.
        case corrupt
        /// One event or batch is larger than could ever be accepted.
        case tooLarge = "too_large"
        /// The position was removed by retention; ``StreamError/offset`` is the earliest that is left.
        case tooOld = "too_old"
        /// The storage failed otherwise (I/O error, missing permission). Nothing of the batch is in the log.
        case unavailable
        /// The data directory belongs to another process, a newer version, or something else altogether.
        case incompatible
        /// A setting or an argument makes no sense.
        case invalid
    }

    public let code: Code
    /// For a person: names the value, the limit and the remedy.
    public let cause: String
    /// The offset concerned: the damaged event for ``Code/corrupt``, the earliest readable one for ``Code/tooOld``.
    public let offset: UInt64?

    public init(code: Code, cause: String, offset: UInt64? = nil) {
        self.code = code
        self.cause = cause
        self.offset = offset
    }

    public var description: String { "\(code.rawValue): \(cause)" }
}
