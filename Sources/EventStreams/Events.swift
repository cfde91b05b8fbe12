import Synchronization

/// An event that has not been sequenced yet.
public struct NewEvent: Sendable {
    public var topic: String
    /// The SSE event name, nil for plain messages.
    public var type: String?
    /// Identifies the thing this event is the latest value of; nil for events that replace nothing.
    public var key: String?
    public var contentType: String?
    public var payload: [UInt8]
    /// When the pipeline accepted the event. Retention by age and the idempotency window count from here.
    public var acceptedUnixNano: UInt64
    /// When the checks before the log were done, for the account of where the time went; 0 where nobody looked. Not
    /// stored.
    public var admittedUnixNano: UInt64
    /// The producer's own clock, if it told.
    public var producedUnixNano: UInt64?
    public var traceparent: String?
    public var tracestate: String?
    /// Claimed atomically with the append; unique per tenant within the idempotency window.
    public var idempotencyKey: String?

    @inlinable
    public init(
        topic: String, type: String? = nil, key: String? = nil, contentType: String? = nil, payload: [UInt8] = [],
        acceptedUnixNano: UInt64 = 0, admittedUnixNano: UInt64 = 0, producedUnixNano: UInt64? = nil,
        traceparent: String? = nil, tracestate: String? = nil, idempotencyKey: String? = nil
    ) {
        self.topic = topic
        self.type = type
        self.key = key
        self.contentType = contentType
        self.payload = payload
        self.acceptedUnixNano = acceptedUnixNano
        self.admittedUnixNano = admittedUnixNano
        self.producedUnixNano = producedUnixNano
        self.traceparent = traceparent
        self.tracestate = tracestate
        self.idempotencyKey = idempotencyKey
    }

    /// What the event counts for in every byte limit: its fields in UTF-8 plus ``StoredEvent/fixedByteCount``.
    public var byteCount: Int {
        var count = StoredEvent.fixedByteCount + payload.count + topic.utf8.count
        if let type { count += type.utf8.count }
        if let key { count += key.utf8.count }
        if let contentType { count += contentType.utf8.count }
        if let traceparent { count += traceparent.utf8.count }
        if let tracestate { count += tracestate.utf8.count }
        if let idempotencyKey { count += idempotencyKey.utf8.count }
        return count
    }
}

/// Bytes that a consumer derived from an event (an SSE frame), computed at most once and shared.
public final class RenderedEvent: Sendable {
    public let bytes: [UInt8]

    public init(bytes: [UInt8]) {
        self.bytes = bytes
    }
}

/// An event at its place in a tenant's log.
public final class StoredEvent: Sendable {
    /// Counted for every event beside its fields, so that empty events are not free.
    public static let fixedByteCount = 64

    /// Place in the log, from 1. Ascends without repeating within an epoch; a failed commit leaves a hole.
    public let offset: UInt64
    public let epoch: UInt32
    public let topic: String
    public let type: String?
    public let key: String?
    public let contentType: String?
    public let payload: [UInt8]
    public let acceptedUnixNano: UInt64
    /// ``NewEvent/admittedUnixNano``; 0 for an event that was read from disk.
    public let admittedUnixNano: UInt64
    public let producedUnixNano: UInt64?
    public let traceparent: String?
    public let tracestate: String?
    public let idempotencyKey: String?
    /// ``NewEvent/byteCount`` of the event it came from.
    public let byteCount: Int

    /// The frame of this event, set by whoever renders it first.
    public let rendered = AtomicLazyReference<RenderedEvent>()

    init(
        offset: UInt64, epoch: UInt32, topic: String, type: String?, key: String?, contentType: String?,
        payload: [UInt8], acceptedUnixNano: UInt64, admittedUnixNano: UInt64 = 0, producedUnixNano: UInt64?,
        traceparent: String?, tracestate: String?, idempotencyKey: String?, byteCount: Int
    ) {
        self.offset = offset
        self.epoch = epoch
        self.topic = topic
        self.type = type
        self.key = key
        self.contentType = contentType
        self.payload = payload
        self.acceptedUnixNano = acceptedUnixNano
        self.admittedUnixNano = admittedUnixNano
        self.producedUnixNano = producedUnixNano
        self.traceparent = traceparent
        self.tracestate = tracestate
        self.idempotencyKey = idempotencyKey
        self.byteCount = byteCount
    }

    convenience init(_ event: NewEvent, offset: UInt64, epoch: UInt32) {
        self.init(
            offset: offset, epoch: epoch, topic: event.topic, type: event.type, key: event.key,
            contentType: event.contentType, payload: event.payload, acceptedUnixNano: event.acceptedUnixNano,
            admittedUnixNano: event.admittedUnixNano, producedUnixNano: event.producedUnixNano,
            traceparent: event.traceparent, tracestate: event.tracestate, idempotencyKey: event.idempotencyKey,
            byteCount: event.byteCount)
    }
}
