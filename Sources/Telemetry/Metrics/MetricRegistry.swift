import OTLP
import Synchronization

/// The metrics of one program: registered once at start, updated from anywhere, rendered at every scrape and pushed by
/// `TelemetrySDK`. Here under Prometheus' rules; `meter` makes instruments in OpenTelemetry's terms. Both end up in both.
///
///     let registry = MetricRegistry()
///     let published = registry.counter("app_events_total", help: "Events.", labels: ["tenant"])
///     let acme = published.with("acme")      // keep this handle
///     acme.add()                             // one relaxed atomic addition
///     let body = registry.render(.prometheusText)
///
/// A name that breaks Prometheus' rules, or that is taken, traps: names are constants of the program.
public final class MetricRegistry: Sendable {
    /// Series per family, unless the registration says otherwise.
    public static let defaultSeriesLimit = 1000

    public let configuration: MetricsConfiguration
    let discards = DiscardCounter()
    private let state = Guarded(State())

    private struct State {
        var sources: [any MetricSource] = []
        var claimed: Set<String> = []
        var descriptors: [MetricDescriptor] = []
        var instruments: [InstrumentKey: [Instrument]] = [:]
        /// What would be reported again and again.
        var reported: Set<String> = []
    }

    private struct InstrumentKey: Hashable {
        let scope: InstrumentationScope
        /// Names that differ only in case are one.
        let lowercasedName: String
    }

    public init(configuration: MetricsConfiguration = MetricsConfiguration()) {
        self.configuration = configuration
        observe(
            "isotherm_metric_overflows_total", type: .counter, labels: ["metric"],
            help: "Lookups that were answered with the __other__ series because the metric was at its limit of series."
        ) { [weak self] emitter in
            for overflow in self?.sources.flatMap(\.overflows) ?? [] { emitter.emit(overflow.count, overflow.metric) }
        }
        observe(
            "isotherm_metric_discarded_total", type: .counter,
            help: "Measurements that were left out: negative ones of counters and histograms, and what is no number."
        ) { [discards] emitter in
            emitter.emit(discards.count.load(ordering: .relaxed))
        }
    }

    private var sources: [any MetricSource] { state.withLock { $0.sources } }

    private func register(_ descriptor: MetricDescriptor, _ source: any MetricSource) {
        let taken = state.withLock { state -> String? in
            let names = descriptor.claimedNames
            if let taken = names.first(where: state.claimed.contains) { return taken }
            state.claimed.formUnion(names)
            state.sources.append(source)
            state.descriptors.append(descriptor)
            return nil
        }
        precondition(taken == nil, "\(descriptor.name) is already registered, as \(taken ?? "")")
    }

    private func family<Instrument: FamilyInstrument>(
        _ descriptor: MetricDescriptor, closedLabels: [String], seriesLimit: Int,
        make: @escaping @Sendable () -> Instrument
    ) -> MetricFamily<Instrument> {
        let family = MetricFamily(
            descriptor: descriptor, closedLabels: closedLabels, seriesLimit: seriesLimit, make: make)
        register(descriptor, family)
        return family
    }

    /// A counter for each combination of label values. `closedLabels` name labels with few, known values, which are
    /// kept when a combination overflows.
    public func counter(
        _ name: String, help: String, labels: [String], closedLabels: [String] = [],
        seriesLimit: Int = defaultSeriesLimit
    ) -> CounterFamily {
        family(
            MetricDescriptor(name: name, type: .counter, help: help, labelNames: labels), closedLabels: closedLabels,
            seriesLimit: seriesLimit, make: Counter.init)
    }

    /// A counter without labels; exposed from now on, as 0.
    public func counter(_ name: String, help: String) -> Counter {
        counter(name, help: help, labels: []).with([])
    }

