import LatencyHeatmap
import OTLP

/// What a run has found. Nil where something was not measured.
public struct LoadReport: Sendable {
    public struct Connections: Sendable {
        public var asked = 0
        /// Open when publishing began.
        public var opened = 0
        public var perSecond: Double?
        /// Attempts that brought no stream, by reason, over the whole run.
        public var failures: [String: Int] = [:]
        /// Ended by the other side while open.
        public var ended: UInt64 = 0
        public var reconnects: UInt64 = 0
        public var serverCPUMicroseconds: Double?
        public var memoryBytes: Double?
    }

    public struct Published: Sendable {
        public var due = 0
        public var sent = 0
        public var accepted = 0
        public var refused: [Int: Int] = [:]
        public var unanswered = 0
        public var perSecond = 0.0
        public var answers = Sketch()
        public var maxLagNano: UInt64 = 0
    }

    public struct Deliveries: Sendable {
        /// What the accepted events make on the streams that were open when publishing began.
        public var expected = 0
        public var received: UInt64 = 0
        public var lost = 0
        public var duplicates: UInt64 = 0
        public var outOfOrder: UInt64 = 0
        public var misrouted: UInt64 = 0
        /// Events that were not this run's.
        public var others: UInt64 = 0
        public var bytes: UInt64 = 0
        public var perSecond = 0.0
        /// From the time at which an event was due to the read that ended it.
        public var latencies = Sketch()
    }

    public struct Storm: Sendable {
        public var cut = 0
        public var back = 0
        /// From the cut until the last stream was open again; nil when not all came back.
        public var backSeconds: Double?
        /// Until every stream had every event that was accepted when the last one was back.
        public var completeSeconds: Double?
        /// Attempts: most in any second, and the mean from the first to the last.
        public var peakPerSecond = 0.0
        public var meanPerSecond = 0.0
    }

    public struct Server: Sendable {
        public var pids: [Int32] = []
        public var cpuSeconds = 0.0
        /// Of one core, while events were measured and what followed from them was done.
        public var cpuShare = 0.0
        public var memoryBytes: Int?
    }

    public var plan: LoadPlan
    /// Why there is not all of it: the user's interrupt.
    public var isInterrupted = false
    public var connections = Connections()
    public var published = Published()
    public var deliveries = Deliveries()
    public var stalledOpened = 0
    public var stalledClosed = 0
    public var storm: Storm?
    public var server: Server?
    /// Share of a core that the generator's busiest thread took while events were measured.
    public var generatorShare = 0.0
    /// What a reader of the figures should know.
    public var notes: [String] = []

    public var serverCPUMicrosecondsPerDelivery: Double? {
        guard let server, deliveries.received > 0 else { return nil }
        return server.cpuSeconds * 1e6 / Double(deliveries.received)
    }

    public var serverCPUMicrosecondsPerEvent: Double? {
        guard let server, published.accepted > 0 else { return nil }
        return server.cpuSeconds * 1e6 / Double(published.accepted)
    }

    /// Nothing lost, repeated, out of order or on the wrong stream, and all that was due was sent and accepted.
    public var isClean: Bool {
        !isInterrupted && connections.opened == connections.asked && deliveries.lost == 0 && deliveries.duplicates == 0
            && deliveries.outOfOrder == 0 && deliveries.misrouted == 0 && published.accepted == published.due
    }

    // MARK: JSON

