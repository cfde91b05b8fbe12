import OTLP
import Synchronization

struct InstrumentDescription: Sendable {
    let name: String
    let kind: InstrumentKind
    let unit: String
    let description: String
    let isDouble: Bool
    let scope: InstrumentationScope

    /// An ASCII letter, then letters, digits and `_`, `.`, `-`, `/`, in all at most 255.
    /// https://opentelemetry.io/docs/specs/otel/metrics/api/#instrument-name-syntax
    var hasValidName: Bool {
        func isLetter(_ byte: UInt8) -> Bool { (0x61...0x7A).contains(byte | 0x20) }
        guard name.utf8.count <= 255, let first = name.utf8.first, isLetter(first) else { return false }
        return name.utf8.allSatisfy { isLetter($0) || (0x30...0x39).contains($0) || "_.-/".utf8.contains($0) }
    }
}

/// One instrument with the streams that the views make of it.
final class Instrument: MetricSource {
    let description: InstrumentDescription
    private let streams: [MetricStream]
    private let filter: MetricsConfiguration.ExemplarFilter
    private let discards: DiscardCounter
    private let callbacks = Guarded(Callbacks())

    private struct Callbacks {
        var last = 0
        var byNumber: [Int: @Sendable (inout Observer) -> Void] = [:]
    }

    init(
        description: InstrumentDescription, streams: [MetricStream], filter: MetricsConfiguration.ExemplarFilter,
        discards: DiscardCounter
    ) {
        self.description = description
        self.streams = streams
        self.filter = filter
        self.discards = discards
    }

    // MARK: Measurements

    func bind(_ attributes: [KeyValue]) -> BoundSeries {
        let parts = streams.map { stream in
            let (series, filtered) = stream.split(attributes)
            return BoundSeries.Part(cell: stream.cell(series), filteredAttributes: filtered)
        }
        return BoundSeries(parts: parts, filter: filter, discards: discards)
    }

    func record(_ value: some MetricValue, _ attributes: [KeyValue], _ context: SpanContext?) {
        for stream in streams {
            let (series, filtered) = stream.split(attributes)
            BoundSeries.Part(cell: stream.cell(series), filteredAttributes: filtered).record(value, filter, context)
        }
    }

    func discard() { discards.count.wrappingAdd(1, ordering: .relaxed) }

    // MARK: Callbacks

    func observe(_ callback: @escaping @Sendable (inout Observer) -> Void) -> ObserverRegistration {
        let number = callbacks.withLock { callbacks in
            callbacks.last += 1
            callbacks.byNumber[callbacks.last] = callback
            return callbacks.last
        }
        return ObserverRegistration(instrument: self, number: number)
    }

    func removeCallback(_ number: Int) {
        callbacks.withLock { callbacks in _ = callbacks.byNumber.removeValue(forKey: number) }
    }

    // MARK: Readers

    var overflows: [(metric: String, count: UInt64)] { streams.map(\.overflows) }

    func collect(_ pass: CollectionPass, into metrics: inout [CollectedMetric]) {
        guard description.kind.isObservable else {
            metrics += streams.map { $0.collect(pass) }
            return
        }
        if streams.isEmpty { return }
        let running = callbacks.withLock { $0.byNumber.sorted { $0.key < $1.key }.map(\.value) }
        var observer = Observer()
        for callback in running { callback(&observer) }
        metrics += streams.map { $0.collect(observer.observations, pass) }
    }
}

/// Measurements that no instrument may take: negative ones of a counter or a histogram, and what is no number.
@usableFromInline
final class DiscardCounter: Sendable {
    @usableFromInline let count = Atomic<UInt64>(0)
}

/// The places of one set of attributes in an instrument's streams.
@usableFromInline
final class BoundSeries: Sendable {
    @usableFromInline
    struct Part: Sendable {
        @usableFromInline let cell: SeriesCell
        @usableFromInline let filteredAttributes: [KeyValue]

        @inlinable
        func record<Value: MetricValue>(
            _ value: Value, _ filter: MetricsConfiguration.ExemplarFilter, _ context: SpanContext?
        ) {
            if Value.isDouble { cell.record(value.asDouble) } else { cell.record(value.asInt) }
            if let reservoir = cell.reservoir, context?.isSampled ?? false || filter == .alwaysOn {
                reservoir.offer(
                    Value.isDouble ? .double(value.asDouble) : .int(Int64(value.asInt)), context: context,
                    filteredAttributes: filteredAttributes)
            }
        }
    }

    /// Nearly always there is one.
    @usableFromInline let first: Part?
    @usableFromInline let rest: [Part]
    @usableFromInline let filter: MetricsConfiguration.ExemplarFilter
    @usableFromInline let discards: DiscardCounter

    init(parts: [Part], filter: MetricsConfiguration.ExemplarFilter, discards: DiscardCounter) {
        first = parts.first
        rest = Array(parts.dropFirst())
        self.filter = filter
        self.discards = discards
    }

    @inlinable
    func record(_ value: some MetricValue, _ context: SpanContext?) {
        guard let first else { return }
        first.record(value, filter, context)
        if !rest.isEmpty { for part in rest { part.record(value, filter, context) } }
    }

    @inlinable
    func discard() { discards.count.wrappingAdd(1, ordering: .relaxed) }
}
