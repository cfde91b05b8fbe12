import NIOCore
import NIOPosix
import PushClient
import Synchronization

/// Simulated devices, each with a connection of its own to the server.
final class DemoFleet: Sendable {
    /// What all devices together have seen.
    struct Totals: Sendable {
        var connected = 0
        var received: UInt64 = 0
        var reconnects: UInt64 = 0
        /// Events that came twice or out of order, and gaps in a topic's sequence: must stay 0.
        var repeated: UInt64 = 0
        var missing: UInt64 = 0
        var resets: UInt64 = 0
    }

    /// A device's own word on an event, for `POST /v1/receipts`.
    struct Receipt: Sendable {
        let group: Int
        let id: String
        let unixNano: UInt64
    }

    let groups: [String]
    private let totals = Mutex(Totals())
    private let receipts = Mutex<[Receipt]>([])
    private let isStopping = Atomic(false)
    private let loops: MultiThreadedEventLoopGroup
    private let port: Int
    /// Half of the devices want only the last of these, the others all.
    private let topics: [String]
    private let counts: [(profile: DeviceProfile, count: Int)]

    init(port: Int, devices: Int, topics: [String]) {
        self.port = port
        self.topics = topics
        counts = DeviceProfile.distribute(devices)
        groups = counts.map(\.profile.group)
        loops = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    }

    /// How many devices want a topic.
    func subscribers(of topic: String) -> Int {
        counts.reduce(0) { sum, entry in
            sum + (0..<entry.count).count { topics(ofDevice: $0).contains(topic) }
        }
    }

    private func topics(ofDevice index: Int) -> [String] { index % 2 == 0 ? topics.suffix(1) : topics }

    var count: Int { counts.reduce(0) { $0 + $1.count } }
    var current: Totals { totals.withLock { $0 } }

    func takeReceipts() -> [Receipt] {
        receipts.withLock { receipts in
            defer { receipts = [] }
            return receipts
        }
    }

    /// Connects all devices; returns when each has its stream.
    func start() async throws {
        for (number, entry) in counts.enumerated() {
            for index in 0..<entry.count {
                let device = Device(
                    fleet: self, group: number, profile: entry.profile, name: "\(entry.profile.group)-\(index)",
                    topics: topics(ofDevice: index))
                connect(device, on: loops.next())
                // Not all at once: the accept queue is of bounded length.
                if index % 50 == 49 { try await Task.sleep(for: .milliseconds(5)) }
            }
        }
        let deadline = ContinuousClock.now + .seconds(20)
        while current.connected < count {
            guard ContinuousClock.now < deadline else {
                throw SettingError("only \(current.connected) of \(count) devices could connect within 20 s")
            }
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    func stop() async {
        isStopping.store(true, ordering: .relaxed)
        try? await loops.shutdownGracefully()
    }

    fileprivate func connect(_ device: Device, on loop: any EventLoop) {
        guard !isStopping.load(ordering: .relaxed) else { return }
        ClientBootstrap(group: loop)
            // A slow reader's bytes should wait at the server, not in this process.
            .channelOption(.socketOption(.so_rcvbuf), value: device.profile.readPauseMilliseconds > 0 ? 4_096 : 65_536)
            .channelOption(.autoRead, value: device.profile.readPauseMilliseconds == 0)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(DeviceHandler(device))
                }
            }
            .connect(host: "127.0.0.1", port: port)
            .whenFailure { _ in
                loop.scheduleTask(in: .milliseconds(200)) { self.connect(device, on: loop) }
            }
    }

    fileprivate var isEnding: Bool { isStopping.load(ordering: .relaxed) }
    fileprivate func note(_ change: (inout Totals) -> Void) { totals.withLock { change(&$0) } }
    fileprivate func add(_ new: [Receipt]) { receipts.withLock { $0 += new } }

    fileprivate func request(_ device: Device) -> String {
        let query = device.topics.map { ("topic", $0) } + [("group", device.profile.group), ("device", device.name)]
        let cursor = device.lastEventID.map { "Last-Event-ID: \($0)\r\n" } ?? ""
        return "GET /v1/events\(Query.text(query)) HTTP/1.1\r\nHost: 127.0.0.1:\(port)\r\n"
            + "Accept: text/event-stream\r\n\(cursor)\r\n"
    }
}