    static let quantiles: [(name: String, q: Double)] = [
        ("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999),
    ]

    public func json() -> [UInt8] {
        var json = JSONWriter()
        json.beginObject()
        json.field("target", plan.target.name)
        json.field("subscribe", plan.target.subscribeURL)
        json.field("publish", plan.target.publishURL)
        json.field("connections_asked", connections.asked)
        json.field("channels", plan.channels)
        json.key("rate_per_second")
        if let rate = plan.rate { json.value(rate) } else { json.null() }
        json.field("warm_up_seconds", plan.warmUp.seconds)
        json.field("duration_seconds", plan.duration.seconds)
        json.field("event_bytes", plan.size)
        json.field("publishers", plan.publishers)
        json.field("interrupted", isInterrupted)
        json.field("clean", isClean)
        object("connections", &json) { json in
            json.field("opened", connections.opened)
            optional("per_second", connections.perSecond, &json)
            object("failures", &json) { json in
                for (reason, count) in connections.failures.sorted(by: { $0.key < $1.key }) {
                    json.field(reason, count)
                }
            }
            json.field("ended", connections.ended)
            json.field("reconnects", connections.reconnects)
            optional("server_cpu_us", connections.serverCPUMicroseconds, &json)
            optional("server_memory_bytes", connections.memoryBytes, &json)
        }
        object("published", &json) { json in
            json.field("due", published.due)
            json.field("sent", published.sent)
            json.field("accepted", published.accepted)
            object("refused", &json) { json in
                for (status, count) in published.refused.sorted(by: { $0.key < $1.key }) {
                    json.field("\(status)", count)
                }
            }
            json.field("unanswered", published.unanswered)
            json.field("per_second", rounded(published.perSecond))
            json.field("max_lag_ms", rounded(Double(published.maxLagNano) / 1e6))
            object("answer", &json) { latencies(published.answers, &$0) }
        }
        object("deliveries", &json) { json in
            json.field("expected", deliveries.expected)
            json.field("received", deliveries.received)
            json.field("lost", deliveries.lost)
            json.field("duplicates", deliveries.duplicates)
            json.field("out_of_order", deliveries.outOfOrder)
            json.field("misrouted", deliveries.misrouted)
            json.field("other_events", deliveries.others)
            json.field("bytes", deliveries.bytes)
            json.field("per_second", rounded(deliveries.perSecond))
            object("latency", &json) { latencies(deliveries.latencies, &$0) }
        }
        if plan.stalled > 0 {
            object("stalled", &json) { json in
                json.field("opened", stalledOpened)
                json.field("closed_by_server", stalledClosed)
            }
        }
        if let storm {
            object("storm", &json) { json in
                json.field("cut", storm.cut)
                json.field("back", storm.back)
                optional("back_seconds", storm.backSeconds, &json)
                optional("complete_seconds", storm.completeSeconds, &json)
                json.field("peak_attempts_per_second", rounded(storm.peakPerSecond))
                json.field("mean_attempts_per_second", rounded(storm.meanPerSecond))
            }
        }
        if let server {
            object("server", &json) { json in
                json.field("pids", server.pids)
                json.field("cpu_seconds", server.cpuSeconds)
                json.field("cpu_share_of_a_core", rounded(server.cpuShare))
                optional("cpu_us_per_delivery", serverCPUMicrosecondsPerDelivery, &json)
                optional("cpu_us_per_event", serverCPUMicrosecondsPerEvent, &json)
                optional("memory_bytes", server.memoryBytes.map { Double($0) }, &json)
            }
        }
        json.field("generator_share_of_a_core", rounded(generatorShare))
        json.field("notes", notes)
        json.endObject()
        return json.bytes + [0x0A]
    }

    private func latencies(_ sketch: Sketch, _ json: inout JSONWriter) {
        json.field("count", sketch.count)
        for (name, q) in Self.quantiles { optional("\(name)_ms", sketch.quantile(q).map { Double($0) / 1e6 }, &json) }
        optional("max_ms", sketch.isEmpty ? nil : Double(sketch.max) / 1e6, &json)
        json.field("relative_error", rounded(sketch.relativeError))
    }

    private func object(_ name: String, _ json: inout JSONWriter, _ body: (inout JSONWriter) -> Void) {
        json.key(name)
        json.beginObject()
        body(&json)
        json.endObject()
    }

    private func optional(_ name: String, _ value: Double?, _ json: inout JSONWriter) {
        json.key(name)
        if let value { json.value(rounded(value)) } else { json.null() }
    }

    private func rounded(_ value: Double) -> Double { (value * 10_000).rounded() / 10_000 }
}

extension Duration {
    var seconds: Double { Double(components.seconds) + Double(components.attoseconds) / 1e18 }
}
