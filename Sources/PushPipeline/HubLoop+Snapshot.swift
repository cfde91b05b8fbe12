import EventStreams

/// The latest value of each key as of one place in the log, which a device gets before it goes live after that place.
///
/// Its frames carry no id: they come in no order that a cursor could stand for, so a device that is cut off meanwhile
/// asks for the whole snapshot again. The id comes with the event `isotherm.snapshot` at its end.
final class Snapshot: @unchecked Sendable {  // used by one reader at a time: the loop's, or the disk's thread for it
    var latest: LatestEvents?
    var sentCount = 0
}

extension HubLoop {
    func readSnapshot(_ snapshot: Snapshot, _ subscription: Subscription) {
        let stream = subscription.tenant.channel.stream
        let offset = subscription.position
        let filter = subscription.filter
        let byteLimit = configuration.maxQueuedBytes / 4
        let box = LoopConfined(subscription)
        offload { [self] in
            let result = Result { () throws(StreamError) -> [StoredEvent] in
                if snapshot.latest == nil { snapshot.latest = try stream.latest(upTo: offset, filter: filter) }
                return try snapshot.latest?.next(limit: 256, byteLimit: byteLimit) ?? []
            }
            loop.execute { self.received(result, of: snapshot, box.value) }
        }
    }

    private func received(
        _ result: Result<[StoredEvent], StreamError>, of snapshot: Snapshot, _ subscription: Subscription
    ) {
        guard subscription.state == .catchingUp else { return }
        let stream = subscription.tenant.channel.stream
        var buffer: [UInt8]
        var carried: [StoredEvent] = []
        switch result {
        case .success(let events) where events.isEmpty:
            subscription.snapshot = nil
            buffer = EventFrame.snapshotEnd(
                id: stream.id(epoch: stream.epoch, offset: subscription.position), count: snapshot.sentCount)
        case .success(let events):
            snapshot.sentCount += events.count
            carried = events
            buffer = []
            for event in events { buffer.append(contentsOf: EventFrame.withoutID(event, on: stream)) }
        case .failure(let error) where error.code == .corrupt:
            // That key has no value; the next read goes on behind it.
            metrics.resets(error.code.rawValue)
            return readSnapshot(snapshot, subscription)
        case .failure:
            return close(subscription, retry: configuration.retry, reason: .error)
        }
        if sendAll(buffer[...], to: subscription, carrying: carried) { advance(subscription) }
    }
}