    public func gauge(
        _ name: String, help: String, labels: [String], closedLabels: [String] = [],
        seriesLimit: Int = defaultSeriesLimit
    ) -> GaugeFamily {
        family(
            MetricDescriptor(name: name, type: .gauge, help: help, labelNames: labels), closedLabels: closedLabels,
            seriesLimit: seriesLimit, make: Gauge.init)
    }

    public func gauge(_ name: String, help: String) -> Gauge {
        gauge(name, help: help, labels: []).with([])
    }

    public func histogram(
        _ name: String, help: String, labels: [String], closedLabels: [String] = [],
        bounds: HistogramBounds = .latency, seriesLimit: Int = defaultSeriesLimit
    ) -> HistogramFamily {
        let descriptor = MetricDescriptor(name: name, type: .histogram, help: help, labelNames: labels, bounds: bounds)
        return family(descriptor, closedLabels: closedLabels, seriesLimit: seriesLimit) { Histogram(bounds: bounds) }
    }

    public func histogram(_ name: String, help: String, bounds: HistogramBounds = .latency) -> Histogram {
        histogram(name, help: help, labels: [], bounds: bounds).with([])
    }

    /// A metric whose samples are computed at each render and each push, on the reader's thread and outside the
    /// registry's lock. `bounds` are for histograms only. Readers may overlap, so the closure may run twice at the same
    /// time.
    public func observe(
        _ name: String, type: MetricType, labels: [String] = [], bounds: HistogramBounds? = nil,
        seriesLimit: Int = defaultSeriesLimit, help: String,
        _ samples: @escaping @Sendable (inout MetricEmitter) -> Void
    ) {
        let descriptor = MetricDescriptor(name: name, type: type, help: help, labelNames: labels, bounds: bounds)
        register(
            descriptor, ObservedMetric(descriptor: descriptor, seriesLimit: seriesLimit, samples: samples))
    }

    // MARK: OpenTelemetry's instruments

    /// Makes the instruments of one library.
    public func meter(_ name: String, version: String = "") -> Meter {
        Meter(scope: InstrumentationScope(name: name, version: version), registry: self)
    }

    /// The instrument of this description, made when there is none.
    func instrument(_ description: InstrumentDescription, boundaries: [Double]?) -> Instrument {
        guard description.hasValidName else {
            report(
                "the instrument name \(description.name) is not an ASCII letter followed by at most 254 letters, digits "
                    + "and _.-/: the instrument measures nothing")
            return Instrument(
                description: description, streams: [], filter: configuration.exemplarFilter, discards: discards)
        }
        let key = InstrumentKey(scope: description.scope, lowercasedName: description.name.lowercased())
        func existing(_ state: borrowing State) -> Instrument? {
            state.instruments[key]?.first { $0.description.isCompatible(with: description) }
        }
        if let found = state.withLock({ existing($0) }) {
            if found.description.description != description.description {
                report("the instrument \(description.name) was declared before with another description, which is kept")
            }
            return found
        }
        let new = Instrument(
            description: description, streams: streams(description, boundaries: boundaries),
            filter: configuration.exemplarFilter, discards: discards)
        let (instrument, isConflict) = state.withLock { state -> (Instrument, Bool) in
            // Another thread may have been faster.
            if let found = existing(state) { return (found, false) }
            let isConflict = state.instruments[key] != nil
            state.instruments[key, default: []].append(new)
            state.sources.append(new)
            return (new, isConflict)
        }
        if isConflict {
            report(
                "the instrument \(description.name) of \(description.scope.name) was declared before with another kind, "
                    + "unit or number type; both are exported under one name, which a view can change")
        }
        return instrument
    }

