import EventStreams

/// What a device asked for.
public struct SubscriptionRequest: Sendable {
    public var tenant: Tenant
    /// Sorted and unique; at least one.
    public var topics: [String]
    public var group: String
    public var device: String?
    /// Delivery begins after this offset; nil begins with the next event.
    public var after: UInt64?

    public init(tenant: Tenant, topics: [String], group: String, device: String?, after: UInt64?) {
        self.tenant = tenant
        self.topics = topics
        self.group = group
        self.device = device
        self.after = after
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
    /// For several topics: an event has come that has not been sent yet.
    var isDue = false

    let tenant: LoopTenant
    let topics: [LoopTopic]
    let group: Int
    let device: String?
    let connectedUnixNano: UInt64
    unowned let transport: any DeviceTransport

    init(
        tenant: LoopTenant, topics: [LoopTopic], group: Int, device: String?, position: UInt64,
        transport: any DeviceTransport, nowUnixNano: UInt64
    ) {
        self.tenant = tenant
        self.topics = topics
        self.group = group
        self.device = device
        self.position = position
        self.transport = transport
        connectedUnixNano = nowUnixNano
        lastSendUnixNano = nowUnixNano
    }

    func wants(_ event: StoredEvent) -> Bool {
        for topic in topics where topic.name == event.topic { return true }
        return false
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
    /// Connections with this topic alone.
    var live: [LiveConnection] = []
    /// All connections that want this topic, live or not, to know when it can go.
    var subscribers = 0
    /// Connections with several topics: they follow the log, since one cursor needs one order over all their topics.
    var followers: [ObjectIdentifier: Subscription] = [:]
    /// Events that wait for the end of the join interval, in order.
    var joined: [StoredEvent] = []
    var lastSendUnixNano: UInt64 = 0

    init(name: String) { self.name = name }
}

/// One tenant on one loop.
final class LoopTenant {
    let channel: TenantChannel
    /// Every event up to here has been broadcast, or stands in its topic's `joined`.
    var cursor: UInt64
    var topics: [String: LoopTopic] = [:]
    var subscriptions: [ObjectIdentifier: Subscription] = [:]
    /// Followers with something to send once their join interval ends.
    var due: [Subscription] = []
    var isTimerArmed = false

    init(channel: TenantChannel, cursor: UInt64) {
        self.channel = channel
        self.cursor = cursor
    }
}
