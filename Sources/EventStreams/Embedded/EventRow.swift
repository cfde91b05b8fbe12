import GRDBSQLite

/// The current row of ``LogReaders/Query/range`` or `one`: valid until the statement's next step.
struct EventRow {
    let position: Int64
    let epoch: Int64
    let accepted: UInt64
    let produced: UInt64?
    let topic: UnsafeRawBufferPointer?
    let type: UnsafeRawBufferPointer?
    let key: UnsafeRawBufferPointer?
    let contentType: UnsafeRawBufferPointer?
    let traceparent: UnsafeRawBufferPointer?
    let tracestate: UnsafeRawBufferPointer?
    let idempotencyKey: UnsafeRawBufferPointer?
    let payload: UnsafeRawBufferPointer
    /// Whether it matches its checksum.
    let isSound: Bool

    init(_ handle: OpaquePointer) {
        position = sqlite3_column_int64(handle, 0)
        epoch = sqlite3_column_int64(handle, 1)
        accepted = UInt64(bitPattern: sqlite3_column_int64(handle, 2))
        produced =
            sqlite3_column_type(handle, 3) == SQLITE_NULL ? nil : UInt64(bitPattern: sqlite3_column_int64(handle, 3))
        var checksum = EventChecksum()
        checksum.add(UInt64(bitPattern: position))
        checksum.add(UInt64(bitPattern: epoch))
        checksum.add(accepted)
        checksum.add(produced ?? .max)
        topic = Self.text(handle, 5, &checksum)
        type = Self.text(handle, 6, &checksum)
        key = Self.text(handle, 7, &checksum)
        contentType = Self.text(handle, 8, &checksum)
        traceparent = Self.text(handle, 9, &checksum)
        tracestate = Self.text(handle, 10, &checksum)
        idempotencyKey = Self.text(handle, 11, &checksum)
        payload = UnsafeRawBufferPointer(
            start: sqlite3_column_blob(handle, 12), count: Int(sqlite3_column_bytes(handle, 12)))
        checksum.add(payload)
        isSound =
            topic != nil && UInt32(exactly: epoch) != nil
            && checksum.value == UInt64(bitPattern: sqlite3_column_int64(handle, 4))
    }

    /// As ``NewEvent/byteCount``.
    var byteCount: Int {
        var count = StoredEvent.fixedByteCount + payload.count
        count += (topic?.count ?? 0) + (type?.count ?? 0) + (key?.count ?? 0) + (contentType?.count ?? 0)
        return count + (traceparent?.count ?? 0) + (tracestate?.count ?? 0) + (idempotencyKey?.count ?? 0)
    }

    /// nil for NULL: an empty text has an address too.
    @inline(__always)
    private static func text(
        _ handle: OpaquePointer, _ index: CInt, _ checksum: inout EventChecksum
    ) -> UnsafeRawBufferPointer? {
        let start = sqlite3_column_text(handle, index)
        let bytes = start.map { UnsafeRawBufferPointer(start: $0, count: Int(sqlite3_column_bytes(handle, index))) }
        checksum.add(bytes)
        return bytes
    }

    /// nil when the row does not match its checksum.
    ///
    /// - Parameter previous: a neighbour, which often has the same topic, type and content type: then they share the
    ///   strings.
    func event(like previous: StoredEvent?) -> StoredEvent? {
        guard isSound, let epoch = UInt32(exactly: epoch), let topic else { return nil }
        return StoredEvent(
            offset: EventPosition.offset(position), epoch: epoch, topic: Self.text(topic, like: previous?.topic),
            type: type.map { Self.text($0, like: previous?.type) }, key: key.map { Self.text($0, like: nil) },
            contentType: contentType.map { Self.text($0, like: previous?.contentType) }, payload: Array(payload),
            acceptedUnixNano: accepted, producedUnixNano: produced,
            traceparent: traceparent.map { Self.text($0, like: nil) },
            tracestate: tracestate.map { Self.text($0, like: previous?.tracestate) },
            idempotencyKey: idempotencyKey.map { Self.text($0, like: nil) }, byteCount: byteCount)
    }

    private static func text(_ bytes: UnsafeRawBufferPointer, like other: String?) -> String {
        // A text of up to 15 bytes needs no memory of its own.
        if bytes.count > 15, let other, ExactText.isSame(bytes, other) { return other }
        return String(decoding: bytes, as: UTF8.self)
    }
}
