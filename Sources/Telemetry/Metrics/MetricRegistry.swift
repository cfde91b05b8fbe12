import Synchronization

/// The metrics of one program: registered once at start, updated from anywhere, rendered at every scrape.
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

    private let state = Mutex(State())

    private struct State {
        var sources: [any MetricSource] = []
        var claimed: Set<String> = []
    }

    public init() {
        observe(
            "isotherm_metric_overflows_total", type: .counter, labels: ["metric"],
            help: "Lookups that were answered with the __other__ series because the metric was at its limit of series."
        ) { [weak self] emitter in
            for source in self?.sources ?? [] where !source.descriptor.labelNames.isEmpty {
                emitter.emit(source.overflowedLookups, source.descriptor.name)
            }
        }
    }

    /// In ascending order of their names.
    private var sources: [any MetricSource] { state.withLock { $0.sources } }

    private func register(_ source: any MetricSource) {
        let taken = state.withLock { state -> String? in
            let names = source.descriptor.claimedNames
            if let taken = names.first(where: state.claimed.contains) { return taken }
            state.claimed.formUnion(names)
            let name = source.descriptor.name
            let index = state.sources.firstIndex { $0.descriptor.name > name } ?? state.sources.endIndex
            state.sources.insert(source, at: index)
            return nil
        }
        precondition(taken == nil, "\(source.descriptor.name) is already registered, as \(taken ?? "")")
    }

    private func family<Instrument: WritableInstrument>(
        _ descriptor: MetricDescriptor, closedLabels: [String], seriesLimit: Int,
        make: @escaping @Sendable () -> Instrument
    ) -> MetricFamily<Instrument> {
        let family = MetricFamily(
            descriptor: descriptor, closedLabels: closedLabels, seriesLimit: seriesLimit, make: make)
        register(family)
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

    /// A metric whose samples are computed at each render, on the rendering thread and outside the registry's lock.
    /// `bounds` are for histograms only. Renders may overlap, so the closure may run twice at the same time.
    public func observe(
        _ name: String, type: MetricType, labels: [String] = [], bounds: HistogramBounds? = nil,
        seriesLimit: Int = defaultSeriesLimit, help: String,
        _ samples: @escaping @Sendable (inout MetricEmitter) -> Void
    ) {
        let descriptor = MetricDescriptor(name: name, type: type, help: help, labelNames: labels, bounds: bounds)
        register(ObservedMetric(descriptor: descriptor, seriesLimit: seriesLimit, samples: samples))
    }

    /// Everything registered, ordered by name and then by label values. A family without a series yet shows its
    /// `# HELP` and `# TYPE`, so that what can be queried is known from the first scrape.
    public func render(_ format: MetricFormat) -> [UInt8] {
        var writer = ExpositionWriter(format: format)
        for source in sources { source.write(into: &writer) }
        return writer.finish()
    }

    /// What is registered, in ascending order of name.
    public var descriptors: [MetricDescriptor] { sources.map(\.descriptor) }
}

private final class ObservedMetric: MetricSource {
    let descriptor: MetricDescriptor
    private let seriesLimit: Int
    private let samples: @Sendable (inout MetricEmitter) -> Void
    private let overflowed = Atomic<UInt64>(0)

    init(descriptor: MetricDescriptor, seriesLimit: Int, samples: @escaping @Sendable (inout MetricEmitter) -> Void) {
        self.descriptor = descriptor
        self.seriesLimit = seriesLimit
        self.samples = samples
    }

    var overflowedLookups: UInt64 { overflowed.load(ordering: .relaxed) }

    func write(into writer: inout ExpositionWriter) {
        var emitter = MetricEmitter(descriptor: descriptor, seriesLimit: seriesLimit)
        samples(&emitter)
        overflowed.wrappingAdd(emitter.overflowed, ordering: .relaxed)
        writer.metadata(descriptor)
        emitter.write(into: &writer)
    }
}
