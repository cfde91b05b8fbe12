import CCurl

/// Several requests at once on one thread. Only `wakeUp` may be called from another.
final class CurlMulti: @unchecked Sendable {  // used by the exporter's thread; `curl_multi_wakeup` is thread-safe
    private let handle: UnsafeMutableRawPointer

    /// `curl_global_init` is not thread-safe in old versions: once, before the first handle.
    private static let global: Void = { curl_global_init(Int(CURL_GLOBAL_DEFAULT)) == CURLE_OK ? () : () }()

    /// Nil for want of memory.
    init?() {
        _ = Self.global
        guard let handle = curl_multi_init() else { return nil }
        self.handle = handle
    }

    deinit { curl_multi_cleanup(handle) }

    func wakeUp() { curl_multi_wakeup(handle) }

    func add(_ transfer: Transfer) { curl_multi_add_handle(handle, transfer.handle) }

    func remove(_ transfer: Transfer) { curl_multi_remove_handle(handle, transfer.handle) }

    /// Moves every request on.
    func perform() {
        var running: Int32 = 0
        curl_multi_perform(handle, &running)
    }

    /// A request that has ended, and how.
    func nextDone() -> (handle: UnsafeMutableRawPointer, result: CURLcode)? {
        var left: Int32 = 0
        while let message = curl_multi_info_read(handle, &left) {
            if message.pointee.msg == CURLMSG_DONE, let easy = message.pointee.easy_handle {
                return (easy, message.pointee.data.result)
            }
        }
        return nil
    }

    /// Waits for the network, for `wakeUp`, or so long.
    func wait(_ timeout: Duration) {
        curl_multi_poll(handle, nil, 0, Int32(clamping: max(0, timeout.milliseconds)), nil)
    }
}
