/// A sampler for each kind of parent.
final class ParentSamplers: SamplingPolicy {
    private let root: Sampler
    private let remoteSampled: Sampler
    private let remoteNotSampled: Sampler
    private let localSampled: Sampler
    private let localNotSampled: Sampler
    let description: String

    init(
        root: Sampler, remoteSampled: Sampler, remoteNotSampled: Sampler, localSampled: Sampler,
        localNotSampled: Sampler
    ) {
        self.root = root
        self.remoteSampled = remoteSampled
        self.remoteNotSampled = remoteNotSampled
        self.localSampled = localSampled
        self.localNotSampled = localNotSampled
        description =
            "ParentBased{root:\(root),remoteParentSampled:\(remoteSampled),"
            + "remoteParentNotSampled:\(remoteNotSampled),localParentSampled:\(localSampled),"
            + "localParentNotSampled:\(localNotSampled)}"
    }

    /// Takes every parent's decision over.
    var followsParents: Bool {
        remoteSampled == .alwaysOn && localSampled == .alwaysOn && remoteNotSampled == .alwaysOff
            && localNotSampled == .alwaysOff
    }

    var isGeneral: Bool {
        [root, remoteSampled, remoteNotSampled, localSampled, localNotSampled].contains { $0.isGeneral }
    }

    func sampler(for parent: SpanContext) -> Sampler {
        if parent.isRemote { return parent.isSampled ? remoteSampled : remoteNotSampled }
        return parent.isSampled ? localSampled : localNotSampled
    }

    func shouldSample(_ parameters: SamplingParameters) -> SamplingResult {
        (parameters.parent.map(sampler(for:)) ?? root).sample(parameters)
    }
}

extension Sampler {
    /// Asks `root` where a trace begins; for a span with a parent, the sampler for that kind of parent. By default a
    /// parent's decision is taken over.
    public static func parentBased(
        _ root: Sampler, remoteParentSampled: Sampler = .alwaysOn, remoteParentNotSampled: Sampler = .alwaysOff,
        localParentSampled: Sampler = .alwaysOn, localParentNotSampled: Sampler = .alwaysOff
    ) -> Sampler {
        let parents = ParentSamplers(
            root: root, remoteSampled: remoteParentSampled, remoteNotSampled: remoteParentNotSampled,
            localSampled: localParentSampled, localNotSampled: localParentNotSampled)
        // The root's own view of parents does not matter: it is asked only where there is none.
        return Sampler(
            isGeneral: parents.isGeneral, share: root.share, parentRule: parents.followsParents ? .followed : .asked,
            parents: parents, policy: parents, parents.description)
    }
}
