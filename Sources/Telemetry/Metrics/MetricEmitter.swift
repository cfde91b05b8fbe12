import OTLP

/// Collects the samples of one observed metric during one look at it.
///
/// Samples with equal labels are added up, and no more than the family's limit of label combinations are kept: the
/// rest are added to the series `__other__`.
public struct MetricEmitter {
    private let descriptor: MetricDescriptor
    private let seriesLimit: Int
    private var samples: [[String]: Sample] = [:]
    private var ordinary = 0
    private(set) var overflowed: UInt64 = 0

    fileprivate enum Sample {
        case value(MetricNumber)
        case nanoseconds(UInt128)
        case histogram(Histogram.Snapshot)
    }

    init(descriptor: MetricDescriptor, seriesLimit: Int) {
        self.descriptor = descriptor
        self.seriesLimit = seriesLimit
    }

    public mutating func emit(_ value: Int, _ labels: String...) { add(.value(.int(Int64(value))), labels) }
    public mutating func emit(_ value: UInt64, _ labels: String...) { add(.value(MetricNumber(value)), labels) }
    public mutating func emit(_ value: Double, _ labels: String...) { add(.value(.double(value)), labels) }

    /// A duration, exposed in seconds to the nanosecond.
    public mutating func emit(nanoseconds: UInt64, _ labels: String...) {
        add(.nanoseconds(UInt128(nanoseconds)), labels)
    }

    /// A whole distribution; one count for each of the family's edges and one above them all.
    public mutating func emit(_ snapshot: Histogram.Snapshot, _ labels: String...) { add(.histogram(snapshot), labels) }

    private mutating func add(_ sample: Sample, _ labels: [String]) {
        let names = descriptor.labelNames
        precondition(labels.count == names.count, "\(descriptor.name) has labels \(names), not \(labels.count) of them")
        if case .histogram(let snapshot) = sample {
            let buckets = (descriptor.bounds?.seconds.count ?? 0) + 1
            precondition(
                descriptor.type == .histogram && snapshot.bucketCounts.count == buckets,
                "\(descriptor.name) does not take \(snapshot.bucketCounts.count) buckets")
        } else {
            precondition(descriptor.type != .histogram, "\(descriptor.name) takes distributions only")
        }
        var key = labels.map(LabelValue.bounded)
        if samples[key] == nil {
            if ordinary < seriesLimit {
                ordinary += 1
            } else {
                key = key.map { _ in LabelValue.other }
                overflowed += 1
            }
        }
        samples[key] = samples[key].map { Self.sum($0, sample) } ?? sample
    }

    private static func sum(_ first: Sample, _ second: Sample) -> Sample {
        switch (first, second) {
        case (.histogram(let a), .histogram(let b)):
            let counts = zip(a.bucketCounts, b.bucketCounts).map { $0 &+ $1 }
            return .histogram(.init(bucketCounts: counts, sumNanoseconds: a.sumNanoseconds &+ b.sumNanoseconds))
        case (.nanoseconds(let a), .nanoseconds(let b)): return .nanoseconds(a &+ b)
        case (.histogram, _), (_, .histogram): preconditionFailure("a family is of one type")
        default: return .value(first.number + second.number)
        }
    }

    /// In ascending order of their label values.
    func points(_ pass: CollectionPass) -> [FamilyPoint] {
        samples.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }).map { values, sample in
            let attributes = descriptor.attributes(values)
            if case .histogram(let snapshot) = sample, let bounds = descriptor.bounds {
                return .histogram(snapshot.point(attributes, bounds, startUnixNano: 0, pass))
            }
            return .number(
                NumberPoint(attributes: attributes, startUnixNano: 0, unixNano: pass.unixNano, value: sample.number))
        }
    }
}

extension MetricEmitter.Sample {
    fileprivate var number: MetricNumber {
        switch self {
        case .value(let number): number
        case .nanoseconds(let nanoseconds): .double(Double(nanoseconds) / 1e9)
        case .histogram: preconditionFailure("a family is of one type")
        }
    }
}
