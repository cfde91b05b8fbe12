import EventStreams
import PushPipeline
import Synchronization

/// An event stream behind an HTTP codec: TLS, HTTP/2, or a connection that has carried other requests before.
///
/// To the hub it is a device like any other whose socket takes nothing by itself: each buffer goes through `write`, one
/// at a time, and the response's body takes it out and says when the codec has it. Nothing else is queued.
final class CodecStream: DeviceTransport, Sendable {
    /// A buffer on its way to the codec. Finished once: by whoever takes it out, or as not written when nobody does.
    final class Write: Sendable {
        let bytes: ArraySlice<UInt8>
        private let completion: @Sendable (_ isWritten: Bool) -> Void
        private let isFinished = Atomic(false)

        init(_ bytes: ArraySlice<UInt8>, completion: @escaping @Sendable (_ isWritten: Bool) -> Void) {
            self.bytes = bytes
            self.completion = completion
        }

        func finish(_ isWritten: Bool) {
            if !isFinished.exchange(true, ordering: .relaxed) { completion(isWritten) }
        }

        deinit { finish(false) }
    }

    let descriptor: Int32 = -1
    let probedDescriptor: Int32
    /// Ends when the server closes the stream. At most one buffer of the hub's and one farewell wait in it.
    let writes: AsyncStream<Write>
    private let continuation: AsyncStream<Write>.Continuation
    private let hubLoop: HubLoop
    private let state = Mutex(State())

    private struct State: @unchecked Sendable {
        /// Touched on the hub's loop only.
        var subscription: Subscription?
        var closeReason = CloseReason.client
        var hasEnded = false
    }

    init(hubLoop: HubLoop, probedDescriptor: Int32) {
        self.hubLoop = hubLoop
        self.probedDescriptor = probedDescriptor
        (writes, continuation) = AsyncStream.makeStream()
    }

    /// Begins delivery with `opening`, the stream's first lines.
    func begin(_ request: SubscriptionRequest, channel: TenantChannel, opening: [UInt8]) {
        hubLoop.execute { [self] in
            guard !state.withLock({ $0.hasEnded }) else { return }
            let subscription = hubLoop.subscribe(request, channel: channel, opening: opening, transport: self)
            state.withLock { $0.subscription = subscription }
        }
    }

    /// Ends the subscription; whoever reads `writes` calls it when it stops.
    func end() {
        continuation.finish()
        hubLoop.execute { [self] in
            let (subscription, reason) = state.withLock { state in
                state.hasEnded = true
                defer { state.subscription = nil }
                return (state.subscription, state.closeReason)
            }
            if let subscription { hubLoop.unsubscribe(subscription, reason: reason) }
        }
    }

    // MARK: The hub's side

    func write(_ bytes: ArraySlice<UInt8>, completion: @escaping (Bool) -> Void) {
        let completion = OnLoop(completion)
        continuation.yield(
            Write(bytes) { [hubLoop] isWritten in hubLoop.execute { completion.value(isWritten) } })
    }

    func close(farewell: [UInt8]?) {
        state.withLock { $0.closeReason = farewell == nil ? .stalled : .drained }
        if let farewell { continuation.yield(Write(farewell[...]) { _ in }) }
        continuation.finish()
    }
}

/// Carries a value of the hub's loop to other threads and back, where alone it is used.
private struct OnLoop<Value>: @unchecked Sendable {
    let value: Value
    init(_ value: Value) { self.value = value }
}