    private func streams(_ description: InstrumentDescription, boundaries: [Double]?) -> [MetricStream] {
        let configuration = configuration
        var own = configuration.defaultHistogramAggregation
        if let boundaries, case .explicitHistogram(boundaries: nil) = own {
            if Aggregation.areValid(boundaries) {
                own = .explicitHistogram(boundaries: boundaries)
            } else {
                report("the boundaries of \(description.name) are not finite and ascending; the standard ones are used")
            }
        }
        var streams: [MetricStream] = []
        var isSelected = false
        for var view in configuration.views
        where view.selects(
            name: description.name, kind: description.kind, unit: description.unit, scope: description.scope)
        {
            if view.name != nil, view.hasWildcard {
                report("a view that selects \(view.instrumentName) may not name its stream; the name is left out")
                view.name = nil
            }
            switch view.aggregation.resolved(for: description.kind, default: own) {
            case .success(let aggregation):
                isSelected = true
                if aggregation == .drop { continue }
                streams.append(
                    MetricStream(
                        instrument: description, view: view, aggregation: aggregation, configuration: configuration))
            case .failure(let mismatch):
                report("a view of \(description.name) is left out: \(mismatch.cause)")
            }
        }
        if isSelected { return streams }
        guard
            case .success(let aggregation) = Aggregation.standard.resolved(for: description.kind, default: own),
            aggregation != .drop
        else { return [] }
        return [
            MetricStream(instrument: description, view: nil, aggregation: aggregation, configuration: configuration)
        ]
    }

    /// Each line once.
    private func report(_ line: String) {
        // A program that makes up names is not to fill memory with them.
        let isNew = state.withLock { $0.reported.count < 1_000 && $0.reported.insert(line).inserted }
        if isNew { configuration.report?(line) }
    }

    // MARK: Readers

    /// Everything, counted from the start. Not in any order.
    func collect(_ pass: CollectionPass) -> [CollectedMetric] {
        var metrics: [CollectedMetric] = []
        for source in sources { source.collect(pass, into: &metrics) }
        return metrics
    }

    /// Everything registered, ordered by name and then by label values. A metric without a series yet shows its
    /// `# HELP` and `# TYPE`, so that what can be queried is known from the first scrape.
    public func render(_ format: MetricFormat) -> [UInt8] {
        var writer = ExpositionWriter(format: format)
        let pass = CollectionPass(unixNano: Clock.now().unixNano, startsInterval: false)
        // Of equal names the first stays the first, so that which one prevails does not change between scrapes.
        let metrics = collect(pass).enumerated().sorted {
            ($0.element.exposition.familyName, $0.offset) < ($1.element.exposition.familyName, $1.offset)
        }
        for metric in metrics { writer.write(metric.element) }
        return writer.finish()
    }

    /// What is registered under Prometheus' rules, in ascending order of name.
    public var descriptors: [MetricDescriptor] {
        state.withLock { $0.descriptors }.sorted { $0.name < $1.name }
    }
}

extension InstrumentDescription {
    func isCompatible(with other: InstrumentDescription) -> Bool {
        kind == other.kind && unit == other.unit && (isDouble == other.isDouble || kind.isObservable)
    }
}

/// A family whose samples are computed when somebody looks.
private final class ObservedMetric: MetricSource {
    private let descriptor: MetricDescriptor
    private let seriesLimit: Int
    private let samples: @Sendable (inout MetricEmitter) -> Void
    private let overflowed = Atomic<UInt64>(0)

    init(descriptor: MetricDescriptor, seriesLimit: Int, samples: @escaping @Sendable (inout MetricEmitter) -> Void) {
        self.descriptor = descriptor
        self.seriesLimit = seriesLimit
        self.samples = samples
    }

    var overflows: [(metric: String, count: UInt64)] {
        descriptor.labelNames.isEmpty ? [] : [(descriptor.name, overflowed.load(ordering: .relaxed))]
    }

    func collect(_ pass: CollectionPass, into metrics: inout [CollectedMetric]) {
        var emitter = MetricEmitter(descriptor: descriptor, seriesLimit: seriesLimit)
        samples(&emitter)
        overflowed.wrappingAdd(emitter.overflowed, ordering: .relaxed)
        metrics.append(
            descriptor.collected(emitter.points(pass), isObserved: true, stream: ObjectIdentifier(self)))
    }
}
