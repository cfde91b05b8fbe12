import CCurl

/// One response at a time that is read as it comes, in steps that block for a tenth of a second at most.
///
/// A multi handle rather than `curl_easy_perform`, whose progress callback comes only once a second on a quiet line.
final class StreamConnection {
    enum Progress {
        case waiting
        /// The response came to its regular end.
        case ended
        case failed(PushClientError)
    }

    static let pollInterval: Duration = .milliseconds(100)
    /// The most of a refusal's body that is read.
    static let maxRefusalBytes = 64 << 10

    private let transfer: CurlTransfer
    private let multi: UnsafeMutableRawPointer
    private let idleTimeout: Duration
    private var url = ""
    private var isAdded = false
    private var lastByte = ContinuousClock.now
    private var byteCount: curl_off_t = -1

    /// What has come; the caller empties the body after each step.
    var received: CurlTransfer.Received { transfer.received }

    init(connectTimeout: Duration, idleTimeout: Duration) throws(PushClientError) {
        transfer = try CurlTransfer()
        guard let multi = curl_multi_init() else {
            throw PushClientError(code: .connectionFailed, cause: "libcurl could not start; is memory short?")
        }
        self.multi = multi
        self.idleTimeout = idleTimeout
        isotherm_curl_set_long(transfer.handle, CURLOPT_HTTPGET, 1)
        isotherm_curl_set_long(transfer.handle, CURLOPT_CONNECTTIMEOUT_MS, connectTimeout.curlMilliseconds)
    }

    deinit {
        close()
        curl_multi_cleanup(multi)
    }

    func open(_ url: String, headers: [(String, String)]) throws(PushClientError) {
        close()
        self.url = url
        try transfer.prepare(url, headers: headers)
        curl_multi_add_handle(multi, transfer.handle)
        isAdded = true
        byteCount = -1
    }

    /// Ends the transfer; a response that is not complete takes its connection with it.
    func close() {
        guard isAdded else { return }
        curl_multi_remove_handle(multi, transfer.handle)
        isAdded = false
    }

    /// Takes what has come, and waits for more if that was nothing.
    func step() -> Progress {
        let before = received.body.count
        if let ended = perform() { return ended }
        guard received.body.count == before else { return .waiting }
        curl_multi_poll(multi, nil, 0, Int32(min(Self.pollInterval, idleTimeout).curlMilliseconds), nil)
        if let ended = perform() { return ended }
        return isIdle() ? .failed(idleError) : .waiting
    }

    /// How the transfer ended; nil while it runs.
    private func perform() -> Progress? {
        var running: Int32 = 0
        curl_multi_perform(multi, &running)
        var left: Int32 = 0
        while let message = curl_multi_info_read(multi, &left) {
            guard message.pointee.msg == CURLMSG_DONE else { continue }
            let result = message.pointee.data.result
            return result == CURLE_OK ? .ended : .failed(transfer.error(result, url))
        }
        return nil
    }

    /// Before the connection is there, its own timeout counts.
    private func isIdle() -> Bool {
        var connected: curl_off_t = 0
        isotherm_curl_get_offset(transfer.handle, CURLINFO_PRETRANSFER_TIME_T, &connected)
        guard connected > 0 else { return false }
        var size: curl_off_t = 0
        isotherm_curl_get_offset(transfer.handle, CURLINFO_SIZE_DOWNLOAD_T, &size)
        // A head counts as well; the very first call starts the clock.
        size += curl_off_t(received.headers.count)
        let now = ContinuousClock.now
        if size != byteCount {
            byteCount = size
            lastByte = now
        }
        return now - lastByte >= idleTimeout
    }

    private var idleError: PushClientError {
        PushClientError(
            code: .timedOut,
            cause: "\(displayed(url)) sent no byte for \(idleTimeout), the idle timeout; it should be longer than the "
                + "server's heartbeat",
            status: received.status == 0 ? nil : received.status)
    }
}
