/// A thread that serves connections, as the hub sees it. The hub's state for a loop is touched on that loop only.
public protocol DeliveryLoop: AnyObject, Sendable {
    func execute(_ work: @escaping @Sendable () -> Void)
    func schedule(after delay: Duration, _ work: @escaping @Sendable () -> Void)
}

/// The socket of one device, as the hub sees it. Called on the connection's loop only.
///
/// The hub sends straight to `descriptor`, which never blocks. Only when the kernel takes less than all does the rest go
/// through `write`, and nothing else is sent until that completes. A transport behind a codec has no such descriptor: one
/// behind TLS takes bytes through `send`, one in HTTP/2 gets all through `write`.
public protocol DeviceTransport: AnyObject {
    /// Valid until the hub is told, on the loop, that the subscription ended; negative where bytes need a codec.
    var descriptor: Int32 { get }
    /// The same as `send(2)` on a descriptor, where there is none: how many bytes are on their way, without blocking. The
    /// connection does not end in here.
    func send(_ bytes: UnsafeRawBufferPointer) -> Int
    /// The socket below, for the kernel's account of what the device's kernel has; negative where it is not known.
    var probedDescriptor: Int32 { get }
    /// Calls back on the loop, never before it returns: true when the kernel has taken every byte, false when the
    /// connection is gone.
    func write(_ bytes: ArraySlice<UInt8>, completion: @escaping (Bool) -> Void)
    /// Closes after `farewell` has been written, or at once where there is none. The transport then ends the
    /// subscription as for any other close, with this reason.
    func close(farewell: [UInt8]?, reason: CloseReason)
}

extension DeviceTransport {
    public func send(_ bytes: UnsafeRawBufferPointer) -> Int { 0 }
}