/// What a device keeps over its connections. Touched on its loop only.
private final class Device: @unchecked Sendable {
    let fleet: DemoFleet
    let group: Int
    let profile: DeviceProfile
    let name: String
    let topics: [String]
    var lastEventID: String?
    var hasConnected = false
    /// Last number seen of each topic's sequence.
    var sequences: [Substring: Int] = [:]

    init(fleet: DemoFleet, group: Int, profile: DeviceProfile, name: String, topics: [String]) {
        self.topics = topics
        self.fleet = fleet
        self.group = group
        self.profile = profile
        self.name = name
    }
}

private final class DeviceHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let device: Device
    private var parser = EventStreamParser()
    private var head = ByteBuffer()
    private var hasHead = false
    private var isOpen = true

    init(_ device: Device) { self.device = device }

    func channelActive(context: ChannelHandlerContext) {
        context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: device.fleet.request(device))), promise: nil)
        readLater(context)
        let interval = device.profile.breakSeconds
        guard interval > 0 else { return }
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        context.eventLoop.scheduleTask(in: .milliseconds(Int64(interval * Double.random(in: 500...1_500)))) {
            let (handler, context) = bound.value
            if handler.isOpen, !handler.device.fleet.isEnding { context.close(promise: nil) }
        }
    }

    private func readLater(_ context: ChannelHandlerContext) {
        guard device.profile.readPauseMilliseconds > 0 else { return }
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        context.eventLoop.scheduleTask(in: .milliseconds(Int64(device.profile.readPauseMilliseconds))) {
            let (handler, context) = bound.value
            guard handler.isOpen else { return }
            context.read()
            handler.readLater(context)
        }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        if !hasHead {
            head.writeBuffer(&bytes)
            guard let end = head.readableBytesView.firstRange(of: Array("\r\n\r\n".utf8)) else { return }
            guard head.readableBytesView.starts(with: Array("HTTP/1.1 200".utf8)) else {
                return context.close(promise: nil)
            }
            head.moveReaderIndex(to: end.upperBound)
            bytes = head
            hasHead = true
            device.fleet.note { totals in
                if !device.hasConnected { totals.connected += 1 } else { totals.reconnects += 1 }
            }
            device.hasConnected = true
        }
        var receipts: [(id: String, delay: Double)] = []
        var random = SystemRandomNumberGenerator()
        var isBroken = false
        bytes.withUnsafeReadableBytes { bytes in
            do {
                try parser.push(bytes) { event in
                    guard let id = event.id else { return }
                    device.lastEventID = id
                    if event.type == "isotherm.reset" { return device.fleet.note { $0.resets += 1 } }
                    check(event.data)
                    receipts.append((id, device.profile.delay(using: &random)))
                }
            } catch {
                isBroken = true
            }
        }
        if isBroken { return context.close(promise: nil) }
        // The bytes are here; the application has them when the simulated network and device have had their time.
        for receipt in receipts {
            let group = device.group
            context.eventLoop.scheduleTask(in: .microseconds(Int64(receipt.delay * 1_000))) { [fleet = device.fleet] in
                fleet.add([.init(group: group, id: receipt.id, unixNano: DemoClock.unixNano())])
            }
        }
    }

    /// Each topic counts its events: `topic number …`.
    private func check(_ data: String) {
        let words = data.split(separator: " ", maxSplits: 2)
        guard words.count >= 2, let number = Int(words[1]) else { return }
        let expected = (device.sequences[words[0]] ?? 0) + 1
        device.fleet.note { totals in
            if number < expected { totals.repeated += 1 } else { totals.received += 1 }
            if number > expected { totals.missing += UInt64(number - expected) }
        }
        device.sequences[words[0]] = max(number, expected - 1)
    }

    func channelInactive(context: ChannelHandlerContext) {
        isOpen = false
        let device = device
        let loop = context.eventLoop
        guard !device.fleet.isEnding else { return }
        loop.scheduleTask(in: .milliseconds(.random(in: 50...400))) { device.fleet.connect(device, on: loop) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
