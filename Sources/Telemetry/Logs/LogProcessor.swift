import OTLP

/// Holds encoded log records until the exporter takes them, a batch at a time.
final class LogProcessor: Sendable {
    private let configuration: LogsConfiguration
    private let exporter: Exporter
    private let resource: Resource
    private let state = Guarded(State())

    private struct State {
        var queue: [Entry] = []
        var bytes = 0
        var emitted: UInt64 = 0
        var droppedQueueFull: UInt64 = 0
        var droppedShutdown: UInt64 = 0
        var isClosed = false
    }

    private struct Entry {
        let scope: InstrumentationScope
        let record: [UInt8]
    }

    init(configuration: LogsConfiguration, exporter: Exporter, resource: Resource) {
        self.configuration = configuration
        self.exporter = exporter
        self.resource = resource
    }

    /// True when a batch is full: the worker should look.
    func enqueue(_ record: LogRecord, _ scope: InstrumentationScope) -> Bool {
        var writer = ProtobufWriter()
        record.message(configuration).encode(into: &writer)
        let entry = Entry(scope: scope, record: writer.bytes)
        return state.withLock { state in
            state.emitted += 1
            if state.isClosed {
                state.droppedShutdown += 1
                return false
            }
            guard state.queue.count < configuration.maxQueueSize,
                state.bytes + entry.record.count <= configuration.maxQueueBytes
            else {
                state.droppedQueueFull += 1
                return false
            }
            state.queue.append(entry)
            state.bytes += entry.record.count
            // At each multiple, in case the worker waits for room in the exporter when the first is full.
            return state.queue.count % configuration.maxExportBatchSize == 0
        }
    }

    /// On the worker's thread only.
    func handOn(_ occasion: BatchWorker.Occasion) {
        let least = occasion == .nudge ? configuration.maxExportBatchSize : 1
        // What comes meanwhile is for the next time: whoever waits does not wait for that as well.
        var remaining = state.withLock { $0.queue.count }
        while remaining >= least {
            // Records wait here, where they count against the queue's limits. On a shutdown the exporter makes room.
            exporter.waitForRoom(until: .now + .seconds(1))
            guard exporter.hasRoom else { continue }
            let entries = state.withLock { state in
                let taken = Array(state.queue.prefix(configuration.maxExportBatchSize))
                state.queue.removeFirst(taken.count)
                state.bytes -= taken.reduce(0) { $0 + $1.record.count }
                return taken
            }
            remaining -= entries.count
            var groups: [(scope: InstrumentationScope, items: [[UInt8]])] = []
            for entry in entries {
                if let index = groups.firstIndex(where: { $0.scope == entry.scope }) {
                    groups[index].items.append(entry.record)
                } else {
                    groups.append((entry.scope, [entry.record]))
                }
            }
            exporter.enqueue(Batch(body: RequestBody.encode(resource: resource, groups), itemCount: entries.count))
        }
    }

    /// From now on, records are counted as dropped, as are those that still wait.
    func seal() {
        state.withLock { state in
            state.isClosed = true
            state.droppedShutdown += UInt64(state.queue.count)
            state.queue = []
            state.bytes = 0
        }
    }

    /// What has left is read before what was emitted: a record on its way is never counted twice.
    var ledger: LogLedger {
        let left = exporter.ledger
        return state.withLock { state in
            var ledger = LogLedger()
            ledger.exported = left.exported
            ledger.rejected = left.rejected
            ledger.dropped = left.dropped
            ledger.dropped[.queueFull, default: 0] += state.droppedQueueFull
            ledger.dropped[.shutdown, default: 0] += state.droppedShutdown
            ledger.emitted = state.emitted
            return ledger
        }
    }

    /// Records that wait for a batch.
    var queueSize: Int { state.withLock { $0.queue.count } }
}

extension LogRecord {
    /// As it goes on the wire, within the limits.
    func message(_ limits: LogsConfiguration) -> LogRecordMessage {
        var message = LogRecordMessage()
        message.unixNano = time?.unixNano ?? 0
        message.observedUnixNano = (observedTime ?? Clock.now()).unixNano
        message.severityNumber = severity?.rawValue ?? 0
        message.severityText = severityText
        message.body = body
        message.eventName = eventName
        // The rule is one for spans and logs.
        var length = SpanLimits()
        length.attributeValueLength = limits.attributeValueLengthLimit
        var places: [String: Int] = [:]
        for attribute in attributes {
            let value = length.cut(attribute.value)
            if let place = places[attribute.key] {
                message.attributes[place].value = value
            } else if message.attributes.count < limits.attributeCountLimit {
                places[attribute.key] = message.attributes.count
                message.attributes.append(KeyValue(attribute.key, value))
            } else {
                message.droppedAttributes += 1
            }
        }
        if let context, context.isValid {
            message.traceIDHigh = context.traceID.high
            message.traceIDLow = context.traceID.low
            message.spanID = context.spanID.rawValue
            message.flags = UInt32(context.traceFlags.rawValue)
        }
        return message
    }
}
