import EventStreams
import Telemetry

/// What a device asked for.
public struct SubscriptionRequest: Sendable {
    public var tenant: Tenant
    public var filter: TopicFilter
    public var group: String
    public var device: String?
    /// Delivery begins after this offset; nil begins with the next event.
    public var after: UInt64?
    /// While the device is behind, it gets of the events with one key only the latest of each page
    /// (4,096 events of memory, 1 MiB of the log).
    public var conflates: Bool
    /// Before the next event, the latest event of each key comes.
    public var wantsSnapshot: Bool

    public init(
        tenant: Tenant, filter: TopicFilter, group: String, device: String?, after: UInt64?, conflates: Bool = false,
        wantsSnapshot: Bool = false
    ) {
        self.tenant = tenant
        self.filter = filter
        self.group = group
        self.device = device
        self.after = after
        self.conflates = conflates
        self.wantsSnapshot = wantsSnapshot
    }
}

/// One device's connection in the hub. Belongs to one loop and is touched on that loop only.
///
/// - *catching up*: reads the log from `position`.
/// - *waiting for the socket*: the transport holds the unsent rest of one buffer.
/// - *live*: gets broadcasts.
///
/// A device that resumes and a device whose socket was full are the same case: both catch up, then go live.
public final class Subscription {
    enum State { case catchingUp, waitingForSocket, live, closed }

    var state = State.catchingUp
    /// Everything wanted up to this offset has been handed to the socket, or will be when the transport's write ends.
    /// Of no meaning while live on a single topic, where the topic knows.
    var position: UInt64
    /// Where this connection stands in its topic's live array.
    var liveIndex = -1
    /// When the transport took over; 0 when it holds nothing.
    var waitingSinceUnixNano: UInt64 = 0
    var lastSendUnixNano: UInt64
    /// For a follower of the log: an event that it wants has come after `position` and has not been sent yet.
    var isDue = false

    let tenant: LoopTenant
    /// The topics that the filter names; empty where it has a pattern.
    let topics: [LoopTopic]
    /// Gets broadcasts of its one topic; others follow the log, since one cursor needs one order over all their topics.
    let isOfOneTopic: Bool
    let conflates: Bool
    /// What is sent first, as of `position`.
    var snapshot: Snapshot?
    /// What the journal keeps of this connection. Read at each delivery that is traced; on one loop there is nothing to
    /// exclude.
    @exclusivity(unchecked) var session: DeviceSession
    /// Up to here the journal knows when the socket got what this connection wants.
    var writtenThrough: UInt64
    /// What the keeper of the journal knows of it: the offset that it had reached, `UInt64.max` while it was live.
    var handedOver: UInt64?
    unowned let transport: any DeviceTransport

    /// Events that are looked at in one turn; more where most of them are not sent.
    var pageLimit: Int { conflates ? 4_096 : 256 }

    var filter: TopicFilter { session.filter }
    var group: Int { session.group }
    var device: String? { session.device }
    var connectedUnixNano: UInt64 { session.connectedUnixNano }

    init(
        tenant: LoopTenant, topics: [LoopTopic], session: DeviceSession, conflates: Bool,
        transport: any DeviceTransport
    ) {
        self.tenant = tenant
        self.topics = topics
        self.session = session
        self.conflates = conflates
        self.transport = transport
        isOfOneTopic = topics.count == 1 && session.filter.types.isEmpty
        position = session.startOffset
        writtenThrough = session.startOffset
        lastSendUnixNano = session.connectedUnixNano
    }
}

/// A live connection as a broadcast sees it: what it needs stands in one row, so that ten thousand of them are read in
/// order and no object is touched.
struct LiveConnection {
    let descriptor: Int32
    let group: Int32
    /// Events up to this offset were sent while catching up.
    let sentThrough: UInt64
    unowned(unsafe) let subscription: Subscription
}

/// One topic of one tenant on one loop.
final class LoopTopic {
    let name: String
    /// For all that want it alone: their filter's storage, once.
    let filter: TopicFilter?
    /// Connections that want this topic alone, and all of it.
    var live: [LiveConnection] = []
    /// All connections that want this topic, live or not, to know when it can go.
    var subscribers = 0
    /// Followers of the log that name this topic.
    var followers: [ObjectIdentifier: Subscription] = [:]
    /// Events that wait for the end of the join interval, in order.
    var joined: [StoredEvent] = []
    var lastSendUnixNano: UInt64 = 0

    init(name: String) {
        self.name = name
        filter = try? TopicFilter([name])
    }
}

/// One tenant on one loop.
final class LoopTenant {
    let channel: TenantChannel
    /// Every event up to here has been broadcast, or stands in its topic's `joined`.
    var cursor: UInt64
    var topics: [String: LoopTopic] = [:]
    var subscriptions: [ObjectIdentifier: Subscription] = [:]
    /// Followers of the log that name topics by a pattern.
    var matchers: [ObjectIdentifier: Subscription] = [:]
    let journal: DeliveryJournal
    /// Followers with something to send once their join interval ends.
    var due: [Subscription] = []
    var isTimerArmed = false
    /// By group: looked up once.
    var connections: [Int: Gauge] = [:]

    init(channel: TenantChannel, cursor: UInt64, journal: DeliveryJournal) {
        self.channel = channel
        self.journal = journal
        self.cursor = cursor
    }
}
