/// How safe an event is when its append completes.
public enum Durability: String, Sendable, CaseIterable {
    /// Sequenced and readable; written to disk soon after. Lost if the process dies first.
    case memory
    /// Committed to the operating system: survives the death of the process, not of the machine.
    case written
    /// Committed and synced to the disk. The default.
    case fsync

    public static let `default` = Durability.fsync
}

/// Where an event went.
public struct AppendReceipt: Sendable {
    public let offset: UInt64
    public let epoch: UInt32
    /// True when an earlier event with the same idempotency key stands for this one.
    public let isDuplicate: Bool
    /// For a duplicate, the `traceparent` stored with the original.
    public let originalTraceparent: String?
    private let codec: EventIDCodec

    init(
        offset: UInt64, epoch: UInt32, isDuplicate: Bool = false, originalTraceparent: String? = nil,
        codec: EventIDCodec
    ) {
        self.offset = offset
        self.epoch = epoch
        self.isDuplicate = isDuplicate
        self.originalTraceparent = originalTraceparent
        self.codec = codec
    }

    /// The event's id; computed on every call (about 0.3 µs).
    public var id: String { codec.encode(epoch: epoch, offset: offset) }
}

/// What memory has after an offset.
public enum TailRead: Sendable {
    /// Ascending, without a gap to the asked offset; empty at the head.
    case events([StoredEvent])
    /// Evicted from memory: read from the log.
    case behind
}

/// What a reader with a filter found.
public struct FilteredRead: Sendable {
    /// Ascending.
    public var events: [StoredEvent]
    /// Everything up to this offset was looked at: continue after it.
    public var through: UInt64

    public init(events: [StoredEvent], through: UInt64) {
        self.events = events
        self.through = through
    }
}

/// What an event id says about where to continue.
public enum CursorResolution: Sendable, Equatable {
    /// Continue after this offset.
    case position(UInt64)
    /// Retention removed events after the cursor.
    case tooOld(earliest: UInt64)
    /// Forged, malformed, or of another tenant or server.
    case foreign
}

/// One tenant's log; topics are labels in it.
///
/// Events are readable as soon as they are sequenced, before they are durable. When a commit fails, the events that
/// were not durable leave the log again and their appends fail: a device may have seen them, nobody was told that
/// they were accepted (except under ``Durability/memory``), and their offsets are not used again within the epoch.
public protocol EventStream: AnyObject, Sendable {
    var tenant: String { get }

    /// Sequences at once, offsets in call order; visible to ``tail(after:limit:)`` and
    /// ``read(after:limit:byteLimit:)`` when the call returns.
    ///
    /// A batch is atomic: all sequenced or none. Never blocks on the disk. `completion` runs exactly once, when the
    /// batch is as durable as asked: on the writer's thread, or on the calling thread before this returns for
    /// ``Durability/memory`` and for every failure that is known at once (``StreamError/Code/full``, `tooLarge`,
    /// `closed`, `storageFull`). It must not block. Receipts are in the order of `events`.
    ///
    /// - Parameter wakesWriter: false for one of many appends in a row, whose caller wakes the writer after the last one
    ///   (``EmbeddedEventStore/wake()``), so that they come into one commit.
    func append(
        _ events: [NewEvent], durability: Durability, wakesWriter: Bool,
        completion: @escaping @Sendable (Result<[AppendReceipt], StreamError>) -> Void)

    /// Up to `limit` events after `offset` from memory. Never blocks on the disk.
    func tail(after offset: UInt64, limit: Int) -> TailRead

    /// Up to `limit` events after `offset` and about `byteLimit` bytes (at least one event if there is any), from
    /// memory or disk. Blocks.
    ///
    /// Ascending, and no stored event is left out; empty at the head. Throws ``StreamError/Code/tooOld`` instead of
    /// skipping what retention removed, and ``StreamError/Code/corrupt`` at a damaged event (what precedes it is
    /// returned first).
    func read(after offset: UInt64, limit: Int, byteLimit: Int) throws(StreamError) -> [StoredEvent]

    /// As ``read(after:limit:byteLimit:)``, but only what `filter` takes, and with the offset from which to continue.
    ///
    /// Looks at a bounded number of events: what it returns may be empty though the log goes on. At the head it
    /// returns no event and `offset` itself. Throws ``StreamError/Code/corrupt`` at a damaged event even if its topic
    /// cannot be told any more.
    func read(after offset: UInt64, limit: Int, byteLimit: Int, filter: TopicFilter) throws(StreamError) -> FilteredRead

    /// The newest event of each key of each topic up to `offset`, among those that `filter` takes, in pages.
    ///
    /// A key that `filter` finds again after `offset` may be left out: who goes on reading after `offset` gets that
    /// newer event. Throws ``StreamError/Code/unavailable`` while the log's index is being made anew.
    func latest(upTo offset: UInt64, filter: TopicFilter) throws(StreamError) -> LatestEvents

    /// The last sequenced offset, 0 when nothing was ever appended.
    var head: UInt64 { get }
    /// The first offset that is still readable, or that the next event will have.
    var earliest: UInt64 { get }
    /// The last offset that is as durable as its append asked.
    var durableHead: UInt64 { get }
    /// The epoch of the next event.
    var epoch: UInt32 { get }

    /// Calls `wake` after events were sequenced, on the appending thread, outside any lock, perhaps once for several.
    func onAppend(_ wake: @escaping @Sendable () -> Void) -> WakeToken
    /// Calls `wake` after ``durableHead`` moved, on the writer's thread.
    func onDurable(_ wake: @escaping @Sendable () -> Void) -> WakeToken

    /// The id of a position: `ev_` and at most 61 characters of `[A-Za-z0-9_-]`. Offset 0 stands for the start.
    func id(epoch: UInt32, offset: UInt64) -> String
    /// Where to continue after an id. Needs no disk.
    func resolve(_ id: some StringProtocol) -> CursorResolution
}

extension EventStream {
    public func append(
        _ events: [NewEvent], durability: Durability,
        completion: @escaping @Sendable (Result<[AppendReceipt], StreamError>) -> Void
    ) {
        append(events, durability: durability, wakesWriter: true, completion: completion)
    }

    /// Appends and waits until the events are as durable as asked.
    public func append(_ events: [NewEvent], durability: Durability = .default) async throws(StreamError)
        -> [AppendReceipt]
    {
        let result: Result<[AppendReceipt], StreamError> = await withCheckedContinuation { continuation in
            append(events, durability: durability) { continuation.resume(returning: $0) }
        }
        return try result.get()
    }

    public func id(of event: StoredEvent) -> String {
        id(epoch: event.epoch, offset: event.offset)
    }

    /// The id of the head: a device that starts live continues from here.
    public var headID: String {
        // Epoch first: if a new epoch opens in between, the pair is still a valid position of the old one.
        let epoch = self.epoch
        return id(epoch: epoch, offset: head)
    }
}

/// Keeps a wake-up registered; cancels it when cancelled or released.
public final class WakeToken: Sendable {
    private let onCancel: @Sendable () -> Void

    init(onCancel: @escaping @Sendable () -> Void) {
        self.onCancel = onCancel
    }

    /// Idempotent. A wake-up that is running on another thread may still finish after this returns.
    public func cancel() {
        onCancel()
    }

    deinit {
        onCancel()
    }
}
